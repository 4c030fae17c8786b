"""Where encoded spans go: a collector over OTLP/gRPC, or a bounded file of OTLP JSON lines.

Called from the tracer's thread only. Whatever happens here is counted, and never reaches a request.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final, Protocol, TextIO

import grpc

from headrace.config import TelemetrySettings
from headrace.telemetry import otlp
from headrace.telemetry.catalogue import Attributes, Span

EXPORT_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
EXPORT_TIMEOUT_S: Final = 5.0
BACKOFF_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)


class Exporter(Protocol):
    """A place for spans."""

    def ready(self) -> bool:
        """False while it is no use to try."""
        ...

    def export(self, spans: list[Span]) -> bool:
        """True when all of them arrived."""
        ...

    def close(self) -> None: ...


def exporter(settings: TelemetrySettings, resource: Attributes, file_stem: str) -> Exporter:
    """A collector's, where one is configured; else the file's."""
    if settings.otlp_endpoint:
        return CollectorExporter(settings.otlp_endpoint, resource)
    return FileExporter(settings, resource, file_stem)


class CollectorExporter:
    """OTLP/gRPC with bytes in and bytes out. While the collector is away it is left alone for a while."""

    def __init__(self, endpoint: str, resource: Attributes) -> None:
        target = endpoint.removeprefix("http://").removeprefix("https://").rstrip("/")
        secure = endpoint.startswith("https://")
        self._channel = (
            grpc.secure_channel(target, grpc.ssl_channel_credentials()) if secure else grpc.insecure_channel(target)
        )
        self._send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(EXPORT_METHOD)
        self._resource = resource
        self._failures = 0
        self._not_before = 0.0

    def ready(self) -> bool:
        return time.monotonic() >= self._not_before

    def export(self, spans: list[Span]) -> bool:
        request = otlp.protobuf_request(self._resource, [otlp.protobuf_span(span) for span in spans])
        try:
            self._send(request, timeout=EXPORT_TIMEOUT_S)
        except grpc.RpcError:
            self._not_before = time.monotonic() + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
            self._failures += 1
            return False
        self._failures = 0
        return True

    def close(self) -> None:
        self._channel.close()


class FileExporter:
    """JSON lines in a folder that several processes share: one file a process, rotated, the oldest removed."""

    def __init__(self, settings: TelemetrySettings, resource: Attributes, stem: str) -> None:
        self._folder: Path = settings.trace_dir
        self._max_bytes = settings.max_file_bytes
        self._max_files = settings.max_files
        self._resource = resource
        self._stem = f"{stem}-{os.getpid()}"
        self._written = 0
        self._generation = 0
        self._file: TextIO | None = None

    def ready(self) -> bool:
        return True

    def export(self, spans: list[Span]) -> bool:
        line = otlp.json_line(self._resource, [otlp.json_span(span) for span in spans])
        try:
            if self._file is None or self._written + len(line) > self._max_bytes:
                self._open_next()
            assert self._file is not None, "This is a bug."
            self._file.write(line)
            self._file.flush()
        except OSError:
            self.close()
            return False
        self._written += len(line)
        return True

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _open_next(self) -> None:
        """Begin the next file; the oldest goes."""
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._generation += 1
        self._written = 0
        self._path(self._generation - self._max_files).unlink(missing_ok=True)
        self._file = self._path(self._generation).open("a", encoding="utf-8")

    def _path(self, generation: int) -> Path:
        return self._folder / f"{self._stem}.{generation}.jsonl"
