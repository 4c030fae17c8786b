"""What the hot path leaves behind for tracing: ids and timestamps, nothing encoded, nothing formatted.

The gateway fills RpcRecord, BatchRecord and DispatchRecord, the replica ReplicaRecord. `Tracer` turns them
into spans off the event loop. Times are `perf_counter_ns` unless a name says wall.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class RpcRecord:
    """One request, from its first byte to its answer: the spans `rpc`, `queue`, `execute` and the rider's `forward`."""

    trace_id: bytes
    span_id: int
    parent_id: int
    sampled: bool
    start_ns: int
    method: str = ""
    model: str = ""
    version: str = ""
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
    row: int = 0
    """Its first row in the batch."""
    masked: bool = False
    """Its caller had gone before the answer came."""
    batch: BatchRecord | None = None


@dataclass(slots=True)
class DispatchRecord:
    """One attempt to have a batch computed by one replica: the span `dispatch`."""

    span_id: int
    attempt: int
    replica_id: str
    start_ns: int
    end_ns: int = 0
    payload_bytes: int = 0
    error: str = ""
    """gRPC status name of a failed attempt."""


@dataclass(slots=True)
class BatchRecord:
    """One packed batch: the span `batch` with a link to every member, and its attempts."""

    trace_id: bytes
    span_id: int
    """Also the batch's id, `headrace.batch.id` in hex."""
    model: str
    version: str
    path: str
    closed_ns: int
    close_reason: str
    """slot, rows, tokens, deadline or delay: what closed it."""
    oldest_ns: int = 0
    """When its oldest member was queued."""
    rows: int = 0
    tokens: int = 0
    members: list[RpcRecord] = field(default_factory=list)
    dispatches: list[DispatchRecord] = field(default_factory=list)
    settled_ns: int = 0
    forward_wall_ns: tuple[int, int] = (0, 0)
    """Begin and end of the replica's forward pass, its wall clock; zeros = no answer came."""
    forward_span_id: int = 0
    padded_tokens: int = 0

    @property
    def sampled(self) -> bool:
        return any(member.sampled for member in self.members)


@dataclass(slots=True)
class ReplicaRecord:
    """One batch at the replica: `replica.batch` with `unpack` and `forward`. Wall nanoseconds, anchored."""

    trace_id: bytes
    parent_id: int
    """The `dispatch` span."""
    span_id: int
    forward_span_id: int
    sampled: bool
    replica_id: str
    model: str
    version: str
    device: str
    received_wall_ns: int
    started_wall_ns: int
    unpacked_wall_ns: int
    forward_wall_ns: int
    computed_wall_ns: int
    packed_wall_ns: int
    rows: int
    tokens: int
    padded_tokens: int
    expired: int
