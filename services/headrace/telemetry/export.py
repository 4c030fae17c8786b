"""Where encoded spans go: a collector over OTLP/gRPC, or bounded files of OTLP JSON lines.

Called from the tracer's thread only. Whatever happens here is counted, and never reaches a request.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace.export import SpanExportResult

from headrace.config import TelemetrySettings
from headrace.telemetry.form import Attributes, Encoding
from headrace.telemetry.otlp_json import JsonEncoding
from headrace.telemetry.otlp_protobuf import ProtobufEncoding

log = logging.getLogger(__name__)

EXPORT_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MAX_PIECES: Final = 1024
"""How many one writev takes: IOV_MAX."""
BACKOFF_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
WORTH_ANOTHER_TRY: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""OTLP's list. RESOURCE_EXHAUSTED, a page too large or a collector too busy, the SDK has tried for a while by then:
kept longer, one such page would stand in the way of all the others."""
SDK_LOGGER: Final = "opentelemetry.exporter.otlp.proto.grpc.exporter"

Sections = Sequence[tuple[Attributes, list[bytes]]]


class Outcome(NamedTuple):
    """What became of one export, in spans."""

    exported: int = 0
    rejected: int = 0
    """The collector took the others."""
    failed: int = 0


class Exporter(Protocol):
    """A place for spans."""

    encoding: Encoding
    page_spans: int
    """How many spans it likes to get at a time."""

    def ready(self) -> bool:
        """False while it is no use to try: what is to be told waits."""
        ...

    def try_now(self) -> None:
        """Be ready once more, whatever happened before: the process is about to end."""
        ...

    def export(self, sections: Sections, spans: int, *, keep: bool) -> Outcome:
        """Deliver so many spans. `keep`: these are worth more than others when there is no room for all."""
        ...

    def retry(self) -> Outcome:
        """Deliver what could not be delivered before."""
        ...

    def interrupt(self) -> None:
        """End what is under way, from another thread."""
        ...

    def close(self) -> Outcome:
        """Give up what could not be delivered."""
        ...


def exporter(settings: TelemetrySettings, file_stem: str) -> Exporter:
    """A collector's, where one is configured; else the file's."""
    return CollectorExporter(settings.otlp_endpoint) if settings.otlp_endpoint else FileExporter(settings, file_stem)


class _SdkExporter(OTLPSpanExporter):
    """The SDK's exporter around bytes: endpoint, TLS, headers, timeout, compression and OTEL_* are its business."""

    _channel: Any
    _client: Any
    code = grpc.StatusCode.OK
    """How the last call ended."""
    rejected = 0

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]
        self._client = self  # it calls Export of whatever is here; a new channel may come with every failure
        self._call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(EXPORT_METHOD)

    def Export(self, request: bytes, metadata: Any, timeout: float) -> None:  # noqa: N802  gRPC's name
        """The collector's one method, with bytes in."""
        try:
            answer = self._call(request, metadata=metadata, timeout=timeout)
        except grpc.RpcError as error:
            self.code = error.code()
            raise
        self.code, self.rejected = grpc.StatusCode.OK, _rejected(answer)

    def _translate_data(self, data: Any) -> Any:
        return data

    def _count_data(self, data: Any) -> int:  # noqa: ARG002
        return 1


def _rejected(answer: bytes) -> int:
    """Almost always empty, which means that all of them were taken; so does an answer in another language."""
    try:
        return ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans if answer else 0
    except DecodeError:
        return 0


class CollectorExporter:
    """OTLP/gRPC. An export that meets a collector that is away is kept and sent again when it is back."""

    page_spans = 512
    """A call costs as much as some tens of spans, and receivers take 4 MiB at most: this is 200 KiB."""

    def __init__(self, endpoint: str) -> None:
        self.encoding: Encoding = ProtobufEncoding()
        logging.getLogger(SDK_LOGGER).setLevel(logging.CRITICAL)  # it would say the same again at every try
        self._sdk = _SdkExporter(endpoint)
        self._unsent: deque[tuple[bytes, int]] = deque()
        """At most the pages of one turn of the tracer: it asks `ready` before the next."""
        self._failures = 0
        self._not_before = 0.0

    def ready(self) -> bool:
        return time.monotonic() >= self._not_before

    def try_now(self) -> None:
        self._not_before = 0.0

    def export(self, sections: Sections, spans: int, *, keep: bool) -> Outcome:  # noqa: ARG002  a collector decides by attributes
        self._unsent.append((b"".join(self.encoding.request(sections)), spans))
        return self.retry() if self.ready() else Outcome()

    def retry(self) -> Outcome:
        done = Outcome()
        while self._unsent and (outcome := self._send(*self._unsent[0])) is not None:
            self._unsent.popleft()
            done = Outcome(*(a + b for a, b in zip(done, outcome, strict=True)))
        return done

    def interrupt(self) -> None:
        self._sdk.shutdown()

    def close(self) -> Outcome:
        return Outcome(failed=sum(spans for _, spans in self._unsent))

    def _send(self, request: bytes, spans: int) -> Outcome | None:
        """None = nobody answers: to be tried again."""
        # The SDK takes any sequence for spans and hands it to _translate_data, which leaves it as it is.
        if self._sdk.export(request) is SpanExportResult.SUCCESS:  # type: ignore[arg-type]
            if self._failures:
                log.info("the collector is back")
            self._failures = 0
            rejected = self._sdk.rejected
            return Outcome(spans - rejected, rejected)
        if self._sdk.code not in WORTH_ANOTHER_TRY:
            log.warning("the collector refused %d spans: %s", spans, self._sdk.code.name)
            return Outcome(failed=spans)
        if not self._failures:
            log.warning("the collector does not answer: %s", self._sdk.code.name)
        self._not_before = time.monotonic() + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        return None


class FileExporter:
    """JSON lines in a folder that several processes share.

    What is to be kept has files of its own, and so lasts longer: the others push one another out.
    """

    page_spans = 256
    """Small enough to be written while the processor still has it at hand: large buffers cost more than the spans."""

    def __init__(self, settings: TelemetrySettings, stem: str) -> None:
        self.encoding: Encoding = JsonEncoding()
        name = f"{stem}-{os.getpid()}-{secrets.token_hex(3)}"
        bounds = settings.trace_dir, settings.max_file_bytes, settings.max_files
        self._others = RotatedFile(name, ".", *bounds)
        self._kept = RotatedFile(name, ".kept.", *bounds)

    def ready(self) -> bool:
        return True

    def try_now(self) -> None:
        pass

    def export(self, sections: Sections, spans: int, *, keep: bool) -> Outcome:
        file = self._kept if keep else self._others
        try:
            file.write(self.encoding.request(sections))
        except OSError as error:
            file.complain(error)
            return Outcome(failed=spans)
        return Outcome(exported=spans)

    def retry(self) -> Outcome:
        return Outcome()

    def interrupt(self) -> None:
        pass

    def close(self) -> Outcome:
        self._others.close()
        self._kept.close()
        return Outcome()


class RotatedFile:
    """`<name><kind><generation>.jsonl`, at most so many of so many bytes: the oldest goes when a new one has begun."""

    def __init__(self, name: str, kind: str, folder: Path, max_bytes: int, max_files: int) -> None:
        self._name = name
        self._kind = kind
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._written = 0
        self._generation = 0
        """Files begun."""
        self._file: FileIO | None = None
        self._complained = False

    def write(self, pieces: list[bytes]) -> None:
        """Append a line, without joining its pieces first: that would cost more than writing it.

        Raises: OSError; the next line tries another file.
        """
        size = sum(map(len, pieces))
        begun = self._file is None or self._written + size > self._max_bytes
        try:
            file = self._open(self._generation + 1) if begun else self._file
            assert file is not None, "This is a bug."
            _write_all(file.fileno(), pieces)
        except OSError:
            self.close()
            if begun:
                with contextlib.suppress(OSError):
                    self._path(self._generation + 1).unlink(missing_ok=True)
            raise
        self._complained = False
        if begun:  # only now: a disk that takes nothing must not cost what it took before
            self._begin_generation()
        self._written += size

    def complain(self, error: OSError) -> None:
        """Once, until a line can be written again."""
        if not self._complained:
            log.warning("traces can't be written to %s: %s", self._folder, error.strerror)
        self._complained = True

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _open(self, generation: int) -> FileIO:
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path(generation).open("wb", buffering=0)
        return self._file

    def _begin_generation(self) -> None:
        self._generation += 1
        self._written = 0
        self._path(self._generation - self._max_files).unlink(missing_ok=True)
        if self._generation == 1:
            self._forget_the_dead()

    def _forget_the_dead(self) -> None:
        """Of processes that are gone, the newest files stay, as many as one process may have."""
        service = self._name.rsplit("-", 2)[0]
        mine = f"{self._name}."
        left = [path for path in self._folder.glob(f"{service}-*{self._kind}[0-9]*.jsonl") if _is_left(path, mine)]
        left = [path for path in left if (".kept." in path.name) == (self._kind == ".kept.")]
        for path in sorted(left, key=lambda p: p.stat().st_mtime, reverse=True)[self._max_files :]:
            path.unlink(missing_ok=True)

    def _path(self, generation: int) -> Path:
        return self._folder / f"{self._name}{self._kind}{generation}.jsonl"


def _is_left(path: Path, mine: str) -> bool:
    """The file's process is gone. A process id that has come back, as 1 does in a container, is not that process."""
    if path.name.startswith(mine):
        return False
    pid = path.name.split(".")[0].rsplit("-", 2)[-2]
    return pid == str(os.getpid()) or not Path(f"/proc/{pid}").exists()


def _write_all(descriptor: int, pieces: list[bytes]) -> None:
    """Raises: OSError, also when the disk took a part only."""
    for first in range(0, len(pieces), MAX_PIECES):
        some = pieces[first : first + MAX_PIECES]
        if os.writev(descriptor, some) != sum(map(len, some)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
