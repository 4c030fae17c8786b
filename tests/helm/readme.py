"""Writes the table of values in helm/headrace/README.md, from the comments of values.yaml. `make chart-docs` calls it.

The comments are those that charts have had since Bitnami's: `## @section`, `## @param`. All above the heading
"Parameters" is written by hand.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tests.helm.chart import CHART, defaults
from tests.helm.parameters import Parameter, documented, value_at

README: Final = CHART / "README.md"
HEADING: Final = "## Parameters\n"
COLUMNS: Final = ("Name", "Description", "Value")


def table() -> str:
    """One table a section, in the order of values.yaml."""
    return HEADING + "".join(
        f"\n### {title}\n\n" + "\n".join(_rows(list(parameters))) + "\n"
        for title, parameters in itertools.groupby(documented(), lambda parameter: parameter.section)
    )


def _rows(parameters: Sequence[Parameter]) -> Iterator[str]:
    tree = defaults()
    cells = [(f"`{one.dotted}`", one.said.replace("|", "\\|"), _shown(value_at(tree, one.path))) for one in parameters]
    for row in (COLUMNS, ("---",) * len(COLUMNS), *cells):
        yield "| " + " | ".join(row) + " |"


def _shown(value: Any) -> str:
    """A mapping or a list that is not empty is better read in values.yaml."""
    if value and isinstance(value, dict | list):
        return "see values.yaml"
    return f"`{value}`" if value and isinstance(value, str) else f"`{json.dumps(value)}`"


def renewed(text: str) -> str:
    """A README with its table as it should be."""
    return text.partition(HEADING)[0] + table()


if __name__ == "__main__":
    README.write_text(renewed(README.read_text()))
