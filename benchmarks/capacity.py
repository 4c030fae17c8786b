"""How much a server takes when every answer is due in 50 ms: what an overload is a multiple of.

A closed loop says how much it gets through when nobody minds waiting; that figure is given beside it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import driving
import numpy as np

DEADLINE_MS = 50.0
SHARE_IN_TIME = 0.99
CONCURRENCY = 64
CLOSED_S = 4.0
TRY_S = 3.0
HIGHEST, LOWEST = 1.1, 0.1
"""Of the closed loop's rate: where the search begins, and where it gives up."""
STEP = 0.87


@dataclass(frozen=True, slots=True)
class Capacity:
    """Requests a second."""

    capacity_rps: float
    """The highest Poisson rate found at which 99 % were right in time, in most half seconds."""
    closed_rps: float
    """Closed loop at concurrency 64, however late."""

    def figures(self) -> dict[str, float]:
        return {name: round(value, 1) for name, value in asdict(self).items()}


async def find(address: str, questions: Path) -> Capacity:
    """Try rates from above, with short runs, until one is kept up with: a minute or so.

    From above, because a stall of the machine then costs one step. A bisection would never look up there again.
    Raises: RuntimeError when even the lowest rate is too much.
    """
    closed = await driving.closed_loop(address, questions, CONCURRENCY, CLOSED_S)
    for step, rate in enumerate(ladder(closed["rps"])):
        if await _keeps_up(address, questions, rate, step):
            return Capacity(rate, closed["rps"])
    raise RuntimeError(
        f"fewer than 99 % are in time even at {LOWEST:g} of the closed loop's {closed['rps']:.0f} a second"
    )


def ladder(closed_rps: float) -> list[float]:
    """The rates to try, highest first."""
    steps = int(np.log(LOWEST / HIGHEST) / np.log(STEP)) + 1
    return [closed_rps * HIGHEST * STEP**step for step in range(steps)]


async def _keeps_up(address: str, questions: Path, rate: float, step: int) -> bool:
    """One of two tries must do."""
    for attempt in range(2):
        found = await driving.open_loop(
            address, questions, rate, TRY_S, warm_up=0.5, deadline_ms=DEADLINE_MS, seed=2 * step + attempt
        )
        if in_time(found) >= SHARE_IN_TIME:
            return True
    return False


def in_time(found: dict[str, Any]) -> float:
    """The share of requests that were right in time, in the median half second.

    On a shared machine a stall of 30 ms fails a second's requests, at whatever rate. It spoils the half second that it
    falls into; a server that is asked too much has no good ones.
    """
    return float(np.median(found["right_shares"])) if found["right_shares"] else 0.0
