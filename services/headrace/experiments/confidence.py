"""Intervals that hold at every look: whoever reads them each minute errs no more often than `alpha`, in all looks.

Pure arithmetic without scipy, which the server does not install. Called by figures and gates; decides nothing.

Rates. Under the true rate p, k events in n trials, the likelihood ratio of a beta mixture to p, `M(p) = B(a+k, b+n-k) /
B(a, b) / (p^k (1-p)^(n-k))`, is a martingale that begins at 1, so by Ville's inequality it ever reaches 1/alpha with a
chance of at most alpha. The interval is all p that it has not reached there.
**Source** Robbins, "Statistical methods related to the law of the iterated logarithm", 1970; Ville, 1939.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import lgamma, log, log1p
from typing import Final

PRIOR: Final = (0.5, 99.5)
"""Of the mixture, fixed before any pair is seen: half a per cent on average, as rare as the events it is for."""
STEPS: Final = 60
"""Halvings: an end is exact to 2^-60."""


@lru_cache(maxsize=65536)
def rate_interval(events: int, trials: int, alpha: float) -> tuple[float, float]:
    """All rates that `events` of `trials` leave possible, with 1 - alpha at all looks together; (0, 1) of no trials.

    **Raises** ValueError: more events than trials, or an alpha that is none.
    """
    if not 0 <= events <= trials:
        raise ValueError(f"{events} events of {trials} trials")
    _check(alpha)
    if not trials:
        return 0.0, 1.0

    a, b = PRIOR
    misses = trials - events
    mixture = _log_beta(a + events, b + misses) - _log_beta(a, b) + log(alpha)

    def excluded(p: float) -> bool:
        return mixture - (events * log(p) if events else 0.0) - (misses * log1p(-p) if misses else 0.0) >= 0

    rate = events / trials
    lower = _edge(excluded, 0.0, rate) if events else 0.0
    upper = _edge(excluded, 1.0, rate) if misses else 1.0
    return lower, upper


def _edge(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where `excluded` ends on the way from a rate of 0 or 1 to the rate that was seen."""
    for _ in range(STEPS):
        middle = (outside + inside) / 2
        if middle in (0.0, 1.0) or excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _check(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, not between 0 and 1")


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
