"""What the gateways ask of a replica's version: the last word of each, for as long as it counts.

Serve's controller is told the sum several times a second, and `serving/scaling.py` makes a number of replicas of it.

A gateway speaks with its batches, so one that has nothing to send falls silent. Its word counts while the replica
holds a batch of it, and `FORGET_S` longer; after that it asks for nothing. So a replica that nobody asks says so: no
work, in figures, and the version shrinks when its delay is over. A replica that says nothing at all (it is starting,
or cannot be reached) is no figure, and holds the number. A gateway that is cut off from every replica looks like one
that has no callers: `downscale_delay_s` is how long that may last.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from headrace.serving.scaling import BACKLOG, SLACK, WORK
from headrace.v1 import replica_pb2

FORGET_S: Final = 2.0
MOST: Final = 1e6
"""What any figure can be: more is nonsense, and sums of it might be no number any more."""


class Asker(NamedTuple):
    """Who speaks: the copies of a gateway are asked for apart from what its callers wait for."""

    gateway_id: str
    shadow: bool


@dataclass(slots=True)
class Word:
    """What one of them said last: this replica's part of it."""

    backlog_s: float = 0.0
    work: float = 0.0
    slack_s: float = math.inf
    at: float = 0.0
    """When its last batch came or went."""
    held: int = 0
    """Batches of it that are here."""


class Demand:
    """Filled by the replica's server, read by Serve. Owned by one event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._words: dict[Asker, Word] = {}

    def came(self, batch: replica_pb2.PackedBatch) -> None:
        """A batch is here; a gateway that does not say over how many replicas it spreads its lane says nothing."""
        if not batch.replicas:
            return
        word = self._word(batch)
        word.held += 1
        word.at = self._now()
        word.backlog_s = _positive(batch.backlog_s) / batch.replicas
        word.work = _positive(batch.work) / batch.replicas
        word.slack_s = _positive(batch.slack_s, otherwise=math.inf)

    def went(self, batch: replica_pb2.PackedBatch) -> None:
        """It is answered, or given up."""
        if batch.replicas:
            word = self._word(batch)
            word.held -= 1
            word.at = self._now()

    def report(self) -> dict[str, float]:
        """The parts of backlog and work that fall to it, and the least slack: left out while nobody waits.

        Serve averages each over time, where one infinity would drown the rest.
        """
        self._forget()
        words = self._words.values()
        slack_s = min((word.slack_s for word in words), default=math.inf)
        backlog_s, work = sum((word.backlog_s for word in words), 0.0), sum((word.work for word in words), 0.0)
        report = {BACKLOG: backlog_s, WORK: work}
        return report if math.isinf(slack_s) else {**report, SLACK: slack_s}

    def _word(self, batch: replica_pb2.PackedBatch) -> Word:
        asker = Asker(batch.gateway_id, batch.shadow)
        word = self._words.get(asker)
        if word is None:
            self._forget()  # gateways come and go for ever, and perhaps nobody reads this
            word = self._words[asker] = Word()
        return word

    def _forget(self) -> None:
        silent = self._now() - FORGET_S
        for asker in [asker for asker, word in self._words.items() if not word.held and word.at < silent]:
            del self._words[asker]


def _positive(figure: float, otherwise: float = 0.0) -> float:
    """A figure from the wire, unless it is none: Serve's controller sums what all replicas say."""
    return min(max(0.0, figure), MOST) if math.isfinite(figure) else otherwise
