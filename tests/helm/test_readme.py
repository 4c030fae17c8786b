"""The README of the chart tells what values.yaml tells."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helm import readme
from tests.helm.parameters import documented


def test_the_table_is_that_of_the_comments() -> None:
    text = readme.README.read_text()

    assert readme.renewed(text) == text, "run make chart-docs, commit"


def test_every_value_has_its_line() -> None:
    lines = re.findall(r"^\| `(\S+)`", readme.README.read_text(), re.MULTILINE)

    assert lines == [parameter.dotted for parameter in documented()]


def test_every_path_and_link_leads_somewhere(root: Path) -> None:
    text = readme.README.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]

    assert links
    assert [link for link in links if not (root / "helm" / "headrace" / link).exists()] == []
