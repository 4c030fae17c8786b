"""Which version answers."""

from __future__ import annotations

import pytest

from headrace.core.routing import parse_version, primary
from headrace.errors import InvalidInference


def test_the_policy_names_the_version_and_the_highest_ready_one_answers_without_it() -> None:
    assert primary("", ["9", "10", "2"]) == "10"
    assert primary("2", ["9", "10"]) == "2"  # never another model than the one in charge
    assert primary("", []) is None


def test_versions_are_integers() -> None:
    assert parse_version("") == ""
    assert parse_version("007") == "7"
    for odd in ("x", "-1", "1.0", "١", " 1"):
        with pytest.raises(InvalidInference, match="failed to get model version"):
            parse_version(odd)
