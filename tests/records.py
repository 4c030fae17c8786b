"""Records as the gateway leaves them behind, and an encoding that keeps spans as they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from headrace.core.records import BatchRecord, DispatchRecord, ReplicaIdentity, RpcRecord, Stages
from headrace.telemetry.form import Attributes, Blank, Holes, Link

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

    blank: Blank
    trace_id: bytes
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: tuple[Link, ...]
    dropped_links: int
    links_are_remote: bool
    state: str

    @property
    def name(self) -> str:
        return self.blank.name


class Telling:
    """An encoding that encodes nothing: `spans` has them in order."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self._extras: list[dict[str, Any]] = []

    def stencil(self, blanks: Sequence[Blank]) -> TellingStencil:
        return TellingStencil(self, blanks)

    def links(self, targets: Sequence[Link], dropped: int = 0, *, remote: bool = False) -> bytes:
        self._extras.append({"links": tuple(targets), "dropped_links": dropped, "links_are_remote": remote})
        return f"<{len(self._extras) - 1}>".encode()

    def state(self, tracestate: str) -> bytes:
        self._extras.append({"state": tracestate})
        return f"<{len(self._extras) - 1}>".encode()

    def extras(self, names: bytes) -> dict[str, Any]:
        """What `links` and `state` were told, by the names they gave back."""
        found: dict[str, Any] = {"links": (), "dropped_links": 0, "links_are_remote": False, "state": ""}
        for name in names.decode().strip("<>").split("><") if names else ():
            found |= self._extras[int(name)]
        return found

    def request(self, sections: Sequence[tuple[Attributes, list[bytes]]]) -> list[bytes]:
        return [repr(sections).encode()]


class TellingStencil:
    def __init__(self, telling: Telling, blanks: Sequence[Blank]) -> None:
        self._telling, self._blanks = telling, blanks
        self.spans, self.holes = len(blanks), Holes.of(blanks)

    def fill(self, *groups: Any) -> bytes:
        given = (*groups, *[()] * (6 - len(groups)))
        values: dict[str, Any] = {"": b""}
        for names, some in zip(self.holes, given, strict=True):
            values |= zip(names, some, strict=True)
        for blank in self._blanks:
            trace_id, span_id, parent_id = (values[name] for name in blank.ids)
            varying = {**(blank.doubles or {}), **(blank.integers or {}), **(blank.strings or {})}
            self._telling.spans.append(
                Told(
                    blank,
                    trace_id,
                    int.from_bytes(span_id),
                    int.from_bytes(parent_id),
                    *(values[name] for name in blank.times),
                    {**dict(blank.constants), **{key: values[name] for key, name in varying.items()}},
                    **self._telling.extras(values[blank.extra]),
                )
            )
        return b"spans"
