"""Which version answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.routing import Canary, Shadow, entity_hash, parse_version, primary
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


ENTITIES = [f"card-{number}" for number in range(20_000)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.9, 1.0])
def test_a_canary_takes_its_share_of_the_entities(share: float) -> None:
    canary = Canary("2", share, "salt")

    taken = sum(map(canary.takes, ENTITIES)) / len(ENTITIES)

    assert taken == pytest.approx(share, abs=4 * (share * (1 - share) / len(ENTITIES)) ** 0.5)


@given(st.text(min_size=1), st.floats(0, 1), st.floats(0, 1), st.text(max_size=80))
def test_who_is_in_a_canary_stays_in_while_its_share_grows(entity: str, one: float, other: float, salt: str) -> None:
    small, large = sorted((one, other))

    assert not Canary("2", small, salt).takes(entity) or Canary("2", large, salt).takes(entity)


def test_nobody_without_a_key_is_in_a_canary() -> None:
    assert not Canary("2", 1.0).takes("")


def test_two_canaries_do_not_hit_the_same_cards() -> None:
    one, other = Canary("2", 0.1, "a"), Canary("2", 0.1, "b")

    both = sum(one.takes(entity) and other.takes(entity) for entity in ENTITIES) / len(ENTITIES)

    assert both == pytest.approx(0.01, abs=0.003)


def test_the_hash_of_an_entity_never_changes() -> None:
    """Every gateway, and every release, must send a card to the version that had it."""
    assert entity_hash("card-1", "fraud-tx-1-2") == 0x58A2690A12C85519
    assert entity_hash("card-1") == 0xB37CB9355B3EFFFB


def test_whoever_did_not_answer_is_asked_as_well() -> None:
    pair, noise = Shadow("e", "1", "2", 1.0), Shadow("e", "1", "1", 1.0)

    assert [pair.other(version) for version in ("1", "2", "3")] == ["2", "1", None]
    assert [noise.other(version) for version in ("1", "2")] == ["1", None]
    assert noise.noise
    assert not pair.noise
