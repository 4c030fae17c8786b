"""Messages of pairs for tests: columns with what a case is about, the rest plain; figures of counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.experiments.confidence import rate_interval
from headrace.experiments.gates import DEFAULTS
from headrace.v1 import experiments_pb2 as pb

THRESHOLD = 75.0


def columns(incumbent: Sequence[float], challenger: Sequence[float], **fields: Any) -> pb.PairColumns:
    """Pairs of these values, a moment each, so that each is another."""
    return pb.PairColumns(**{"at_us": range(len(incumbent)), "incumbent": incumbent, "challenger": challenger} | fields)


def counts(sampled: int = 0, **drops: int) -> pb.SampleCounts:
    """Every request of a caller was answered by the incumbent and chosen."""
    return pb.SampleCounts(sampled=sampled, drops=drops, incumbent_requests=sampled)


def requests(incumbent: tuple[int, int] = (0, 0), challenger: tuple[int, int] = (0, 0)) -> dict[str, pb.Rate]:
    """Of callers: how many each side failed, of how many."""
    return {"incumbent_failures": rate(*incumbent), "challenger_failures": rate(*challenger)}


def scores(rng: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Before rounding: 25 is the top tenth, 50 the top hundredth, as risk scores are."""
    return np.minimum(rng.exponential(25 / np.log(10), n), 99.9)


def jittered(rng: np.random.Generator, n: int, spread: float = 1.0) -> tuple[Any, Any]:
    """Integer scores of one model, twice: bf16 in another batch rounds some of them otherwise."""
    exact = scores(rng, n)
    return np.floor(exact), np.floor(np.clip(exact + rng.normal(0, spread, n), 0, 99.9))


def rate(events: int, trials: int) -> pb.Rate:
    lower, upper = rate_interval(events, trials, DEFAULTS.alpha)
    return pb.Rate(events=events, trials=trials, interval=pb.Interval(lower=lower, upper=upper))


def figures(pairs: int, flips: int = 0, *, errors: int = 0, incumbent_errors: int = 0, **fields: Any) -> pb.Figures:
    """Of so many pairs, and as many requests answered by either side; nothing else is the matter with them."""
    plain: dict[str, Any] = {"sampled": pairs, "psi": 0.01, "batch_time_ratio": 1.0, "canary_pairs": pairs}
    plain |= requests((0, pairs), (0, pairs))
    return pb.Figures(
        pairs=pairs,
        flips=[pb.Flips(threshold=THRESHOLD, rate=rate(flips, pairs))],
        incumbent_errors=rate(incumbent_errors, pairs),
        challenger_errors=rate(errors, pairs),
        **plain | fields,
    )


def experiment(stage: pb.Stage = pb.STAGE_SHADOW, gates: pb.Gates | None = None) -> pb.Experiment:
    plan = pb.Plan(gates=gates, thresholds=[THRESHOLD], canary_shares=[0.01, 0.05, 0.25, 1])
    return pb.Experiment(id="a", stage=stage, plan=plan)
