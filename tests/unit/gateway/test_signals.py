"""A score belongs to the band that begins at or below it."""

from __future__ import annotations

import pytest

from headrace import config
from headrace.errors import StartupError
from headrace.gateway.signals import level_of
from headrace.v1 import risk_pb2

LOW, NORMAL, ELEVATED, HIGHEST = (
    risk_pb2.RISK_LEVEL_LOW,
    risk_pb2.RISK_LEVEL_NORMAL,
    risk_pb2.RISK_LEVEL_ELEVATED,
    risk_pb2.RISK_LEVEL_HIGHEST,
)


@pytest.mark.parametrize(
    ("score", "level"),
    [
        (0, LOW),
        (24, LOW),
        (25, NORMAL),
        (49, NORMAL),
        (50, ELEVATED),
        (74, ELEVATED),
        (75, HIGHEST),
        (99, HIGHEST),
    ],
)
def test_a_score_on_a_border_belongs_to_what_begins_there(score: int, level: int) -> None:
    assert level_of(score, config.Settings().risk.cuts) == level


def test_cut_points_may_lie_at_the_ends() -> None:
    assert [level_of(score, (0, 1, 99)) for score in (0, 1, 98, 99)] == [NORMAL, ELEVATED, ELEVATED, HIGHEST]


@pytest.mark.parametrize(
    ("cuts", "sentence"),
    [
        ({"risk__normal": 50}, "risk: Value error, the cut points must ascend: normal < elevated < highest"),
        ({"risk__highest": 40}, "the cut points must ascend"),
        ({"risk__highest": 100}, "risk.highest: Input should be less than or equal to 99"),
        ({"risk__normal": -1}, "risk.normal: Input should be greater than or equal to 0"),
    ],
)
def test_cut_points_that_cannot_be_stop_the_start(cuts: dict[str, int], sentence: str) -> None:
    with pytest.raises(StartupError, match=sentence):
        config.load(None, {}, **cuts)
