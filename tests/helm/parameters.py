"""What values.yaml says of itself: the `## @param` and `## @section` comments that README.md is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.helm.chart import CHART

PARAMETER: Final = re.compile(r"^## @param (?P<path>\S+) (?:\[(?P<modifier>[^\]]+)\] )?(?P<said>.+)$")
SECTION: Final = re.compile(r"^## @section (?P<title>.+)$")


@dataclass(frozen=True)
class Parameter:
    """One documented value."""

    section: str
    path: tuple[str, ...]
    said: str

    @property
    def dotted(self) -> str:
        return ".".join(self.path)


def documented() -> list[Parameter]:
    """In the order of values.yaml."""
    return list(_read((CHART / "values.yaml").read_text().splitlines()))


def _read(lines: list[str]) -> Iterator[Parameter]:
    section = ""
    for line in lines:
        if found := SECTION.match(line):
            section = found["title"]
        elif found := PARAMETER.match(line):
            yield Parameter(section, tuple(found["path"].split(".")), found["said"])


def value_at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Raises: KeyError, the value is not there."""
    found: Any = tree
    for key in path:
        if not isinstance(found, Mapping):
            raise KeyError(key)
        found = found[key]
    return found
