"""What many spans have in common, and what an encoder of spans must do. No span is ever an object here.

A form is a span with holes. An encoder turns it into a template once, and fills the template for every span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

INTERNAL, SERVER, CLIENT = 1, 2, 3
SCOPE: Final = "headrace"

Value = str | int | float | bool
Attributes = tuple[tuple[str, Value], ...]
Link = tuple[bytes, int]
"""(trace id, span id)."""


@dataclass(slots=True, eq=False)
class Form:
    """Compared and hashed by identity: encoders keep a template beside it."""

    name: str
    kind: int
    constants: Attributes
    doubles: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    strings: tuple[str, ...] = ()
    """Keys of the attributes that differ from span to span, by type; their values come in this order."""
    error: bool = False
    """The span's status."""
    event: tuple[str, str] | None = None
    """(name, reason) of the one event a span may carry, at its end."""

    @property
    def parent_is_remote(self) -> bool:
        """A server's parent lives in the caller's process."""
        return self.kind == SERVER


class Encoding(Protocol):
    """OTLP in one of its two forms."""

    def span(  # noqa: PLR0913, PLR0917  one call a span and no object: this is the hot end of the tracer's thread
        self,
        form: Form,
        trace_id: bytes,
        span_id: int,
        parent_id: int,
        start_ns: int,
        end_ns: int,
        values: tuple[float | int | str, ...] = (),
        links: bytes = b"",
        state: str = "",
    ) -> bytes:
        """One span. `parent_id` 0 = a root; times in Unix ns; `state` is the W3C tracestate."""
        ...

    def links(self, targets: Sequence[Link], dropped: int = 0, *, remote: bool = False) -> bytes:
        """A span's links, encoded once for all the spans that carry the same."""
        ...

    def request(self, sections: Sequence[tuple[Attributes, list[bytes]]]) -> bytes:
        """(resource, its spans) pairs as one export."""
        ...
