"""What the tracer's thread asks of a place for spans: `collector` is one, `trace_files` the other.

Whatever happens there is counted, and never reaches a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import NamedTuple, Protocol

from headrace.telemetry.form import Attributes, Encoding

Sections = Sequence[tuple[Attributes, list[bytes]]]


class Outcome(NamedTuple):
    """What became of one export, in spans."""

    exported: int = 0
    rejected: int = 0
    """The collector took the others."""
    failed: int = 0

    def plus(self, other: Outcome) -> Outcome:
        return Outcome(*map(add, self, other))


class Exporter(Protocol):
    """A place for spans."""

    encoding: Encoding
    page_spans: int
    """How many spans it likes to get at a time."""

    def ready(self) -> bool:
        """False while it is no use to try: what is to be told waits."""
        ...

    def try_now(self) -> None:
        """Be ready once more, whatever happened before: the process is about to end."""
        ...

    def export(self, sections: Sections, spans: int, *, keep: bool) -> Outcome:
        """Deliver so many spans. `keep`: these are worth more than others when there is no room for all."""
        ...

    def retry(self) -> Outcome:
        """Deliver what could not be delivered before."""
        ...

    def interrupt(self) -> None:
        """End what is under way, from another thread."""
        ...

    def close(self) -> Outcome:
        """Give up what could not be delivered."""
        ...
