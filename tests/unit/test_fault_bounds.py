"""What operators read of faults is what the fault suite holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.faults.bounds import BOUNDS, Bound


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_each_fault_has_its_row_with_its_bounds_and_its_test(root: Path, bound: Bound) -> None:
    path, name = bound.test.split("::")
    rows = [line for line in (root / "docs" / "operations.md").read_text().splitlines() if f"`{name}`" in line]

    assert len(rows) == 1
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert (cells[2], cells[3]) == (f"{bound.ended_s:g}", f"{bound.whole_s:g}")
    assert cells[5] == f"`{Path(path).name}` `{name}`"
    assert f"def {name}(" in (root / path).read_text()


def test_no_test_of_the_fault_suite_is_without_its_row(root: Path) -> None:
    found = {
        f"tests/faults/{path.name}::{name}"
        for path in (root / "tests" / "faults").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }

    assert found == {bound.test for bound in BOUNDS.values()}
