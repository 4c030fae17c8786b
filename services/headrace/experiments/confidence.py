"""Intervals that hold at every look."""

from __future__ import annotations


def rate_interval(events: int, trials: int, alpha: float) -> tuple[float, float]:
    """All rates that `events` of `trials` leave possible, at every look together."""
    raise NotImplementedError


def mean_interval(mean: float, deviation: float, n: int, alpha: float, n_plan: int) -> tuple[float, float]:
    """All means that n values leave possible, at every look together."""
    raise NotImplementedError
