"""The Open Inference Protocol's RPCs: one short method each. How each of them ends is in `answering`.

Holds no state of its own: models live in `Models`, permits in `Admission`, figures in the counters.
"""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.config import GatewaySettings
from headrace.core.inference import Inference
from headrace.core.records import RpcRecord
from headrace.core.routing import parse_version
from headrace.errors import HeadraceError, Unsupported, status_of
from headrace.gateway import description
from headrace.gateway.admission import Admission
from headrace.gateway.answering import abort, answering, find, scored
from headrace.gateway.codec import Asked, Decoder, asked, encode
from headrace.gateway.detours import Detours
from headrace.gateway.fallback import Ask
from headrace.gateway.idempotency import Repeats
from headrace.gateway.lane import Lane
from headrace.gateway.models import Models
from headrace.gateway.observer import Observer
from headrace.gateway.siblings import Siblings, summed
from headrace.rpc.call import Call

MODEL_INFER: Final = "inference.GRPCInferenceService/ModelInfer"


class InferenceServicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """`inference.GRPCInferenceService`."""

    def __init__(
        self,
        models: Models,
        admission: Admission,
        observer: Observer,
        settings: GatewaySettings,
        repeats: Repeats | None = None,
    ) -> None:
        self.models = models
        self.admission = admission
        self.observer = observer
        self._status_codes = settings.status_codes
        self._siblings = Siblings(settings)
        self._detours = Detours(repeats or Repeats(settings), observer)
        self._decoders: WeakKeyDictionary[Lane, Decoder] = WeakKeyDictionary()

    def own_statistics(self, name: str, version: str) -> service_pb2.ModelStatisticsResponse:
        """What this process has counted. Raises: InvalidInference."""
        return description.statistics(self.models, self.observer.metrics.counters, name, version)

    def code_of(self, error: HeadraceError) -> str:
        return status_of(error, oip=True, status_codes=self._status_codes)

    def id_of(self, request: service_pb2.ModelInferRequest) -> str:
        return str(request.id)

    def told(self, error: HeadraceError, request: service_pb2.ModelInferRequest) -> HeadraceError:
        """Triton opens the messages of its core with the request's id; clients grep for what follows."""
        return type(error)(f"[request id: {request.id or '<id_unknown>'}] {error}")

    @scored(MODEL_INFER)
    async def ModelInfer(
        self, request: service_pb2.ModelInferRequest, rpc: Call, record: RpcRecord
    ) -> service_pb2.ModelInferResponse:
        given = asked(request)
        lane = find(self.models, request.model_name, request.model_version, record, given.subject.entity)
        deadline = self.admission.deadline(rpc.time_remaining(), lane.settings, record)
        if lane.fallback is not None or given.idempotency_key:
            ask = self._ask(request, given, lane, deadline, record)
            return await self._detours.infer(request, rpc, given.idempotency_key, ask)
        ahead_s = lane.foresee(deadline, given.priority)
        inference = self._decoder(lane).decode(request, deadline, given)
        return encode(inference, await lane.score(inference, record, ahead_s))

    def _ask(
        self, request: service_pb2.ModelInferRequest, given: Asked, lane: Lane, deadline: float, record: RpcRecord
    ) -> Ask:
        async def make(until: float) -> Inference:
            return self._decoder(lane).decode(request, until, given)

        return Ask(lane, make, given.priority, deadline, record, named=bool(request.model_version))

    def _decoder(self, lane: Lane) -> Decoder:
        decoder = self._decoders.get(lane)
        if decoder is None:
            decoder = self._decoders[lane] = Decoder(lane.spec)
        return decoder

    @answering
    async def ServerLive(self, request: service_pb2.ServerLiveRequest, rpc: Call) -> service_pb2.ServerLiveResponse:
        return service_pb2.ServerLiveResponse(live=True)

    @answering
    async def ServerReady(self, request: service_pb2.ServerReadyRequest, rpc: Call) -> service_pb2.ServerReadyResponse:
        return service_pb2.ServerReadyResponse(ready=self.admission.open and self.models.all_ready())

    @answering
    async def ModelReady(self, request: service_pb2.ModelReadyRequest, rpc: Call) -> service_pb2.ModelReadyResponse:
        version = parse_version(request.version)
        ready = next((model.ready_versions() for model in self.models if model.name == request.name), [])
        return service_pb2.ModelReadyResponse(ready=version in ready if version else bool(ready))

    @answering
    async def ServerMetadata(
        self, request: service_pb2.ServerMetadataRequest, rpc: Call
    ) -> service_pb2.ServerMetadataResponse:
        return description.server()

    @answering
    async def ModelMetadata(
        self, request: service_pb2.ModelMetadataRequest, rpc: Call
    ) -> service_pb2.ModelMetadataResponse:
        lane = self.models.find(request.name, request.version)
        return description.metadata(lane.spec, self.models)

    @answering
    async def ModelConfig(self, request: service_pb2.ModelConfigRequest, rpc: Call) -> service_pb2.ModelConfigResponse:
        lane = self.models.find(request.name, request.version)
        return service_pb2.ModelConfigResponse(config=description.config(lane.spec, lane.settings))

    @answering
    async def ModelStatistics(
        self, request: service_pb2.ModelStatisticsRequest, rpc: Call
    ) -> service_pb2.ModelStatisticsResponse:
        version = parse_version(request.version)
        own = self.own_statistics(request.name, version)
        asked = {(statistics.name, statistics.version) for statistics in own.model_stats}
        found = summed([own, *await self._siblings.statistics()])
        wanted = [statistics for statistics in found.model_stats if (statistics.name, statistics.version) in asked]
        return service_pb2.ModelStatisticsResponse(model_stats=wanted)

    @answering
    async def RepositoryIndex(
        self, request: service_pb2.RepositoryIndexRequest, rpc: Call
    ) -> service_pb2.RepositoryIndexResponse:
        if request.repository_name:
            raise Unsupported("'repository_name' specification is not supported")
        return description.index(self.models, ready_only=request.ready)


def _unsupported(name: str) -> Any:
    async def refuse(self: InferenceServicer, _: Any, rpc: Call) -> None:
        sentence = (
            "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
            if "SharedMemory" in name
            else f"{name} is not offered by this server yet"
        )
        await abort(rpc, self, Unsupported(sentence))

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
