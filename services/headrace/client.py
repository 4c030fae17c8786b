"""Scores payments over gRPC without packing a tensor: `ScoringClient` (asyncio) and `SyncScoringClient`.

All that the base install needs: no Ray, no torch. Both speak the Open Inference Protocol to the same gateways;
retries and round-robin are gRPC's own, by service config, so that a server's pushback is honoured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc
import numpy as np
import numpy.typing as npt
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

try:  # whoever traces has it; the base install does not ask for it
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    PROPAGATOR = None
else:
    PROPAGATOR = TraceContextTextMapPropagator()

from headrace.channel import connect, connect_blocking
from headrace.credentials import NOBODY, ClientCredentials
from headrace.errors import (
    Cancelled,
    DeadlinePassed,
    Failed,
    HeadraceError,
    InvalidInference,
    NotPermitted,
    NotServing,
    Overloaded,
    Unauthenticated,
    UnknownModel,
)
from headrace_models import wire

Event = Mapping[str, Any]

DEFAULT_TIMEOUT_S: Final = 0.5
"""Long enough for a retry after a lost replica, short enough for a payment that waits."""
SERVICE_CONFIG: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": "inference.GRPCInferenceService"}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
                },
            }
        ],
        # Retries stop while more than about a third of the calls fail: an outage is not made worse.
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
    }
)
CHANNEL_OPTIONS: Final = (
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)
ERRORS: Final[dict[grpc.StatusCode, type[HeadraceError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInference,
    grpc.StatusCode.NOT_FOUND: UnknownModel,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlinePassed,
    grpc.StatusCode.UNAVAILABLE: NotServing,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: NotPermitted,
}
OIP_DATATYPES: Final = {"int64": "INT64", "int32": "INT32", "float32": "FP32"}


@dataclass(frozen=True, slots=True)
class Score:
    """What the model says of one payment."""

    p: float
    """Calibrated probability of fraud."""
    score: int
    """0–99: where `p` stands in the model's reference traffic."""
    model: str
    version: str
    truncated: int
    """Oldest card events that were dropped because the history is longer than the model's cap."""


def target(addresses: str | Sequence[str]) -> str:
    """A gRPC target for one address, or for several IP addresses to take turns."""
    if isinstance(addresses, str):
        return addresses
    return addresses[0] if len(addresses) == 1 else "ipv4:" + ",".join(addresses)


def request(
    model: str,
    columns: Mapping[str, npt.NDArray[Any]],
    *,
    version: str = "",
    request_id: str = "",
    idempotency_key: str = "",
) -> service_pb2.ModelInferRequest:
    """A ModelInfer request from named columns, each [n, …] with the batch dimension in front."""
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version, id=request_id)
    if idempotency_key:
        message.parameters["headrace_idempotency_key"].string_param = idempotency_key
    for name, column in columns.items():
        message.inputs.add(name=name, datatype=OIP_DATATYPES[column.dtype.name], shape=column.shape)
        message.raw_input_contents.append(column.tobytes())
    return message


def scores(response: service_pb2.ModelInferResponse) -> list[Score]:
    """The scores of a response, one per row. Raises: Failed when the model has no outputs `p` and `score`."""
    raw = {output.name: data for output, data in zip(response.outputs, response.raw_output_contents, strict=True)}
    if not {"p", "score"} <= raw.keys():
        raise Failed(f"model '{response.model_name}' answers {sorted(raw)}, not a probability and a score")
    p, score = np.frombuffer(raw["p"], "<f4"), np.frombuffer(raw["score"], "<i4")
    truncated = response.parameters["headrace_truncated_card"].int64_param
    return [
        Score(float(p[row]), int(score[row]), response.model_name, response.model_version, truncated)
        for row in range(len(p))
    ]


def _payment_request(
    model: str, payment: Event, card: Sequence[Event], merchant: Sequence[Event], idempotency_key: str
) -> service_pb2.ModelInferRequest:
    try:
        columns = wire.payment_columns(payment, card, merchant)
    except KeyError as error:
        raise InvalidInference(f"the payment or an event of its history has no field {error}") from error
    except (ValueError, TypeError) as error:
        raise InvalidInference(f"the payment or its history cannot be encoded: {error}") from error
    request_id = str(payment.get("event_id", ""))
    return request(model, columns, request_id=request_id, idempotency_key=idempotency_key)


def _trace_headers() -> tuple[tuple[str, str], ...]:
    """`traceparent` and `tracestate` of the span the caller is in: its trace then reaches the forward pass."""
    headers: dict[str, str] = {}
    if PROPAGATOR is not None:
        PROPAGATOR.inject(headers)
    return tuple(headers.items())


def _error(error: grpc.RpcError) -> HeadraceError:
    code: grpc.StatusCode = error.code()
    return ERRORS.get(code, Failed)(f"{code.name}: {error.details()}")


class ScoringClient:
    """Scores payments, asynchronously. Use as `async with ScoringClient(...) as client`."""

    def __init__(
        self,
        addresses: str | Sequence[str] = "127.0.0.1:8001",
        *,
        model: str = "fraud-tx",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        credentials: ClientCredentials = NOBODY,
    ) -> None:
        self._model = model
        self._timeout_s = timeout_s
        self._channel = connect(target(addresses), credentials, CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def score(
        self,
        payment: Event,
        card_history: Sequence[Event] = (),
        merchant_history: Sequence[Event] = (),
        *,
        timeout_s: float | None = None,
        idempotency_key: str = "",
    ) -> Score:
        """Score one payment given what its card and its merchant did before (in any order).

        Tries with one `idempotency_key` get one answer, as long as they reach the same gateway.

        Raises: InvalidInference, UnknownModel, Unauthenticated, NotPermitted, Overloaded, DeadlinePassed, NotServing,
        Failed.
        Cancellation: the gateway drops the request; no batch-mate notices.
        """
        message = _payment_request(self._model, payment, card_history, merchant_history, idempotency_key)
        try:
            response = await self._stub.ModelInfer(
                message, timeout=timeout_s or self._timeout_s, metadata=_trace_headers()
            )
        except aio.AioRpcError as error:
            raise _error(error) from error
        return scores(response)[0]

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class SyncScoringClient:
    """Scores payments, blocking. Safe to share between threads. Use as `with SyncScoringClient(...) as client`."""

    def __init__(
        self,
        addresses: str | Sequence[str] = "127.0.0.1:8001",
        *,
        model: str = "fraud-tx",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        credentials: ClientCredentials = NOBODY,
    ) -> None:
        self._model = model
        self._timeout_s = timeout_s
        self._channel = connect_blocking(target(addresses), credentials, CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def score(
        self,
        payment: Event,
        card_history: Sequence[Event] = (),
        merchant_history: Sequence[Event] = (),
        *,
        timeout_s: float | None = None,
        idempotency_key: str = "",
    ) -> Score:
        """As `ScoringClient.score`, blocking."""
        message = _payment_request(self._model, payment, card_history, merchant_history, idempotency_key)
        try:
            response = self._stub.ModelInfer(message, timeout=timeout_s or self._timeout_s, metadata=_trace_headers())
        except grpc.RpcError as error:
            raise _error(error) from error
        return scores(response)[0]

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
