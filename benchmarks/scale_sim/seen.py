"""What policies are shown: each of them reads its own part of the same figures, as old as its way makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Seen:
    """One run at the end of a tick."""

    now_s: float
    target: int
    """What was decided last."""
    serving: int
    ordered: int
    """Serving or on their way."""
    begun: int
    """Of `serving`: those that began with this tick."""
    backlog_s: float
    """Replica-seconds that wait."""
    work: float
    """Replica-seconds that arrive in a second at full batches, faded over a second, refused ones included."""
    slack_s: float
    """Least time that one who waits has beyond its run; infinity where none waits."""
    ongoing: float
    """Rows that wait or ride."""
    busy_s: float
    """Processor seconds that a replica has used since it began, if it was there from the first."""


class Policy(Protocol):
    def decide(self, seen: Seen) -> int | None:
        """How many replicas there should be from now on; None: as many as were decided last. Once a tick."""
        ...
