"""Spans as forms with holes, and what an encoder must do with them. No span is ever an object here.

A stencil is several spans that are always told together (a rider's four, a replica's five) as one template: it is
compiled once and filled with one call, so that what they share, their trace id first of all, is encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple, Protocol

INTERNAL, SERVER, CLIENT = 1, 2, 3
SCOPE: Final = "headrace"

Value = str | int | float | bool
Attributes = tuple[tuple[str, Value], ...]
Link = tuple[bytes, bytes]
"""(trace id, span id)."""


@dataclass(frozen=True, slots=True)
class Blank:
    """One span. What differs from one to the next is a name: the hole that `Stencil.fill` fills."""

    name: str
    kind: int
    constants: Attributes
    ids: tuple[str, str, str]
    """Holes of trace id, span id and parent's span id; no parent = "" in its place."""
    times: tuple[str, str]
    """Holes of start and end."""
    doubles: dict[str, str] | None = None
    """Attribute → hole, and so on by type."""
    integers: dict[str, str] | None = None
    strings: dict[str, str] | None = None
    extra: str = ""
    """Hole of links and tracestate, as `Encoding.links` and `Encoding.state` give them; "" = none."""
    error: bool = False
    """The span's status."""
    event: tuple[str, str] | None = None
    """(name, reason) of the one event a span may carry, at its end."""

    @property
    def parent_is_remote(self) -> bool:
        """A server's parent lives in the caller's process."""
        return self.kind == SERVER and bool(self.ids[2])


class Holes(NamedTuple):
    """The holes of some spans by type, each once, in the order of their first use: the order `fill` wants them in."""

    ids: tuple[str, ...]
    times: tuple[str, ...]
    doubles: tuple[str, ...]
    integers: tuple[str, ...]
    strings: tuple[str, ...]
    extras: tuple[str, ...]

    @classmethod
    def of(cls, blanks: Sequence[Blank]) -> Holes:
        def once(names: Sequence[Sequence[str]]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(name for name in chain(*names) if name))

        return cls(
            once([blank.ids for blank in blanks]),
            once([blank.times for blank in blanks]),
            once([tuple((blank.doubles or {}).values()) for blank in blanks]),
            once([tuple((blank.integers or {}).values()) for blank in blanks]),
            once([tuple((blank.strings or {}).values()) for blank in blanks]),
            once([(blank.extra,) for blank in blanks]),
        )


class Stencil(Protocol):
    """Some spans, ready to be filled."""

    spans: int
    holes: Holes

    def fill(
        self,
        ids: tuple[bytes, ...],
        times: tuple[int, ...],
        doubles: tuple[float, ...] = (),
        integers: tuple[int, ...] = (),
        strings: tuple[str, ...] = (),
        extras: tuple[bytes, ...] = (),
    ) -> bytes:
        """The spans, encoded. Ids are 16 and 8 bytes, times Unix ns, all in the order of `holes`."""
        ...


class Encoding(Protocol):
    """OTLP in one of its two forms."""

    def stencil(self, blanks: Sequence[Blank]) -> Stencil: ...

    def links(self, targets: Sequence[Link], dropped: int = 0, *, remote: bool = False) -> bytes:
        """A span's links, for its `extra` hole."""
        ...

    def state(self, tracestate: str) -> bytes:
        """A span's tracestate, for its `extra` hole."""
        ...

    def request(self, sections: Sequence[tuple[Attributes, list[bytes]]]) -> list[bytes]:
        """(resource, what was filled for it) pairs as one export, in pieces: who needs them joined may join them."""
        ...
