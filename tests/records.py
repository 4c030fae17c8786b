"""Records as the gateway leaves them behind, and an encoding that keeps spans as they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from headrace.core.records import BatchRecord, DispatchRecord, ReplicaIdentity, RpcRecord, Stages
from headrace.telemetry.form import Attributes, Form, Link

TRACE = bytes(range(16))
MS = 1_000_000
REPLICA = ReplicaIdentity("replica-b", "node-7", "cpu", "float32")


def rider(number: int = 1, *, code: str = "OK", reason: str = "", queued: bool = True, **more: Any) -> RpcRecord:
    """A request that came 1 ms in, waited till 2, was answered at 3 and ended at 3.5."""
    values: dict[str, Any] = {
        "trace_id": TRACE[:-1] + bytes([number]),
        "span_id": 1000 + number,
        "parent_id": 0,
        "sampled": True,
        "start_ns": 1 * MS,
        "method": "inference.GRPCInferenceService/ModelInfer",
        "peer": "ipv4:10.1.2.3:5000",
        "model": "fraud-tx",
        "version": "1",
        "request_id": 'é"1%',
        "rows": 1,
        "tokens": 40,
        "queued_ns": 1_100_000 if queued else 0,
        "settled_ns": 3 * MS,
        "end_ns": 3_500_000,
        "deadline_ns": 9 * MS,
        "code": code,
        "reason": reason,
    }
    return RpcRecord(**(values | more))


def batch_of(*members: RpcRecord, answered: bool = True) -> BatchRecord:
    """A batch whose first replica was lost and whose second answered, or failed as well."""
    stages = Stages(*(n * MS for n in (100, 101, 105, 111, 222, 223, 230)))
    second = DispatchRecord(6, 2, REPLICA, 2_550_000, 2_900_000, 900, stages=stages, padded_tokens=64, expired=1)
    if not answered:
        second.error, second.stages = "INTERNAL", Stages(100 * MS, 101 * MS, 0, 0, 0, 0, 130 * MS)
    record = BatchRecord(
        trace_id=b"b" * 16,
        span_id=77,
        model="fraud-tx",
        version="1",
        path="primary",
        closed_ns=2 * MS,
        close_reason="slot",
        oldest_ns=1_100_000,
        rows=len(members),
        tokens=40 * len(members),
        members=list(members),
        dispatches=[
            DispatchRecord(5, 1, ReplicaIdentity("replica-a"), 2_050_000, 2_500_000, 900, "UNAVAILABLE"),
            second,
        ],
        settled_ns=3 * MS,
    )
    for row, member in enumerate(members):
        member.batch, member.closed_ns, member.row = record, 2 * MS, row if answered else -1
    return record


class Told(NamedTuple):
    """One span, as the catalogue tells it."""

    form: Form
    trace_id: bytes
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    values: tuple[float | int | str, ...]
    links: tuple[Link, ...]
    dropped_links: int
    links_are_remote: bool
    state: str

    @property
    def name(self) -> str:
        return self.form.name

    @property
    def attributes(self) -> dict[str, Any]:
        keys = (*self.form.doubles, *self.form.integers, *self.form.strings)
        return {**dict(self.form.constants), **dict(zip(keys, self.values, strict=True))}


class Telling:
    """An encoding that encodes nothing: `spans` has them in order."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self._links: dict[bytes, tuple[tuple[Link, ...], int, bool]] = {b"": ((), 0, False)}

    def span(self, *told: Any) -> bytes:
        form, trace_id, span_id, parent_id, start_ns, end_ns, values, links, state = (
            *told,
            *((), b"", "")[len(told) - 6 :],
        )
        targets = self._links[links]
        self.spans.append(Told(form, trace_id, span_id, parent_id, start_ns, end_ns, values, *targets, state))
        return b"span"

    def links(self, targets: Sequence[Link], dropped: int = 0, *, remote: bool = False) -> bytes:
        name = str(len(self._links)).encode()
        self._links[name] = (tuple(targets), dropped, remote)
        return name

    def request(self, sections: Sequence[tuple[Attributes, list[bytes]]]) -> bytes:
        return repr(sections).encode()
