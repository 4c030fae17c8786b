"""What callers got of one version while it was compared: how many asked, how many it failed, how long they waited.

Compared or not: what callers get is no matter of samples. Every payment comes by here, so one that was answered leaves
a number on a list, and numbers are sorted into buckets a few hundred at a time.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from headrace.core import octaves
from headrace.core.inference import Answer
from headrace.errors import Cancelled, DeadlinePassed, HeadraceError, Overloaded
from headrace.gateway.blame import ERRORS

MANY: Final = 256
"""Answers that wait to be sorted: some 0.1 ms of work, in which no payment is answered."""


class Got(NamedTuple):
    """What is counted of one version's callers."""

    requests: int
    failures: int
    took: Counter[int]
    """Those who were answered, and those who waited in vain, by `octaves`."""


class Callers:
    """Of one version, in one comparison."""

    def __init__(self) -> None:
        self._answered_s: list[float] = []
        self._requests = 0
        self._failures = 0
        self._took: Counter[int] = Counter()

    @property
    def got(self) -> Got:
        """Since it was emptied the last time."""
        self._sort()
        return Got(self._requests, self._failures, self._took)

    def take(self) -> Got:
        """The same; it is empty then."""
        taken = self.got
        self._requests = self._failures = 0
        self._took = Counter()
        return taken

    def asked(self, outcome: Answer | HeadraceError, took_s: float) -> None:
        """Count one who waited so long in the queue and at a replica."""
        if isinstance(outcome, Answer):
            self._answered_s.append(took_s)
            if len(self._answered_s) >= MANY:
                self._sort()
            return
        # What failed at once was not late: it has failed. Who left has waited so long at least.
        if isinstance(outcome, Cancelled):
            self._took[octaves.bucket(int(took_s * 1e6))] += 1
        elif isinstance(outcome, DeadlinePassed):
            self._took[octaves.NEVER] += 1
        self.refused(outcome)

    def refused(self, error: HeadraceError) -> None:
        """Count one who got no answer, and perhaps never had a place to wait in."""
        if type(error) in ERRORS or isinstance(error, Overloaded):  # anything else is the caller's own doing
            self._requests += 1
            self._failures += 1

    def _sort(self) -> None:
        self._requests += len(self._answered_s)
        self._took.update(octaves.bucket(int(took_s * 1e6)) for took_s in self._answered_s)
        self._answered_s.clear()
