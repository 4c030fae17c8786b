"""`headrace.v1.RiskService`: payments in their own words, riding in the same lanes and batches as tensors do.

Holds no state but the encoders of the lanes it has been asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from headrace.access import name_of
from headrace.config import RiskSettings
from headrace.core.batch import bad_rows
from headrace.core.inference import MAX_KEY, Inference
from headrace.core.records import RpcRecord
from headrace.core.tensors import ModelSpec
from headrace.errors import HeadraceError, InvalidInference, status_of
from headrace.gateway import digests, fallback
from headrace.gateway.admission import Admission
from headrace.gateway.answering import find, scored
from headrace.gateway.fallback import PRIOR, Ask, Scored
from headrace.gateway.idempotency import Question, Repeats, Scope
from headrace.gateway.lane import Lane
from headrace.gateway.models import Models
from headrace.gateway.observer import Observer
from headrace.gateway.payments import PaymentEncoder, Row
from headrace.gateway.signals import degrade, not_assessed, signals_of
from headrace.rpc.call import Call
from headrace.rpc.messages import MAX_SENTENCE
from headrace.v1 import risk_pb2, risk_pb2_grpc

RISK_SERVICE: Final = "headrace.v1.RiskService"
DEFAULT_MODEL: Final = "fraud-tx"

Request = risk_pb2.ScoreRequest | risk_pb2.ScoreBatchRequest
Response = TypeVar("Response", risk_pb2.ScoreResponse, risk_pb2.ScoreBatchResponse)
Rows = dict[int, Row]
"""Place in the request → the payment there."""
Wrong = dict[int, str]
"""Place in the request → what is wrong with the payment there."""


class RiskServicer(risk_pb2_grpc.RiskServiceServicer):
    """Scores payments, one or several at a time."""

    def __init__(
        self, models: Models, admission: Admission, observer: Observer, settings: RiskSettings, repeats: Repeats
    ) -> None:
        self.models = models
        self.admission = admission
        self.observer = observer
        self._cuts = settings.cuts
        self._repeats = repeats
        self._encoders: WeakKeyDictionary[Lane, PaymentEncoder] = WeakKeyDictionary()

    def ready(self) -> bool:
        """Some model that has a signal answers."""
        return any(lane.ready and lane.spec.signal is not None for lane in self.models.lanes())

    def code_of(self, error: HeadraceError) -> str:
        return status_of(error)

    def id_of(self, request: Request) -> str:
        return request.request_id

    def told(self, error: HeadraceError, request: Any) -> HeadraceError:
        return error

    @scored(f"{RISK_SERVICE}/Score")
    async def Score(self, request: risk_pb2.ScoreRequest, rpc: Call, record: RpcRecord) -> risk_pb2.ScoreResponse:
        lane, encoder = self._find(request, [request.payment], record)
        deadline = self.admission.deadline(rpc.time_remaining(), lane.settings, record)

        async def compute() -> risk_pb2.ScoreResponse:
            return await self._score(request, encoder, lane, deadline, record)

        if not request.idempotency_key:
            return await compute()
        question = self._question(request, [request.payment], rpc, lane, deadline, record)
        with lane.visited():
            return _given(request, *await self._repeats.answer(question, risk_pb2.ScoreResponse, compute))

    async def _score(
        self, request: risk_pb2.ScoreRequest, encoder: PaymentEncoder, lane: Lane, deadline: float, record: RpcRecord
    ) -> risk_pb2.ScoreResponse:
        rows: list[Row] = []

        async def make(until: float) -> Inference:
            if not request.HasField("payment"):
                raise InvalidInference("payment is missing")
            rows.append(encoder.encode(request.payment, "payment"))
            inference = encoder.join(rows, until, request.request_id, explain=request.explain)
            inference.compared = not request.version
            return inference

        ask = Ask(lane, make, 0, deadline, record, named=bool(request.version))
        scored = await fallback.score(ask, self.observer)
        response = risk_pb2.ScoreResponse(
            request_id=request.request_id,
            signals=self._signals(scored, record, explain=request.explain),
            truncated_card_events=rows[0].truncated_card_events,
            batch_rows=scored.answer.batch_rows,
            queue_us=scored.answer.queue_us,
            version_digest=self._digest(scored, record),
            batch_id=scored.answer.hex_id,
            path=scored.answer.path,
        )
        return _told(response, record)

    @scored(f"{RISK_SERVICE}/ScoreBatch")
    async def ScoreBatch(
        self, request: risk_pb2.ScoreBatchRequest, rpc: Call, record: RpcRecord
    ) -> risk_pb2.ScoreBatchResponse:
        lane, encoder = self._find(request, request.payments, record)
        deadline = self.admission.deadline(rpc.time_remaining(), lane.settings, record)

        async def compute() -> risk_pb2.ScoreBatchResponse:
            return await self._score_batch(request, encoder, lane, deadline, record)

        if not request.idempotency_key:
            return await compute()
        question = self._question(request, request.payments, rpc, lane, deadline, record)
        with lane.visited():
            return _given(request, *await self._repeats.answer(question, risk_pb2.ScoreBatchResponse, compute))

    async def _score_batch(
        self,
        request: risk_pb2.ScoreBatchRequest,
        encoder: PaymentEncoder,
        lane: Lane,
        deadline: float,
        record: RpcRecord,
    ) -> risk_pb2.ScoreBatchResponse:
        rows: Rows = {}
        wrong: Wrong = {}

        async def make(until: float) -> Inference:
            _check_size(len(request.payments), lane.spec)
            with lane.visited():
                await _encode_all(encoder, request.payments, rows, wrong)
            if not rows:
                raise InvalidInference(f"no payment can be assessed: {wrong[0]}")
            inference = encoder.join(list(rows.values()), until, request.request_id, explain=request.explain)
            inference.compared = not request.version
            return inference

        ask = Ask(lane, make, 0, deadline, record, named=bool(request.version))
        scored = await fallback.score(ask, self.observer)
        signals = dict(zip(rows, self._signals(scored, record, explain=request.explain), strict=True))
        response = risk_pb2.ScoreBatchResponse(
            request_id=request.request_id,
            assessments=[
                risk_pb2.Assessment(signals=[signals[place]], truncated_card_events=rows[place].truncated_card_events)
                if place in rows
                else risk_pb2.Assessment(signals=[not_assessed(lane.spec, f"invalid: {wrong[place]}"[:MAX_SENTENCE])])
                for place in range(len(request.payments))
            ],
            batch_rows=scored.answer.batch_rows,
            queue_us=scored.answer.queue_us,
            version_digest=self._digest(scored, record),
            batch_id=scored.answer.hex_id,
            path=scored.answer.path,
        )
        return _told(response, record)

    def _signals(self, scored: Scored, record: RpcRecord, *, explain: bool) -> list[risk_pb2.Signal]:
        """In the words of whoever has answered. Raises: BrokenContract."""
        signals = signals_of(scored.inference.spec, scored.answer, self._cuts, explain=explain)
        detour = record.detour
        if detour is not None and detour.reason:
            degrade(signals, f"fallback: {detour.reason}, by {detour.by}", modelled=detour.by != PRIOR)
        return signals

    def _digest(self, scored: Scored, record: RpcRecord) -> str:
        """Of the weights that answered; empty = none did."""
        return "" if record.detour is not None and record.detour.by == PRIOR else scored.inference.spec.digest

    @staticmethod
    def _question(
        request: Request,
        payments: Sequence[risk_pb2.Payment],
        rpc: Call,
        lane: Lane,
        deadline: float,
        record: RpcRecord,
    ) -> Question:
        """Of a request with a key. Raises: InvalidInference for one that is too long to be kept."""
        if len(request.idempotency_key) > MAX_KEY:
            raise InvalidInference(f"idempotency_key has more than {MAX_KEY} characters")
        scope = Scope(name_of(rpc), lane.spec.name, request.version, request.idempotency_key)
        several = isinstance(request, risk_pb2.ScoreBatchRequest)
        digest = digests.of_payments(payments, explain=request.explain, several=several)
        return Question(scope, digest, deadline, record)

    def _find(
        self,
        request: Request,
        payments: Sequence[risk_pb2.Payment],
        record: RpcRecord,
    ) -> tuple[Lane, PaymentEncoder]:
        lane = find(self.models, request.model or DEFAULT_MODEL, request.version, record, _entity(payments))
        encoder = self._encoders.get(lane)
        if encoder is None:
            encoder = self._encoders[lane] = PaymentEncoder(lane.spec)
        return lane, encoder


def _entity(payments: Sequence[risk_pb2.Payment]) -> str:
    """The card they all are of; empty where they are of several: one request is answered by one version."""
    cards = {payment.event.card_id for payment in payments}
    return cards.pop() if len(cards) == 1 else ""


def _check_size(count: int, spec: ModelSpec) -> None:
    if not 0 < count <= spec.max_rows:
        raise InvalidInference(f"a batch has 1 to {spec.max_rows} payments for model '{spec.name}', not {count}")


async def _encode_all(encoder: PaymentEncoder, payments: Sequence[risk_pb2.Payment], rows: Rows, wrong: Wrong) -> None:
    """Fill in the payments that can be assessed, and what is wrong with the others."""
    for place, payment in enumerate(payments):
        try:
            rows[place] = encoder.encode(payment, f"payments[{place}]")
        except InvalidInference as error:
            wrong[place] = str(error)
        await asyncio.sleep(0)  # others get their turn in between: a payment takes about a millisecond to encode
    _set_aside(encoder, rows, wrong)


def _told(response: Response, record: RpcRecord) -> Response:
    """The response, saying so where somebody else than the version in charge has answered."""
    detour = record.detour
    if detour is not None and detour.reason:
        response.fallback.reason, response.fallback.by = detour.reason, detour.by
    return response


def _given(request: Request, response: Response, repeated: bool) -> Response:  # noqa: FBT001  as `Repeats` says it
    """The response; another request's, as this one's caller gets it."""
    if repeated:
        response.request_id, response.idempotent_replay = request.request_id, True
    return response


def _set_aside(encoder: PaymentEncoder, rows: Rows, wrong: Wrong) -> None:
    """Move what the model itself refuses from `rows` to `wrong`: in a batch it would take its request out with it."""
    if not rows:
        return
    places = list(rows)
    for row, complaint in bad_rows(encoder.join(list(rows.values()), 0.0, "")).items():
        place = places[row]
        del rows[place]
        wrong[place] = f"payments[{place}]: {complaint}"
