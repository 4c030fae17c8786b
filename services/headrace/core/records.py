"""What the hot path leaves behind for tracing: ids and timestamps, nothing encoded, nothing formatted.

Filled by the gateway alone: a replica sends its stamps with the answer. `Tracer` turns records into spans off the
event loop. Times are `perf_counter_ns` unless a name says wall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

FALLBACK: Final = "fallback"
"""The path of a request that somebody else has answered, and of what they were asked for it."""


class MayAsk(Protocol):
    """Who asks, as the door knows it."""

    @property
    def infer_models(self) -> Sequence[object]:
        """What its models are known by; empty = it may ask all."""

    def assert_may_ask(self, model: str) -> None:
        """Raises: NotPermitted."""


class ReplicaIdentity(NamedTuple):
    """Whom a batch was sent to, as the replica registered."""

    replica_id: str
    host: str = ""
    device: str = ""
    precision: str = ""


class Stages(NamedTuple):
    """When a batch passed each stage of its replica: that host's wall clock, ns; 0 = it did not get there."""

    received_ns: int
    started_ns: int
    unpacked_ns: int
    copied_ns: int
    computed_ns: int
    fetched_ns: int
    packed_ns: int


@dataclass(slots=True)
class Detour:
    """How an answer came about that its lane alone has not given. Few requests have one."""

    reason: str = ""
    """Why somebody else answered: deadline, overload or replica_loss. Empty = nobody else did."""
    by: str = ""
    """Who did: `version:1`, `model:small`, `prior`."""
    error: str = ""
    """What the version in charge ended with: the error's class name."""
    idempotency: str = ""
    """Of a request with a key: computed, joined, replayed or conflict. Empty = it has none."""
    original: tuple[bytes, int] | None = None
    """Trace and span of the request whose answer it was given."""


@dataclass(slots=True)
class RpcRecord:
    """One request, from its first byte to its answer: the spans `rpc`, `queue`, `execute` and the rider's `forward`."""

    trace_id: bytes
    span_id: int
    parent_id: int
    sampled: bool
    start_ns: int
    method: str = ""
    peer: str = ""
    """The caller's address as gRPC writes it."""
    tracestate: str = ""
    model: str = ""
    version: str = ""
    path: str = "primary"
    """primary, canary, shadow or fallback: in what capacity that version was asked."""
    request_id: str = ""
    rows: int = 0
    tokens: int = 0
    priority: int = 0
    queued_ns: int = 0
    """Admitted to its lane; 0 = refused before."""
    queue_depth: int = 0
    """Rows that waited in front of it."""
    closed_ns: int = 0
    """Its batch closed; 0 = it never left the queue."""
    settled_ns: int = 0
    end_ns: int = 0
    deadline_ns: int = 0
    """0 = the caller gave none."""
    code: str = "OK"
    """gRPC status name."""
    reason: str = ""
    """Why it was refused or failed: the error's class name."""
    detail: str = ""
    """The sentence its caller was told; for the log only."""
    row: int = -1
    """Its first row in the answer; -1 = it was never computed."""
    masked: str = ""
    """Why nobody waited for its row any more when it had been computed: the error's class name."""
    batch: BatchRecord | None = None
    caller: MayAsk | None = None
    """For what it may ask; told to nobody. None = nobody is asked who they are."""
    detour: Detour | None = None
    """None = its lane answered it, or failed to, and that is all."""

    def on_detour(self) -> Detour:
        """Its detour, which begins here where it has none."""
        self.detour = self.detour or Detour()
        return self.detour


@dataclass(slots=True)
class DispatchRecord:
    """One attempt to have a batch computed by one replica: `dispatch`, `replica.batch` and the stages."""

    span_id: int
    attempt: int
    replica: ReplicaIdentity
    start_ns: int
    end_ns: int = 0
    payload_bytes: int = 0
    error: str = ""
    """gRPC status name of a failed attempt."""
    stages: Stages | None = None
    """None = no word came back."""
    padded_tokens: int = 0
    expired: int = 0
    """Rows whose time was over when the forward pass began."""


@dataclass(slots=True)
class BatchRecord:
    """One packed batch: the span `batch` with a link to every member, and its attempts.

    A batch and its members are one family: they are told, kept or dropped together, when the last of them has ended.
    """

    trace_id: bytes
    span_id: int
    """Also the batch's id, `headrace.batch.id` in hex."""
    model: str
    version: str
    path: str
    """As of its members."""
    closed_ns: int
    close_reason: str
    """slot, rows, tokens, preferred, deadline or delay: what closed it."""
    oldest_ns: int = 0
    """When its oldest member was queued."""
    rows: int = 0
    tokens: int = 0
    members: list[RpcRecord] = field(default_factory=list)
    succeeded: int = 0
    """Members that were told what it has computed."""
    dispatches: list[DispatchRecord] = field(default_factory=list)
    settled_ns: int = 0
    unfinished: int = 0
    """How many of the batch and its members have not ended."""

    @property
    def answered(self) -> DispatchRecord | None:
        """The attempt that brought the answer."""
        last = self.dispatches[-1] if self.dispatches else None
        return last if last and last.stages and not last.error else None

    @property
    def sampled(self) -> bool:
        return any(member.sampled for member in self.members)
