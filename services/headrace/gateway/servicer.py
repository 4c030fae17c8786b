"""The Open Inference Protocol's RPCs: one short method each. Errors become statuses in one place, `answering`.

Holds no state of its own: models live in `Models`, permits in `Admission`, figures in the counters.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.config import GatewaySettings
from headrace.core.records import RpcRecord
from headrace.core.routing import parse_version
from headrace.errors import BrokenContract, HeadraceError, NotServing, Overloaded, Unsupported, status_of
from headrace.gateway import description
from headrace.gateway.admission import Admission
from headrace.gateway.codec import decode, encode
from headrace.gateway.models import Models
from headrace.gateway.observer import Observer
from headrace.gateway.siblings import Siblings, summed
from headrace.telemetry import timings

log = logging.getLogger(__name__)

MODEL_INFER: Final = "inference.GRPCInferenceService/ModelInfer"
PUSHBACK_MS: Final = "50"
"""`grpc-retry-pushback-ms` of a refusal for overload: a client that retries waits so long first."""

MAX_ID: Final = 256
"""Characters of a caller's id that are remembered; the answer carries it whole."""

MAX_SENTENCE: Final = 1024
"""Characters of a status message: it quotes names that a caller chose, and a client takes 8 KiB of metadata at most."""

Trailing = tuple[tuple[str, str], ...]
Request = TypeVar("Request")
Response = TypeVar("Response")
Method = Callable[[Any, Request, "aio.ServicerContext[Any, Any]"], Awaitable[Response]]


def answering(method: Method[Request, Response]) -> Method[Request, Response]:
    """Turn headrace's errors into gRPC statuses, and anything else into INTERNAL that tells nothing."""

    @functools.wraps(method)
    async def answer(self: Any, request: Request, rpc: aio.ServicerContext[Any, Any]) -> Response:
        try:
            return await method(self, request, rpc)
        except HeadraceError as error:
            failure = error
        except aio.AbortError:
            raise
        except Exception as error:  # a caller must never hang on, or read, an error of ours
            log.exception("an RPC failed on an error of ours")
            failure = BrokenContract("internal error")
            failure.__cause__ = error
        await abort(rpc, failure, self.status_codes)
        raise AssertionError("This is a bug.")  # abort raises

    return answer


async def abort(
    rpc: aio.ServicerContext[Any, Any], error: HeadraceError, status_codes: str, trailing: Trailing = ()
) -> None:
    """End an RPC with the status of `error`."""
    code = grpc.StatusCode[status_of(error, oip=True, status_codes=status_codes)]
    if isinstance(error, Overloaded | NotServing):
        trailing = (*trailing, ("grpc-retry-pushback-ms", PUSHBACK_MS))
    await rpc.abort(code, str(error)[:MAX_SENTENCE], trailing)


class InferenceServicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """`inference.GRPCInferenceService`."""

    def __init__(self, models: Models, admission: Admission, observer: Observer, settings: GatewaySettings) -> None:
        self.models = models
        self.admission = admission
        self.observer = observer
        self.status_codes = settings.status_codes
        self._siblings = Siblings(settings)

    def own_statistics(self, name: str, version: str) -> service_pb2.ModelStatisticsResponse:
        """What this process has counted. Raises: InvalidInference."""
        return description.statistics(self.models, self.observer.metrics.counters, name, version)

    async def ModelInfer(
        self, request: service_pb2.ModelInferRequest, rpc: aio.ServicerContext[Any, Any]
    ) -> service_pb2.ModelInferResponse:
        record = self.observer.begin(MODEL_INFER, rpc)
        try:
            response = await self._infer(request, rpc, record)
        except HeadraceError as error:
            self.observer.failed(record, error, status_of(error, oip=True, status_codes=self.status_codes))
            await abort(rpc, _with_id(error, request.id), self.status_codes, timings.trailing(record))
            raise
        except asyncio.CancelledError:
            self.observer.left(record)
            raise
        except Exception as error:  # a caller must never hang on, or read, an error of ours
            self.observer.broke(record, error)
            await abort(rpc, BrokenContract("internal error"), self.status_codes, timings.trailing(record))
            raise
        self.observer.succeeded(record)
        rpc.set_trailing_metadata(timings.trailing(record))
        return response

    async def _infer(
        self, request: service_pb2.ModelInferRequest, rpc: aio.ServicerContext[Any, Any], record: RpcRecord
    ) -> service_pb2.ModelInferResponse:
        record.request_id = request.id[:MAX_ID]
        self.admission.enter()
        try:
            lane = self.models.find(request.model_name, request.model_version)
            # Only now: a name that is no model's must not become a label, a caller could make any number of them.
            record.model, record.version = lane.spec.name, lane.spec.version
            deadline = self.admission.deadline(rpc.time_remaining(), request, lane.settings, record)
            inference = decode(request, lane.spec, deadline)
            record.rows, record.tokens, record.priority = inference.rows, inference.tokens, inference.priority
            return encode(inference, await lane.score(inference, record))
        finally:
            self.admission.leave()

    @answering
    async def ServerLive(
        self, request: service_pb2.ServerLiveRequest, rpc: aio.ServicerContext[Any, Any]
    ) -> service_pb2.ServerLiveResponse:
        return service_pb2.ServerLiveResponse(live=True)

    @answering
    async def ServerReady(
        self, request: service_pb2.ServerReadyRequest, rpc: aio.ServicerContext[Any, Any]
    ) -> service_pb2.ServerReadyResponse:
        return service_pb2.ServerReadyResponse(ready=self.admission.open and self.models.all_ready())

    @answering
    async def ModelReady(
        self, request: service_pb2.ModelReadyRequest, rpc: aio.ServicerContext[Any, Any]
    ) -> service_pb2.ModelReadyResponse:
        version = parse_version(request.version)
        ready = next((model.ready_versions() for model in self.models if model.name == request.name), [])
        return service_pb2.ModelReadyResponse(ready=version in ready if version else bool(ready))

    @answering
    async def ServerMetadata(
        self, request: service_pb2.ServerMetadataRequest, rpc: aio.ServicerContext[Any, Any]
    ) -> service_pb2.ServerMetadataResponse:
        return description.server()

    @answering
    async def ModelMetadata(
        self, request: service_pb2.ModelMetadataRequest, rpc: aio.ServicerContext[Any, Any]
    ) -> service_pb2.ModelMetadataResponse:
        lane = self.models.find(request.name, request.version)
        return description.metadata(lane.spec, self.models)

    @answering
    async def ModelConfig(
        self, request: service_pb2.ModelConfigRequest, rpc: aio.ServicerContext[Any, Any]
    ) -> service_pb2.ModelConfigResponse:
        lane = self.models.find(request.name, request.version)
        return service_pb2.ModelConfigResponse(config=description.config(lane.spec, lane.settings))

    @answering
    async def ModelStatistics(
        self, request: service_pb2.ModelStatisticsRequest, rpc: aio.ServicerContext[Any, Any]
    ) -> service_pb2.ModelStatisticsResponse:
        version = parse_version(request.version)
        own = self.own_statistics(request.name, version)
        asked = {(statistics.name, statistics.version) for statistics in own.model_stats}
        found = summed([own, *await self._siblings.statistics()])
        wanted = [statistics for statistics in found.model_stats if (statistics.name, statistics.version) in asked]
        return service_pb2.ModelStatisticsResponse(model_stats=wanted)

    @answering
    async def RepositoryIndex(
        self, request: service_pb2.RepositoryIndexRequest, rpc: aio.ServicerContext[Any, Any]
    ) -> service_pb2.RepositoryIndexResponse:
        if request.repository_name:
            raise Unsupported("'repository_name' specification is not supported")
        return description.index(self.models, ready_only=request.ready)


def _with_id(error: HeadraceError, request_id: str) -> HeadraceError:
    """Triton opens the messages of its core with the request's id; clients grep for what follows."""
    return type(error)(f"[request id: {request_id or '<id_unknown>'}] {error}")


def _unsupported(name: str) -> Any:
    async def refuse(self: InferenceServicer, _: Any, rpc: aio.ServicerContext[Any, Any]) -> None:
        sentence = (
            "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
            if "SharedMemory" in name
            else f"{name} is not offered by this server yet"
        )
        await abort(rpc, Unsupported(sentence), self.status_codes)

    refuse.__name__ = name
    return refuse


for _name in (
    "ModelStreamInfer",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
):
    setattr(InferenceServicer, _name, _unsupported(_name))
