"""ModelInfer where more is asked than that its lane answers: requests with an idempotency key, models with a fallback.

Called by the servicer for those alone; says in the response's parameters how its answer came about.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tritonclient.grpc import service_pb2

from headrace.access import name_of
from headrace.core.records import Detour
from headrace.gateway import digests, fallback
from headrace.gateway.codec import encode
from headrace.gateway.fallback import PRIOR, Ask
from headrace.gateway.idempotency import Question, Repeats, Scope
from headrace.gateway.observer import Observer
from headrace.rpc.call import Call


class Detours:
    """One a servicer."""

    def __init__(self, repeats: Repeats, observer: Observer) -> None:
        self._repeats = repeats
        self._observer = observer

    async def infer(
        self, request: service_pb2.ModelInferRequest, rpc: Call, key: str, ask: Ask
    ) -> service_pb2.ModelInferResponse:
        """Raises: what `Lane.score` raises; InvalidInference for a key that came with something else before."""
        return await self.once(request, rpc, key, ask, lambda: self._infer(ask)) if key else await self._infer(ask)

    async def once(
        self,
        request: service_pb2.ModelInferRequest,
        rpc: Call,
        key: str,
        ask: Ask,
        compute: Callable[[], Awaitable[service_pb2.ModelInferResponse]],
    ) -> service_pb2.ModelInferResponse:
        """What `compute` says, or has said to this key before. Raises: what it raises; InvalidInference as above."""
        question = self._question(request, rpc, key, ask)
        with ask.lane.visited():
            response, repeated = await self._repeats.answer(question, service_pb2.ModelInferResponse, compute)
        if repeated:
            response.id = request.id
            response.parameters["headrace_idempotent_replay"].bool_param = True
        return response

    async def _infer(self, ask: Ask) -> service_pb2.ModelInferResponse:
        scored = await fallback.score(ask, self._observer)
        response = encode(scored.inference, scored.answer)
        if ask.record.detour is not None and ask.record.detour.reason:
            _tell(ask.record.detour, response)
        return response

    def _question(self, request: service_pb2.ModelInferRequest, rpc: Call, key: str, ask: Ask) -> Question:
        scope = Scope(name_of(rpc), ask.lane.spec.name, request.model_version, key)
        return Question(scope, digests.of_tensors(request), ask.deadline, ask.record)


def _tell(detour: Detour, response: service_pb2.ModelInferResponse) -> None:
    """Never silent: a caller that reads parameters sees it, and in a prior no version of any model."""
    parameters = response.parameters
    parameters["headrace_fallback_reason"].string_param = detour.reason
    parameters["headrace_fallback_by"].string_param = detour.by
    if detour.by == PRIOR:
        response.model_version = ""
        parameters["headrace_version_digest"].string_param = ""
