"""How an experiment is run: the defaults of a plan, and what cannot be. It knows no model and no settings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from headrace.experiments import limits
from headrace.experiments.limits import check
from headrace.v1 import experiments_pb2 as pb

SHARE: Final = 1.0
NOISE_SHARE: Final = 0.1
TIMEOUT_MS: Final = 1_000
MAX_TIMEOUT_MS: Final = 60_000
MAX_IN_FLIGHT_ROWS: Final = 256
MOST_IN_FLIGHT_ROWS: Final = 65_536
CANARY_SHARES: Final = (0.01, 0.05, 0.25, 1.0)
LABEL_DELAY_S: Final = 30 * 86_400.0
MOST_THRESHOLDS: Final = 8
"""Each is counted for every currency, and takes its part of alpha."""


def filled(plan: pb.Plan, default_output: str, default_thresholds: Sequence[float]) -> pb.Plan:
    """The plan with every default filled in. **Raises** ValueError: `plan.share: ...`, by the field's name."""
    found = pb.Plan()
    found.CopyFrom(plan)
    found.share = plan.share or SHARE
    found.noise_share = plan.noise_share if plan.HasField("noise_share") else NOISE_SHARE
    found.timeout_ms = plan.timeout_ms or TIMEOUT_MS
    found.max_in_flight_rows = plan.max_in_flight_rows or MAX_IN_FLIGHT_ROWS
    found.output = plan.output or default_output
    found.thresholds[:] = plan.thresholds or default_thresholds
    found.canary_shares[:] = plan.canary_shares or CANARY_SHARES
    found.label_delay_s = plan.label_delay_s or LABEL_DELAY_S
    try:
        found.gates.CopyFrom(limits.filled(plan.gates))
    except ValueError as exc:
        raise ValueError(f"plan.{exc}") from exc
    _check(found)
    return found


def _check(plan: pb.Plan) -> None:
    check("plan.share", plan.share, "a share: more than 0, at most 1", holds=0 < plan.share <= 1)
    check("plan.noise_share", plan.noise_share, "a share: 0 to 1", holds=0 <= plan.noise_share <= 1)
    for field, most in (("timeout_ms", MAX_TIMEOUT_MS), ("max_in_flight_rows", MOST_IN_FLIGHT_ROWS)):
        value = getattr(plan, field)
        check(f"plan.{field}", value, f"at most {most}", holds=value <= most)
    check("plan.label_delay_s", plan.label_delay_s, "more than 0", holds=plan.label_delay_s > 0)
    if not plan.output:
        raise ValueError("plan.output: the model has no signal, so it has to be said")
    _check_thresholds(plan.thresholds)
    _check_canary(plan.canary_shares)


def _check_thresholds(thresholds: Sequence[float]) -> None:
    if not 1 <= len(thresholds) <= MOST_THRESHOLDS:
        raise ValueError(f"plan.thresholds: {len(thresholds)}, not 1 to {MOST_THRESHOLDS}")
    for threshold in thresholds:
        check("plan.thresholds", threshold, "a number", holds=True)
    _check_ascending("plan.thresholds", thresholds)


def _check_canary(shares: Sequence[float]) -> None:
    for share in shares:
        check("plan.canary_shares", share, "a share: more than 0, at most 1", holds=0 < share <= 1)
    _check_ascending("plan.canary_shares", shares)
    if shares[-1] != 1:
        raise ValueError("plan.canary_shares: the last is not 1")


def _check_ascending(field: str, values: Sequence[float]) -> None:
    if any(a >= b for a, b in pairwise(values)):
        raise ValueError(f"{field}: not ascending")
