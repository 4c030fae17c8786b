"""The flip rate of an experiment over time: a point at each move and one in ten seconds, thinned when they are many."""

from __future__ import annotations

from typing import Final

from headrace.control.ledger import Ledger
from headrace.v1 import experiments_pb2 as pb

PERIOD_US: Final = 10_000_000
MOST_POINTS: Final = 1440
"""At so many, every second one goes; those of the moves stay."""


class Timeline:
    """One experiment's. Raises: NotServing, from every method that reads or writes."""

    def __init__(self, ledger: Ledger, experiment: str) -> None:
        self._ledger = ledger
        self._experiment = experiment
        ((last,),) = ledger.rows("SELECT MAX(at_us) FROM timeline WHERE experiment = ?", (experiment,))
        self._last_us = last or 0

    def due(self, now_us: int) -> bool:
        """It is time for a point."""
        return now_us - self._last_us >= PERIOD_US

    def points(self) -> list[pb.Point]:
        """The oldest first."""
        found = self._ledger.rows(
            "SELECT at_us, stage, events, trials, lower, upper FROM timeline WHERE experiment = ? ORDER BY at_us",
            (self._experiment,),
        )
        return [_point(*values) for values in found]

    def mark(self, figures: pb.Figures, stage: pb.Stage, now_us: int, *, moved: bool) -> None:
        """Enter a point, in the caller's transaction: the flips at the worst threshold."""
        rate = max((flips.rate for flips in figures.flips), key=lambda rate: rate.events, default=pb.Rate())
        ends = rate.interval.lower, rate.interval.upper
        self._ledger.execute(
            "INSERT OR REPLACE INTO timeline VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (self._experiment, now_us, pb.Stage.Name(stage), moved, rate.events, rate.trials, *ends),
        )
        self._last_us = now_us
        self._thin()

    def _thin(self) -> None:
        of_time = "FROM timeline WHERE experiment = ? AND NOT moved"
        ((count,),) = self._ledger.rows(f"SELECT COUNT(*) {of_time}", (self._experiment,))
        if count < MOST_POINTS:
            return
        self._ledger.execute(
            "DELETE FROM timeline WHERE experiment = ? AND at_us IN (SELECT at_us FROM"  # noqa: S608  nor here
            f" (SELECT at_us, ROW_NUMBER() OVER (ORDER BY at_us) AS number {of_time}) WHERE number % 2 = 0)",
            (self._experiment, self._experiment),
        )


def _point(at_us: int, stage: str, events: int, trials: int, lower: float, upper: float) -> pb.Point:
    rate = pb.Rate(events=events, trials=trials, interval=pb.Interval(lower=lower, upper=upper))
    point = pb.Point(flips=rate, stage=stage)
    point.at.FromMicroseconds(at_us)
    return point
