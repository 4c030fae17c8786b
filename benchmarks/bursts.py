"""W5: W1's requests at 0.3 of the capacity, ten times that for 200 ms every 2 s; deadlines of 50 ms.

Goodput, latency inside and outside the bursts, and how long after a burst requests are as fast as before it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asking
import capacity
import driving
import numpy as np
import numpy.typing as npt
import outcomes
from arrivals import Bursts
from trail import Trail

from headrace.cluster import Cluster

BURSTS = Bursts(factor=10.0, length_s=0.2, period_s=2.0)
BASE = 0.3
SECONDS = 20.0
BIN_S = 0.05
"""Recovery is known to so many seconds: each bin holds the same moments after every burst of the run."""
SLOWER = 2.0
"""Recovered: the p99 of a bin is below so many times the quiet one."""
COMMON = {"workload": "W5", "system": "headrace", "tracing": True, "load": "bursts-10x"}


async def measure(
    cluster: Cluster, limits: capacity.Capacity | None = None, seconds: float = SECONDS
) -> list[dict[str, Any]]:
    """One run. The cluster serves `w1-encoder`; its capacity is looked for where it is not given."""
    questions = await asyncio.to_thread(asking.w1_events)
    limits = limits or await capacity.find(cluster.address, questions)
    path = questions.with_name("w5-table.npz")
    found = await driving.open_loop(
        cluster.address,
        questions,
        BASE * limits.capacity_rps,
        seconds,
        # A whole period: the bursts of the table then are where `Bursts` says, from its beginning.
        warm_up=BURSTS.period_s,
        burst=BURSTS.factor,
        burst_ms=BURSTS.length_s * 1e3,
        burst_every=BURSTS.period_s,
        deadline_ms=capacity.DEADLINE_MS,
        table=path,
    )
    return [{**COMMON, **found, **around_bursts(Trail.read(path)), **limits.figures()}]


def around_bursts(trail: Trail) -> dict[str, float | int | None]:
    """Latencies are of the requests that were right in time."""
    inside, right, refused = BURSTS.inside(trail.intended_s), trail.ended(outcomes.RIGHT), trail.ended(outcomes.REFUSED)
    return {
        **outcomes.percentiles("inside_", trail.latency_s[inside & right], (50, 99)),
        **outcomes.percentiles("outside_", trail.latency_s[~inside & right], (50, 99)),
        "inside_right_share": _share(right[inside]),
        "outside_right_share": _share(right[~inside]),
        "inside_refused": int(refused[inside].sum()),
        "outside_refused": int(refused[~inside].sum()),
        "recovery_ms": recovery_ms(trail),
    }


def recovery_ms(trail: Trail) -> float | None:
    """From the end of a burst to the end of the first bin that is quiet again; None = none is before the next burst.

    Quiet is the second half of what lies between bursts. A request that got no right answer in time counts as one that
    waited for ever.
    """
    phase, right = BURSTS.phase_s(trail.intended_s), trail.ended(outcomes.RIGHT)
    quiet_s = BURSTS.period_s - BURSTS.length_s
    after_a_burst = trail.intended_s >= BURSTS.period_s
    waited = np.where(right, trail.latency_s, np.inf)
    calm = (phase >= quiet_s / 2) & (phase < quiet_s)
    if not (calm & right).any():
        return None
    bar = SLOWER * _p99(waited[calm & right])
    for begin in np.arange(0.0, quiet_s, BIN_S):
        here = after_a_burst & (phase >= begin) & (phase < begin + BIN_S)
        if here.any() and _p99(waited[here]) <= bar:
            return round(float(begin + BIN_S) * 1e3)
    return None


def _p99(values: npt.NDArray[np.float64]) -> float:
    # A value that was seen: between a finite one and infinity there is nothing to interpolate.
    return float(np.percentile(values, 99, method="lower"))


def _share(right: npt.NDArray[np.bool_]) -> float | None:
    return round(float(right.mean()), 4) if len(right) else None
