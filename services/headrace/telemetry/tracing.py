"""The tracer: takes records on the hot path, turns them into spans in a thread of its own.

A record costs its maker one append to a ring. The ring is bounded: what does not fit is dropped and counted.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from opentelemetry.sdk.resources import Resource

from headrace.config import TelemetrySettings
from headrace.core.records import BatchRecord, ReplicaRecord, RpcRecord
from headrace.telemetry import catalogue
from headrace.telemetry.catalogue import Attributes, Span
from headrace.telemetry.export import exporter

log = logging.getLogger(__name__)

RING: Final = 65_536
"""Records that may wait for the thread."""
FLUSH_S: Final = 0.1
SLICE: Final = 256
"""Spans encoded in one go: short enough that the interpreter lock is never held for long."""

Work = tuple[Callable[[RpcRecord], Iterator[Span]] | Callable[..., Iterator[Span]], object]


@dataclass(frozen=True, slots=True)
class TracerStatistics:
    """What became of the records and spans so far."""

    recorded: int
    exported: int
    """Spans that arrived."""
    dropped: int
    """Records that found the ring full."""
    failed: int
    """Spans that could not be delivered."""


class Tracer:
    """One a process."""

    def __init__(self, service: str, settings: TelemetrySettings, instance_id: str) -> None:
        self._ring: deque[Work] = deque()
        self._exporter = exporter(settings, _resource(service, instance_id), service)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._flush_for_ever, name="tracer", daemon=True)
        self._recorded = self._exported = self._dropped = self._failed = 0

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Deliver what is there, then stop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._flush()
        self._exporter.close()

    def rpc(self, record: RpcRecord) -> None:
        self._append((catalogue.rpc_spans, record))

    def batch(self, record: BatchRecord) -> None:
        self._append((catalogue.batch_spans, record))

    def replica(self, record: ReplicaRecord) -> None:
        self._append((catalogue.replica_spans, record))

    def statistics(self) -> TracerStatistics:
        return TracerStatistics(self._recorded, self._exported, self._dropped, self._failed)

    def _append(self, work: Work) -> None:
        if len(self._ring) >= RING:
            self._dropped += 1
            return
        self._recorded += 1
        self._ring.append(work)

    def _flush_for_ever(self) -> None:
        while not self._stopping.wait(FLUSH_S):
            self._flush()

    def _flush(self) -> None:
        """Encode and send what is there. While a collector is away, records wait in the ring."""
        while self._ring and self._exporter.ready():
            spans: list[Span] = []
            while self._ring and len(spans) < SLICE:
                spans += self._spans_of_next()
            if self._exporter.export(spans):
                self._exported += len(spans)
            else:
                self._failed += len(spans)

    def _spans_of_next(self) -> list[Span]:
        make, record = self._ring.popleft()
        try:
            spans = list(make(record))  # type: ignore[arg-type]
        except Exception:  # a record that can't be told must not end the telling of the others
            log.exception("a record could not be turned into spans")
            self._failed += 1
            return []
        if isinstance(record, BatchRecord):
            record.members = []  # members point at their batch: told once, the circle must not wait for the collector
        return spans


def _resource(service: str, instance_id: str) -> Attributes:
    """The SDK reads OTEL_RESOURCE_ATTRIBUTES; who and where this process is, it can't know better."""
    own = {
        "service.name": service,
        "service.version": version("headrace"),
        "service.instance.id": instance_id,
        "host.name": socket.gethostname(),
    }
    attributes = {**Resource.create().attributes, **own}
    return tuple((key, value) for key, value in attributes.items() if isinstance(value, str | int | float | bool))
