"""`preserve_ordering`: answers leave in the order in which their requests came, whatever came back first.

One per lane that asks for it. Holds wake-ups back, never outcomes: a rider is settled by whoever is first, as ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from headrace.core.inference import Answer
from headrace.core.rider import Rider


class Ordering:
    """The riders of a lane in the order of their coming."""

    def __init__(self) -> None:
        self._line: deque[tuple[Rider, Callable[[], None]]] = deque()

    def enter(self, rider: Rider, wake: Callable[[], None]) -> None:
        """A rider has come; `wake` is called when its turn to hear has."""
        self._line.append((rider, wake))

    def settled(self, rider: Rider, wake: Callable[[], None]) -> None:
        """A rider has its outcome: a refusal is told at once, an answer when everybody before it has one."""
        if not isinstance(rider.outcome, Answer):
            wake()
        while self._line and (first := self._line[0])[0].outcome is not None:
            self._line.popleft()
            if isinstance(first[0].outcome, Answer):
                first[1]()
