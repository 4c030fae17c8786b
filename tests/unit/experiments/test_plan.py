from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from headrace.experiments import plan
from headrace.experiments.gates import DEFAULTS
from headrace.v1 import experiments_pb2 as pb


def test_a_plan_of_nothing_has_every_default() -> None:
    expected = pb.Plan(
        share=1,
        noise_share=0.1,
        timeout_ms=1_000,
        max_in_flight_rows=256,
        output="score",
        thresholds=[75],
        canary_shares=[0.01, 0.05, 0.25, 1],
        gates=DEFAULTS,
        label_delay_s=30 * 86_400,
    )

    assert plan.filled(pb.Plan(), "score", [75]) == expected


def test_what_is_said_stays_and_the_callers_message_is_left_alone() -> None:
    said = pb.Plan(share=0.5, noise_share=0, output="p", thresholds=[0.1, 0.2], canary_shares=[1], automatic=True)
    found = plan.filled(said, "score", [75])

    assert (found.share, found.noise_share, found.output, found.automatic) == (0.5, 0, "p", True)
    assert (list(found.thresholds), list(found.canary_shares)) == ([0.1, 0.2], [1])
    assert not said.HasField("gates")
    assert plan.filled(found, "", []) == found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("share", 1.5),
        ("share", -0.1),
        ("share", nan),
        ("noise_share", -0.1),
        ("noise_share", 2.0),
        ("timeout_ms", 60_001),
        ("max_in_flight_rows", 65_537),
        ("thresholds", [2, 1]),
        ("thresholds", [1, 1]),
        ("thresholds", [nan]),
        ("thresholds", [inf]),
        ("thresholds", range(9)),
        ("canary_shares", [0.1, 0.5]),
        ("canary_shares", [0.5, 0.1, 1]),
        ("canary_shares", [-0.5, 1]),
        ("canary_shares", [1, 2]),
        ("label_delay_s", -1.0),
        ("gates.alpha", pb.Gates(alpha=2)),
    ],
)
def test_what_cannot_be_is_named_by_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^plan\.{field}: "):
        plan.filled(pb.Plan(**{field.partition(".")[0]: value}), "score", [75])


def test_a_model_without_a_signal_must_be_told_what_to_compare() -> None:
    with pytest.raises(ValueError, match=r"^plan\.output: "):
        plan.filled(pb.Plan(), "", [75])
    with pytest.raises(ValueError, match=r"^plan\.thresholds: "):
        plan.filled(pb.Plan(), "p", [])
