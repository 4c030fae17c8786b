"""The tracer: takes records on the hot path, turns them into spans in a thread of its own.

A family (a batch and its members) costs one append to a ring, and so does a request that never joined one. The ring
is bounded in requests: what does not fit is dropped whole and counted, so that no span ever points at a lost one.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from opentelemetry.sdk.resources import Resource

from headrace.config import TelemetrySettings
from headrace.core.records import BatchRecord, ReplicaIdentity, RpcRecord
from headrace.telemetry.catalogue import Catalogue, Page
from headrace.telemetry.collector import CollectorExporter
from headrace.telemetry.export import Exporter, Outcome
from headrace.telemetry.form import Attributes
from headrace.telemetry.keep import Keeper
from headrace.telemetry.trace_files import FileExporter

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
"""How often the thread looks: many short turns disturb the event loop less than few long ones."""
BITE: Final = 32
"""Requests told in one go: a fraction of a millisecond."""
NAP_S: Final = 0.0002
"""Between two bites. A thread that only offers the interpreter lock gets it back before another has woken up."""
SEND_S: Final = 0.1
"""An export leaves when it is so old, or as large as its exporter likes it."""
CLOSE_S: Final = 3.0
MAX_REPLICAS: Final = 1024
"""Resources that are remembered: replicas come and go."""
UNNAMED: Final = "unknown_service"
"""How the SDK calls a service that nobody has named."""
PERSONAL: Final = ("service.", "host.", "process.", "k8s.pod.", "k8s.node.", "k8s.container.", "container.")
"""Resource attributes that say which process it is."""


@dataclass(frozen=True, slots=True)
class TracerStatistics:
    """What became of the records and spans so far."""

    exported: int
    """Spans that arrived."""
    rejected: int
    """Spans that a collector would not have."""
    failed: int
    """Spans that could not be delivered."""
    dropped: int
    """Requests that found the ring full."""
    waiting: int
    """Requests in the ring."""


class Tracer:
    """One a gateway. `server`: its address and port, for the spans."""

    def __init__(self, service: str, settings: TelemetrySettings, instance_id: str, server: Attributes = ()) -> None:
        self._ring: deque[BatchRecord | RpcRecord] = deque()
        self._bound = settings.max_waiting
        self._waiting = self._told = self._dropped = 0
        """Requests, ever: the loop counts in and drops, the thread counts out."""
        who = {"service.name": service, "service.instance.id": instance_id, "host.name": socket.gethostname()}
        self._resource = _resource(who)
        self._resources: dict[ReplicaIdentity, Attributes] = {}
        self._exporter = _exporter(settings, service)
        self._catalogue = Catalogue(self._exporter.encoding, server, settings.max_links)
        self._keeper = Keeper(settings.slow_ms)
        self._ordinary, self._kept = Page(), Page()
        self._sent_at = 0.0
        self._done = Outcome()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._flush_for_ever, name="tracer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Deliver what is there, then stop. A collector that does not answer holds nobody up for long."""
        self._stopping.set()
        if not self._thread.is_alive():
            self._last_turn()
        self._thread_ended(CLOSE_S)
        self._exporter.interrupt()  # what is under way ends now
        if self._thread_ended(CLOSE_S):
            self._count(self._exporter.close())
        self._dropped += self._waiting - self._told
        self._told = self._waiting

    def family(self, batch: BatchRecord) -> None:
        """Take a batch whose members have all ended. One that nobody sampled is let go."""
        if batch.sampled:
            self._append(batch, len(batch.members))
        else:
            batch.members = []  # they point at it: the circle would wait for the garbage collector

    def single(self, record: RpcRecord) -> None:
        """Take a request that never joined a batch."""
        if record.sampled:
            self._append(record, 1)

    def statistics(self) -> TracerStatistics:
        waiting = self._waiting - self._told
        return TracerStatistics(*self._done, dropped=self._dropped, waiting=waiting)

    def _append(self, record: BatchRecord | RpcRecord, requests: int) -> None:
        if self._waiting - self._told + requests > self._bound:
            self._dropped += requests
            if isinstance(record, BatchRecord):
                record.members = []
            return
        self._waiting += requests
        self._ring.append(record)

    def _thread_ended(self, timeout_s: float) -> bool:
        if self._thread.is_alive():
            self._thread.join(timeout=timeout_s)
        return not self._thread.is_alive()

    # In the thread ------------------------------------------------------------------------------------------------

    def _flush_for_ever(self) -> None:
        while not self._stopping.wait(TICK_S):
            try:
                self._turn()
            except Exception:  # whatever it was, the next ones are to be told
                log.exception("spans were lost to an error of ours")
                self._count(Outcome(failed=self._ordinary.spans + self._kept.spans))
                self._ordinary, self._kept = Page(), Page()
        self._last_turn()

    def _turn(self) -> None:
        if self._exporter.ready():
            self._count(self._exporter.retry())
        self._encode()
        if self._due() and self._exporter.ready():
            self._send()

    def _last_turn(self) -> None:
        """Deliver everything, once more also to a collector that did not answer lately."""
        self._exporter.try_now()
        self._count(self._exporter.retry())
        self._encode()
        self._send()

    def _encode(self) -> None:
        """Turn what waits into spans, a bite at a time: whoever wants the interpreter lock gets it in between.

        While a collector is away, records wait in the ring.
        """
        while self._ring and self._exporter.ready():
            enough = self._told + BITE
            while self._ring and self._told < enough:
                self._tell(self._ring.popleft())
            if self._due():
                self._send()
            if self._ring:
                time.sleep(NAP_S)

    def _due(self) -> bool:
        spans = self._ordinary.spans + self._kept.spans
        return spans >= self._exporter.page_spans or (spans > 0 and time.monotonic() > self._sent_at + SEND_S)

    def _send(self) -> None:
        """Export the pages."""
        self._sent_at = time.monotonic()
        for page, keep in ((self._ordinary, False), (self._kept, True)):
            if page.spans:
                self._count(self._exporter.export(self._sections(page), page.spans, keep=keep))
        self._ordinary, self._kept = Page(), Page()

    def _tell(self, record: BatchRecord | RpcRecord) -> None:
        """Write one record as spans."""
        self._told += len(record.members) if isinstance(record, BatchRecord) else 1
        try:
            if isinstance(record, BatchRecord):
                reasons = self._keeper.of_family(record)
                self._catalogue.family(record, reasons, self._kept if any(reasons) else self._ordinary)
                record.members = []  # they point at it: the circle would wait for the garbage collector
            else:
                reason = self._keeper.of(record)
                self._catalogue.single(record, reason, self._kept if reason else self._ordinary)
        except Exception:  # a record that can't be told must not end the telling of the others
            log.exception("a record could not be turned into spans")
            self._count(Outcome(failed=1))

    def _sections(self, page: Page) -> list[tuple[Attributes, list[bytes]]]:
        replicas = [(self._replica_resource(identity), spans) for identity, spans in page.replicas.items()]
        return [(self._resource, page.own), *replicas] if page.own else replicas

    def _replica_resource(self, identity: ReplicaIdentity) -> Attributes:
        """Who did the work: spans drawn for a replica carry its own resource, not this process's."""
        if identity not in self._resources:
            if len(self._resources) >= MAX_REPLICAS:
                self._resources.clear()
            who = {"service.name": "headrace-replica", "service.instance.id": identity.replica_id}
            if identity.host:
                who["host.name"] = identity.host
            self._resources[identity] = _resource(who, of_this_process=False)
        return self._resources[identity]

    def _count(self, outcome: Outcome) -> None:
        self._done = self._done.plus(outcome)


def _exporter(settings: TelemetrySettings, file_stem: str) -> Exporter:
    """A collector's, where one is configured; else the files'."""
    return CollectorExporter(settings.otlp_endpoint) if settings.otlp_endpoint else FileExporter(settings, file_stem)


def _resource(who: dict[str, str], *, of_this_process: bool = True) -> Attributes:
    """What the SDK reads from OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME, and what it can't know better.

    Of another process it says only what holds for both: not the pod, the host or the name it was given.
    """
    environment = {k: v for k, v in Resource.create().attributes.items() if isinstance(v, str | int | float | bool)}
    if not of_this_process:
        environment = {key: value for key, value in environment.items() if not key.startswith(PERSONAL)}
    named = str(environment.get("service.name", UNNAMED))
    attributes = {**environment, "service.version": version("headrace"), **who}
    if not named.startswith(UNNAMED):
        attributes["service.name"] = named
    return tuple(attributes.items())
