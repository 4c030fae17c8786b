"""RiskService's `explain`: what raised a score, told to those who ask, and computed for nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from tests.payments import mapping, payment
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.testing.gateway import running_gateway
from headrace.testing.payments import FakePaymentReplica, payment_spec
from headrace.v1 import control_pb2, risk_pb2, risk_pb2_grpc
from headrace_models import wire

Run = Callable[..., Any]
LABELS = list(payment_spec().extras[0].labels)


def ask(
    run: Run,
    tmp_path: Path,
    body: Callable[[Any, FakePaymentReplica], Awaitable[Any]],
    spec: control_pb2.ModelSpec | None = None,
) -> Any:
    async def main() -> Any:
        async with (
            FakePaymentReplica(spec) as replica,
            running_gateway(tmp_path, [replica]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            return await body(risk_pb2_grpc.RiskServiceStub(channel), replica)

    return run(main())


def score(*, explain: bool = True) -> risk_pb2.ScoreRequest:
    return risk_pb2.ScoreRequest(payment=payment(), explain=explain)


def batch(*asked: risk_pb2.Payment, explain: bool = True) -> risk_pb2.ScoreBatchRequest:
    return risk_pb2.ScoreBatchRequest(payments=asked, explain=explain)


def saying(*rows: list[float]) -> Callable[[Any], None]:
    """An answer whose factors are these."""
    return lambda answer: answer.columns.__setitem__(2, np.array(rows, "<f4").tobytes())


async def error_of(call: Awaitable[Any]) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


def told(signal: risk_pb2.Signal) -> list[tuple[str, float]]:
    return [(factor.name, factor.log_odds) for factor in signal.top_factors]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([0.5, -1, 2, 0, 0.25, 4, 1, 3, -2, 8, 0, 0.125], [(9, 8), (5, 4), (7, 3), (2, 2), (6, 1)]),
        ([0, -1, 0, 0, 0, 0, 0, 0, 0, 0.5, -3, 0.75], [(11, 0.75), (9, 0.5)]),
        ([2, 0, 2, 0, 0, 0, 0, 0, 0, 2, 0, 0], [(0, 2), (2, 2), (9, 2)]),
        ([-1.0] * 12, []),
        ([0.0] * 12, []),
    ],
    ids=["five at most", "only what raises it", "ties in the model's order", "nothing raises it", "nothing matters"],
)
def test_factors_are_what_raises_the_score_most_first(
    run: Run, tmp_path: Path, said: list[float], expected: list[tuple[int, float]]
) -> None:
    async def body(stub: Any, replica: FakePaymentReplica) -> Any:
        replica.change = saying(said)
        return (await stub.Score(score())).signals[0]

    assert told(ask(run, tmp_path, body)) == [(LABELS[place], by) for place, by in expected]


def test_who_does_not_ask_gets_the_same_score_and_nothing_is_computed_for_it(run: Run, tmp_path: Path) -> None:
    async def body(stub: Any, replica: FakePaymentReplica) -> Any:
        answers = [await stub.Score(score(explain=explain)) for explain in (False, True)]
        answers += [await stub.ScoreBatch(batch(payment(), payment(), explain=False))]
        return answers, [sent.wants_extras for sent in replica.batches]

    (plain, explained, several), wanted = ask(run, tmp_path, body)

    assert wanted == [b"", b"\1", b""]
    assert not plain.signals[0].top_factors
    assert not any(assessment.signals[0].top_factors for assessment in several.assessments)
    assert explained.signals[0].top_factors
    assert (plain.signals[0].probability, plain.signals[0].score) == (
        explained.signals[0].probability,
        explained.signals[0].score,
    )


def test_every_payment_of_a_batch_is_explained_and_a_wrong_one_is_not(run: Run, tmp_path: Path) -> None:
    wrong = payment()
    wrong.event.channel = "pigeon"
    rows = [[float(place == row) for place in range(12)] for row in (3, 10)]

    async def body(stub: Any, replica: FakePaymentReplica) -> Any:
        replica.change = saying(*rows)
        return await stub.ScoreBatch(batch(payment(1), wrong, payment(2))), replica.batches

    answer, batches = ask(run, tmp_path, body)

    assert [told(assessment.signals[0]) for assessment in answer.assessments] == [
        [(LABELS[3], 1)],
        [],
        [(LABELS[10], 1)],
    ]
    assert [sent.wants_extras for sent in batches] == [b"\1\1"]


def _without(spec: control_pb2.ModelSpec) -> None:
    del spec.extras[:]


def _another_name(spec: control_pb2.ModelSpec) -> None:
    spec.extras[0].name = "reasons"


def _nameless(spec: control_pb2.ModelSpec) -> None:
    del spec.extras[0].labels[:]


def _an_output(spec: control_pb2.ModelSpec) -> None:
    spec.outputs.append(spec.extras[0])
    del spec.extras[:]


@pytest.mark.parametrize("spoil", [_without, _another_name, _nameless, _an_output])
def test_a_model_that_cannot_explain_says_so_and_is_not_asked(
    run: Run, tmp_path: Path, spoil: Callable[[control_pb2.ModelSpec], None]
) -> None:
    spec = payment_spec()
    spoil(spec)

    async def body(stub: Any, replica: FakePaymentReplica) -> Any:
        return [await error_of(stub.Score(score())), await error_of(stub.ScoreBatch(batch(payment())))], replica.batches

    errors, batches = ask(run, tmp_path, body, spec)

    assert {error.code() for error in errors} == {grpc.StatusCode.INVALID_ARGUMENT}
    assert {error.details() for error in errors} == {"model 'fraud-tx' does not explain its scores"}
    assert not batches


def test_an_output_that_is_called_as_the_extra_is_keeps_nobody_from_a_score(run: Run, tmp_path: Path) -> None:
    """A model of one's own may have one, without labels and of any datatype."""
    spec = payment_spec()
    _an_output(spec)
    del spec.outputs[2].labels[:]

    async def body(stub: Any, replica: FakePaymentReplica) -> Any:
        replica.change = lambda answer: answer.columns.append(bytes(4 * 12))
        return await stub.Score(score(explain=False))

    assert ask(run, tmp_path, body, spec).signals[0].HasField("score")


def test_an_explained_payment_is_as_many_tokens_as_asking_for_the_extra_by_name(run: Run, tmp_path: Path) -> None:
    """What a batch may hold, and how long it will take, is told by its tokens: fourteen rows' worth, not one."""
    seen: list[int] = []

    async def main() -> None:
        async with (
            FakePaymentReplica() as replica,
            running_gateway(tmp_path, [replica]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            (lane,) = gateway.models.lanes()
            observe = lane.cost.observe
            lane.cost.observe = lambda tokens, seconds: (seen.append(tokens), observe(tokens, seconds))[1]
            risk = risk_pb2_grpc.RiskServiceStub(channel)
            await risk.Score(score(explain=False))
            await risk.Score(score())
            message = _tensors()
            for name in ("p", "top_factors"):
                message.outputs.add(name=name)
            await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message)

    run(main())

    assert seen == [9, 9 * 14, 9 * 14]  # four events of the card, five of the merchant


def _tensors() -> Any:
    asked = payment()
    histories = ([mapping(e) for e in history] for history in (asked.card_history, asked.merchant_history))
    return request("fraud-tx", wire.payment_columns(mapping(asked.event), *histories))
