"""Every law of invariants/ holds of every case; a law that a broken release does not break is none."""

from __future__ import annotations

import pytest
from tests.helm.cases import CASES
from tests.helm.conftest import Rendered
from tests.helm.invariants import LAWS


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("law", LAWS)
def test_it_holds_that(rendered: Rendered, law: str, case: str) -> None:
    LAWS[law](rendered(CASES[case]))
