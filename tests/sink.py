"""A collector in a few lines: keeps what it is sent, or refuses it as a test tells it to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Sink(trace_service_pb2_grpc.TraceServiceServicer):
    """OTLP/gRPC on a free loopback port, or on `port` when it is to come back where it was."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.refuse: grpc.StatusCode | None = None
        self.reject = 0
        self.delay_s = 0.0
        self._server = grpc.server(futures.ThreadPoolExecutor(2), options=(("grpc.so_reuseport", 0),))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def Export(  # noqa: N802  gRPC's name
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        time.sleep(self.delay_s)
        if self.refuse is not None:
            context.abort(self.refuse, "as told")
        self.requests.append(request)
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = self.reject
        return answer

    def spans(self) -> Iterator[tuple[str, Span]]:
        """(service, span), in the order of their arrival."""
        for request in self.requests:
            for resource_spans in request.resource_spans:
                attributes = {a.key: a.value.string_value for a in resource_spans.resource.attributes}
                for scope_spans in resource_spans.scope_spans:
                    for span in scope_spans.spans:
                        yield attributes["service.name"], span

    @property
    def names(self) -> Counter[str]:
        return Counter(span.name for _, span in self.spans())

    def close(self) -> None:
        self._server.stop(None).wait()
