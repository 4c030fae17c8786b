"""Every law of invariants/ holds of every case, and of no release in which what it speaks of is wrong."""

from __future__ import annotations

import pytest
from tests.helm.breaking import BREAKS, broken, broken_for
from tests.helm.cases import CASES, EVERYTHING
from tests.helm.conftest import Rendered
from tests.helm.invariants import LAWS
from tests.helm.release import Release


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("law", LAWS)
def test_it_holds_that(rendered: Rendered, law: str, case: str) -> None:
    LAWS[law](rendered(CASES[case]))


@pytest.mark.parametrize("law", BREAKS)
def test_what_breaks_it_is_seen(rendered: Rendered, law: str) -> None:
    with pytest.raises(AssertionError):
        LAWS[law](broken_for(rendered(EVERYTHING), law))


@pytest.mark.slow
@pytest.mark.chart
@pytest.mark.timeout(900)
def test_each_of_the_others_is_broken_by_a_small_change(rendered: Rendered) -> None:
    """A law that no change can break says nothing."""
    unbroken = set(LAWS) - set(BREAKS)
    for release in broken(rendered(EVERYTHING)):
        unbroken = {law for law in unbroken if not _breaks(law, release)}
        if not unbroken:
            break

    assert unbroken == set()


def _breaks(law: str, release: Release) -> bool:
    """By what it asserts: that it stumbles over something else proves nothing."""
    try:
        LAWS[law](release)
    except AssertionError:
        return True
    except Exception:  # noqa: BLE001 - a name that is gone, a text that is no number
        return False
    return False
