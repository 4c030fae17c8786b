"""One question and its answer, as every room of the gateway speaks of them. Values only; no protobuf, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from headrace.core.tensors import ModelSpec

MAX_KEY: Final = 256
"""Characters of an entity's key or an event's id."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom and what a request is about, as its caller says: for routing and comparison, never an input of a model."""

    entity: str = ""
    """Key of the card, or of whatever must not hop between versions; empty = unknown."""
    event_id: str = ""
    """The payment's id, for its outcome."""
    amount: float = float("nan")
    currency: str = ""


UNKNOWN: Final = Subject()


class SequenceStep(NamedTuple):
    """Which sequence a request belongs to, and where in it."""

    name: int | str
    """7 and "7" are two."""
    start: bool = False
    end: bool = False
    caller: str = ""
    """Whose it is: two callers who use one name have two sequences."""

    @property
    def key(self) -> tuple[str, int | str]:
        return self.caller, self.name


@dataclass(slots=True)
class Inference:
    """One decoded request: its columns are still the caller's bytes, checked for shape and size only."""

    spec: ModelSpec
    columns: list[bytes]
    """One entry per input of the spec, in its order, all rows of the request one after the other."""
    rows: int
    lengths: tuple[int, ...]
    """Per ragged axis: the length of each of the request's rows, where they are equal (see `row_lengths`)."""
    tokens: int
    """Events in it, summed over rows and axes, at least one a row; more where it asks for extras."""
    deadline: float
    """When its caller stops waiting, on the gateway's clock, seconds."""
    priority: int = 0
    """1 = the highest; 0 = it names none."""
    timeout_s: float = 0.0
    """How long it wants to wait for a batch at most; 0 = it does not say."""
    id: str = ""
    outputs: tuple[int, ...] = ()
    """Positions in the spec's `answers` of what was asked for, in the caller's order."""
    wants_extras: bool = False
    """It asked for an output that is only computed for those who do."""
    classes: tuple[int, ...] = ()
    """For each of `outputs` how many of its highest values are told as text, 0 = the tensor; () = of none."""
    truncated: dict[str, int] = field(default_factory=dict)
    """Axis → oldest entries dropped because the row was longer than the cap."""
    row_lengths: tuple[tuple[int, ...], ...] | None = None
    """For each row its length on every axis, where the rows differ; `lengths` says nothing then.

    None = they are equal, as they always are on the Open Inference Protocol: its batches pay nothing for this.
    """
    subjects: tuple[Subject, ...] = ()
    """What each row is about; fewer than there are rows = nothing is known of the others."""
    compared: bool = False
    """The policy chose who answers it. One that names its version itself is in nobody's experiment."""


@dataclass(slots=True)
class Answer:
    """What one rider gets back."""

    columns: list[bytes]
    """One entry per output of the spec, and per extra where it asked for one; this rider's rows only."""
    batch_id: int
    batch_rows: int
    queue_us: int
    path: str = "primary"
    """In what capacity the version that gave it was asked."""

    @property
    def hex_id(self) -> str:
        """Its batch, as traces and logs call it."""
        return f"{self.batch_id:016x}"
