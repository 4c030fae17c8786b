"""The Open Inference Protocol's RPCs: one short method each. How each of them ends is in `answering`.

Holds no state of its own: models live in `Models`, permits in `Admission`, figures in the counters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final
from weakref import WeakKeyDictionary

from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.access import assert_sees, name_of, sees
from headrace.config import GatewaySettings
from headrace.core.clock import MonotonicClock
from headrace.core.inference import Answer, Inference, SequenceStep
from headrace.core.records import RpcRecord
from headrace.core.routing import parse_version
from headrace.errors import HeadraceError, QuotaExceeded, Unsupported, status_of
from headrace.gateway import description
from headrace.gateway.admission import Admission
from headrace.gateway.answering import abort, answering, find, scored
from headrace.gateway.codec import Asked, Decoder, asked, encode
from headrace.gateway.codec.complaints import DISABLED
from headrace.gateway.detours import Detours
from headrace.gateway.fallback import Ask
from headrace.gateway.idempotency import Repeats
from headrace.gateway.lane import Lane
from headrace.gateway.model_control import REPOSITORY_NAME, ModelControl
from headrace.gateway.models import Models
from headrace.gateway.observer import Observer
from headrace.gateway.sequences import Sequences
from headrace.gateway.siblings import Siblings, summed
from headrace.gateway.streams import Streams
from headrace.gateway.tuning import Tuning
from headrace.rpc.call import Call

MODEL_INFER: Final = "inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM_INFER: Final = "inference.GRPCInferenceService/ModelStreamInfer"


class InferenceServicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """`inference.GRPCInferenceService`."""

    def __init__(
        self,
        models: Models,
        admission: Admission,
        observer: Observer,
        settings: GatewaySettings,
        control: ModelControl,
        repeats: Repeats,
    ) -> None:
        self.models = models
        self._control = control
        self.admission = admission
        self.observer = observer
        self.streams = Streams(settings.stream_requests)
        self.sequences = Sequences(MonotonicClock())
        self._tuning = Tuning(models, observer)
        self._status_codes = settings.status_codes
        self._siblings = Siblings(settings)
        self._detours = Detours(repeats, observer)
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
        if isinstance(error, QuotaExceeded):  # it knows when to come again, and is told at the door without an id
            return error
        return type(error)(f"[request id: {request.id or '<id_unknown>'}] {error}")

    async def infer(
        self, request: service_pb2.ModelInferRequest, rpc: Call, record: RpcRecord
    ) -> service_pb2.ModelInferResponse:
        """One inference, on a call of its own or in a stream."""
        given = asked(request)
        version = request.model_version
        if given.sequence is not None:
            if not given.idempotency_key:
                await asyncio.sleep(0)  # with a key it begins a turn later, in a task of its own: they keep their order
            step = given.sequence._replace(caller=name_of(rpc))
            given = given._replace(sequence=step)
            version = version or self.sequences.version_of(request.model_name, step)
        lane = find(self.models, request.model_name, version, record, given.subject.entity)
        deadline = self.admission.deadline(rpc.time_remaining(), lane.settings, record)
        if lane.fallback is not None or given.idempotency_key or given.sequence is not None:
            return await self._otherwise(request, rpc, given, self._ask(request, given, lane, deadline, record))
        ahead_s = lane.foresee(deadline, given.priority, compared=not version)
        inference = self._decoder(lane).decode(request, deadline, given)
        return encode(inference, await lane.score(inference, record, ahead_s))

    ModelInfer = scored(MODEL_INFER)(infer)
    _infer_in_stream = scored(MODEL_STREAM_INFER)(infer)

    async def ModelStreamInfer(self, requests: object, rpc: Call) -> None:
        await self.streams.serve(rpc, self._infer_in_stream)

    async def _otherwise(
        self, request: service_pb2.ModelInferRequest, rpc: Call, given: Asked, ask: Ask
    ) -> service_pb2.ModelInferResponse:
        """More is asked than that its lane answers."""
        step, key = given.sequence, given.idempotency_key
        if step is None or not ask.lane.spec.carried:
            return await self._detours.infer(request, rpc, key, ask)

        def carry() -> Awaitable[service_pb2.ModelInferResponse]:  # a state is this version's: nobody stands in for it
            return self._carry(request, step, ask)

        return await (self._detours.once(request, rpc, key, ask, carry) if key else carry())

    async def _carry(
        self, request: service_pb2.ModelInferRequest, step: SequenceStep, ask: Ask
    ) -> service_pb2.ModelInferResponse:
        """A request of a sequence, when its turn has come: what is in front of it then is another matter."""
        lane = ask.lane
        lane.foresee(ask.deadline, ask.priority, compared=False)
        inference = await ask.make(ask.deadline)

        def score() -> Awaitable[Answer]:
            ahead_s = lane.foresee(inference.deadline, inference.priority, compared=False)
            return lane.score(inference, ask.record, ahead_s)

        given = [tensor.name for tensor in request.inputs]
        with lane.visited():  # until its turn has come nothing else says that it is here
            answer = await self.sequences.of(lane).score(step, inference, given, score)
        return encode(inference, answer)

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
        assert_sees(rpc, request.name)
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
        assert_sees(rpc, request.name)
        lane = self.models.find(request.name, request.version)
        return description.metadata(lane.spec, self.models)

    @answering
    async def ModelConfig(self, request: service_pb2.ModelConfigRequest, rpc: Call) -> service_pb2.ModelConfigResponse:
        assert_sees(rpc, request.name)
        lane = self.models.find(request.name, request.version)
        return service_pb2.ModelConfigResponse(config=description.config(lane.spec, lane.settings))

    @answering
    async def ModelStatistics(
        self, request: service_pb2.ModelStatisticsRequest, rpc: Call
    ) -> service_pb2.ModelStatisticsResponse:
        if request.name:
            assert_sees(rpc, request.name)
        version = parse_version(request.version)
        own = self.own_statistics(request.name, version)
        asked = {(each.name, each.version) for each in own.model_stats if sees(rpc, each.name)}
        found = summed([own, *await self._siblings.statistics()])
        wanted = [statistics for statistics in found.model_stats if (statistics.name, statistics.version) in asked]
        return service_pb2.ModelStatisticsResponse(model_stats=wanted)

    @answering
    async def RepositoryIndex(
        self, request: service_pb2.RepositoryIndexRequest, rpc: Call
    ) -> service_pb2.RepositoryIndexResponse:
        if request.repository_name:
            raise Unsupported(REPOSITORY_NAME)
        found = description.index(self.models, ready_only=request.ready)
        return service_pb2.RepositoryIndexResponse(models=[each for each in found.models if sees(rpc, each.name)])

    @answering
    async def RepositoryModelLoad(
        self, request: service_pb2.RepositoryModelLoadRequest, rpc: Call
    ) -> service_pb2.RepositoryModelLoadResponse:
        await self._control.load(request, rpc)
        return service_pb2.RepositoryModelLoadResponse()

    @answering
    async def RepositoryModelUnload(
        self, request: service_pb2.RepositoryModelUnloadRequest, rpc: Call
    ) -> service_pb2.RepositoryModelUnloadResponse:
        await self._control.unload(request, rpc)
        return service_pb2.RepositoryModelUnloadResponse()

    @answering
    async def TraceSetting(
        self, request: service_pb2.TraceSettingRequest, rpc: Call
    ) -> service_pb2.TraceSettingResponse:
        return self._tuning.trace(request, rpc)

    @answering
    async def LogSettings(self, request: service_pb2.LogSettingsRequest, rpc: Call) -> service_pb2.LogSettingsResponse:
        return self._tuning.logs(request, rpc)


def _no_shared_memory(name: str) -> Any:
    async def refuse(self: InferenceServicer, _: Any, rpc: Call) -> None:
        await abort(rpc, self, Unsupported(DISABLED))

    refuse.__name__ = name
    return refuse


for _memory in ("System", "Cuda"):
    for _act in ("Status", "Register", "Unregister"):
        _name = f"{_memory}SharedMemory{_act}"
        setattr(InferenceServicer, _name, _no_shared_memory(_name))
