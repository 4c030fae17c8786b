"""Spans to a collector over OTLP/gRPC, through the SDK's exporter: how it is reached is that one's business."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace.export import SpanExportResult

from headrace.telemetry.export import Outcome, Sections
from headrace.telemetry.form import Encoding
from headrace.telemetry.otlp_protobuf import ProtobufEncoding

log = logging.getLogger(__name__)

EXPORT_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SDK_LOGGER: Final = "opentelemetry.exporter.otlp.proto.grpc.exporter"
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
            done = done.plus(outcome)
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
        if self._sdk.code is grpc.StatusCode.OK:  # it was shut down and has not tried
            return None
        if self._sdk.code not in WORTH_ANOTHER_TRY:
            log.warning("the collector refused %d spans: %s", spans, self._sdk.code.name)
            return Outcome(failed=spans)
        if not self._failures:
            log.warning("the collector does not answer: %s", self._sdk.code.name)
        self._not_before = time.monotonic() + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        return None


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
