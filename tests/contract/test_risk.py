"""RiskService over a real socket: what it answers, what it refuses, and that it rides with everybody else."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.payments import NOON_S, earlier, event, mapping, payment
from tests.sink import Sink
from tests.trace_checker import attributes
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request, scores
from headrace.telemetry import context
from headrace.testing.gateway import running_gateway
from headrace.testing.payments import FakePaymentReplica, payment_spec
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2, risk_pb2, risk_pb2_grpc
from headrace_models import wire

Run = Callable[..., Any]
Stub = Any
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_ASSESSED = risk_pb2.RISK_LEVEL_NOT_ASSESSED


@asynccontextmanager
async def gateway_of(tmp_path: Path, replica: FakeReplica, **flags: Any) -> Any:
    async with (
        replica,
        running_gateway(tmp_path, [replica], **flags) as (gateway, _),
        aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
    ):
        yield gateway, channel


def ask(run: Run, tmp_path: Path, body: Callable[[Stub, FakeReplica], Awaitable[Any]], **flags: Any) -> Any:
    async def main() -> Any:
        replica = FakePaymentReplica()
        async with gateway_of(tmp_path, replica, **flags) as (_, channel):
            return await body(risk_pb2_grpc.RiskServiceStub(channel), replica)

    return run(main())


def score(asked: risk_pb2.Payment, **more: Any) -> risk_pb2.ScoreRequest:
    return risk_pb2.ScoreRequest(payment=asked, **more)


def batch(*asked: risk_pb2.Payment) -> risk_pb2.ScoreBatchRequest:
    return risk_pb2.ScoreBatchRequest(payments=asked)


async def error_of(call: Awaitable[Any]) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


# Answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["", "1"])
@pytest.mark.parametrize("asked", [payment(), payment(0, 0), payment(1, 0), payment(0, 7)])
def test_a_payment_gets_the_answer_that_its_tensors_get(
    run: Run, tmp_path: Path, asked: risk_pb2.Payment, version: str
) -> None:
    columns = wire.payment_columns(
        mapping(asked.event),
        [mapping(e) for e in asked.card_history],
        [mapping(e) for e in asked.merchant_history],
    )

    async def main() -> Any:
        async with gateway_of(tmp_path, FakePaymentReplica()) as (_, channel):
            typed = risk_pb2_grpc.RiskServiceStub(channel).Score(score(asked, request_id="abc", version=version))
            tensors = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request("fraud-tx", columns))
            return await typed, scores(await tensors)[0]

    typed, tensors = run(main())

    (signal,) = typed.signals
    assert (signal.probability, signal.score) == (pytest.approx(tensors.p), tensors.score)
    assert (signal.name, signal.model, signal.model_version) == ("fraud", "fraud-tx", "1")
    assert signal.calibration_version == payment_spec().signal.calibration_version
    assert signal.evaluated_at.seconds > NOON_S
    assert signal.degraded_reason == ""
    assert (typed.request_id, typed.truncated_card_events) == ("abc", 0)
    assert typed.batch_rows >= 1
    assert (typed.version_digest, typed.path) == (payment_spec().digest, "primary")
    assert len(typed.batch_id) == 16


def test_given_aggregates_of_the_merchant_are_taken_as_they_are(run: Run, tmp_path: Path) -> None:
    asked = payment()
    computed = wire.payment_columns(
        mapping(asked.event), (), [mapping(e) for e in asked.merchant_history]
    )["merchant_stats"][0]  # fmt: skip
    same, other = payment(), payment()
    same.merchant_stats.extend(computed.tolist())
    other.merchant_stats.extend([0.5] * 8)

    async def body(stub: Stub, _: FakeReplica) -> list[float]:
        return [(await stub.Score(score(p))).signals[0].probability for p in (asked, same, other)]

    first, second, third = ask(run, tmp_path, body)

    assert first == second != third


def test_events_without_an_id_are_not_the_payment_in_hand(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, replica: FakeReplica) -> Any:
        nameless = [event("", NOON_S - 60), event("", NOON_S - 30)]
        await stub.Score(score(risk_pb2.Payment(event=event(""), card_history=nameless)))
        await stub.Score(score(risk_pb2.Payment(event=event("p"), card_history=[event("p", NOON_S - 60)])))
        return [np.frombuffer(sent.lengths[0], "<i4").tolist() for sent in replica.batches]

    assert ask(run, tmp_path, body) == [[3], [1]]


@pytest.mark.parametrize(("cards", "dropped"), [(127, 0), (128, 1), (300, 173)])
def test_a_history_over_the_cap_says_how_much_of_it_was_not_looked_at(
    run: Run, tmp_path: Path, cards: int, dropped: int
) -> None:
    async def body(stub: Stub, replica: FakeReplica) -> Any:
        alone = await stub.Score(score(payment(cards)))
        several = await stub.ScoreBatch(batch(payment(0), payment(cards)))
        assert np.frombuffer(replica.batches[0].lengths[0], "<i4").tolist() == [cards + 1 - dropped]
        return [alone.truncated_card_events, *(a.truncated_card_events for a in several.assessments)]

    assert ask(run, tmp_path, body) == [dropped, 0, dropped]


def test_a_model_with_a_smaller_cap_looks_at_its_newest_events(run: Run, tmp_path: Path) -> None:
    spec = payment_spec()
    spec.axes[0].cap = 2

    async def main() -> Any:
        replica = FakePaymentReplica(spec)
        async with gateway_of(tmp_path, replica) as (_, channel):
            answer = await risk_pb2_grpc.RiskServiceStub(channel).Score(score(payment(5)))
            return answer.truncated_card_events, np.frombuffer(replica.batches[0].columns[1], "<f4").tolist()

    assert run(main()) == (4, [5.0, 12.5])


def test_the_level_is_that_of_the_score_and_the_cut_points(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, _: FakeReplica) -> Any:
        answer = await stub.ScoreBatch(batch(*(payment(i) for i in range(40))))
        return [(a.signals[0].score, a.signals[0].level) for a in answer.assessments]

    told = ask(run, tmp_path, body, risk__normal=10, risk__elevated=20, risk__highest=30)

    assert {level for _, level in told} == {1, 2, 3, 4}
    assert all(level == 1 + min(points // 10, 3) for points, level in told)


# Several --------------------------------------------------------------------------------------------------------------


def test_a_wrong_payment_is_not_assessed_and_its_neighbours_ride_as_one(run: Run, tmp_path: Path) -> None:
    good, other, wrong = payment(2, 4), payment(9, 0), payment(3)
    wrong.card_history[1].channel = "pigeon"

    async def body(stub: Stub, replica: FakeReplica) -> Any:
        alone = [(await stub.Score(score(p))).signals[0] for p in (good, other)]
        replica.batches.clear()
        return alone, await stub.ScoreBatch(batch(good, wrong, other)), replica.batches

    alone, answer, batches = ask(run, tmp_path, body)

    first, second, third = (assessment.signals[0] for assessment in answer.assessments)
    assert [first.probability, third.probability] == [signal.probability for signal in alone]
    assert [first.score, third.score] == [signal.score for signal in alone]
    assert second.level == NOT_ASSESSED
    assert second.degraded_reason == (
        "invalid: payments[1].card_history[1]: channel 'pigeon' is not one of "
        "chip, contactless, magstripe, ecommerce, recurring, phone_order, atm"
    )
    assert not second.HasField("probability")
    assert not second.HasField("score")
    assert not second.HasField("evaluated_at")
    assert (second.model, second.model_version) == ("fraud-tx", "1")
    assert [sent.rows for sent in batches] == [2]
    assert answer.batch_rows == 2
    assert answer.batch_id == f"{batches[0].batch_id:016x}"
    assert (answer.version_digest, answer.path) == (payment_spec().digest, "primary")


def test_what_only_the_model_refuses_is_set_aside_too(run: Run, tmp_path: Path) -> None:
    spec = payment_spec()
    spec.inputs[1].minimum = 5  # card_amount: this model knows no small payments

    async def main() -> Any:
        async with gateway_of(tmp_path, FakePaymentReplica(spec)) as (_, channel):
            stub = risk_pb2_grpc.RiskServiceStub(channel)
            small = payment(0, amount=1.0)
            return await stub.ScoreBatch(batch(small, payment(0))), await error_of(stub.ScoreBatch(batch(small)))

    answer, error = run(main())

    sentence = "payments[0]: input 'card_amount' has a value below 5"
    assert answer.assessments[0].signals[0].degraded_reason == f"invalid: {sentence}"
    assert answer.assessments[1].signals[0].HasField("score")
    assert (error.code(), error.details()) == (INVALID, f"no payment can be assessed: {sentence}")


def test_a_batch_is_neither_empty_nor_larger_than_the_model_takes(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, _: FakeReplica) -> Any:
        full = await stub.ScoreBatch(batch(*[payment(0)] * 64))
        return full, [await error_of(stub.ScoreBatch(batch(*[payment(0)] * count))) for count in (0, 65)]

    full, errors = ask(run, tmp_path, body)

    assert len(full.assessments) == 64
    assert [error.code() for error in errors] == [INVALID] * 2
    assert errors[1].details() == "a batch has 1 to 64 payments for model 'fraud-tx', not 65"


def test_a_batch_of_nothing_but_wrong_payments_is_refused(run: Run, tmp_path: Path) -> None:
    error = ask(run, tmp_path, lambda stub, _: error_of(stub.ScoreBatch(batch(risk_pb2.Payment()))))

    assert (error.code(), error.details()) == (INVALID, "no payment can be assessed: payments[0].event is missing")


def test_typed_and_tensor_requests_ride_together(run: Run, tmp_path: Path) -> None:
    columns = wire.payment_columns(mapping(event()))

    async def main() -> Any:
        replica = FakePaymentReplica()
        async with gateway_of(tmp_path, replica) as (_, channel):
            risk, oip = risk_pb2_grpc.RiskServiceStub(channel), service_pb2_grpc.GRPCInferenceServiceStub(channel)
            replica.hanging.set()
            calls = [oip.ModelInfer(request("fraud-tx", columns))]
            await _until(lambda: replica.batches)
            for _ in range(2):  # the first rides behind the one that hangs, the others gather
                calls += [risk.Score(score(payment())), oip.ModelInfer(request("fraud-tx", columns))]
            calls.append(risk.ScoreBatch(batch(payment(1), payment(2))))
            await asyncio.sleep(0.2)
            replica.hanging.clear()
            answers = await asyncio.gather(*calls)
            return answers, [sent.rows for sent in replica.batches]

    answers, rows = run(main())

    assert sum(rows) == 7
    assert max(rows) >= 4, "of the five that gathered at least one is of each kind"
    assert answers[1].signals[0].score == answers[3].signals[0].score
    assert scores(answers[0]) == scores(answers[2]) == scores(answers[4])


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


# Refusals -------------------------------------------------------------------------------------------------------------


def _change(**changes: Any) -> Callable[[risk_pb2.Payment], None]:
    return lambda asked: asked.event.MergeFrom(risk_pb2.PaymentEvent(**changes))


def _history(**changes: Any) -> Callable[[risk_pb2.Payment], None]:
    return lambda asked: asked.merchant_history[2].MergeFrom(risk_pb2.PaymentEvent(**changes))


def _stats(*values: float) -> Callable[[risk_pb2.Payment], None]:
    return lambda asked: asked.merchant_stats.extend(values)


AMOUNT = "amount is not a finite number of at least 0"
YEARS = "is not a time of the years 1 to 9999"
REFUSALS: list[tuple[Callable[[risk_pb2.Payment], object], str]] = [
    (lambda p: p.Clear(), "payment.event is missing"),
    (lambda p: p.event.ClearField("ts"), "payment.event: ts is missing"),
    (lambda p: p.card_history[2].ClearField("ts"), "payment.card_history[2]: ts is missing"),
    (_change(channel="pigeon"), "payment.event: channel 'pigeon' is not one of chip, contactless"),
    (_history(outcome="maybe"), "payment.merchant_history[2]: outcome 'maybe' is not one of approved, declined"),
    (_change(amount=-1.0), f"payment.event: {AMOUNT}"),
    (_change(amount=math.nan), f"payment.event: {AMOUNT}"),
    (_change(amount=1e39), f"payment.event: {AMOUNT}"),
    (_history(amount=math.inf), f"payment.merchant_history[2]: {AMOUNT}"),
    (_change(country="FRA"), "payment.event: country 'FRA' is not an ISO code of 2 letters"),
    (_change(currency="€"), "payment.event: currency '€' is not an ISO code of 3 letters"),
    (_change(mcc=10_000), "payment.event: mcc 10000 is not one of 0 to 9999"),
    (lambda p: setattr(p.event.ts, "seconds", 2**62), f"payment.event: ts {YEARS}"),
    (lambda p: setattr(p.event.ts, "nanos", -1), f"payment.event: ts {YEARS}"),
    (lambda p: setattr(p.merchant_history[0].label_ts, "nanos", 10**9), f"merchant_history[0]: label_ts {YEARS}"),
    (_stats(1.0), "payment.merchant_stats has 1 numbers, but takes 8 or none"),
    (_stats(*[1.0] * 7, math.nan), "payment.merchant_stats has a number that is not finite"),
    (
        lambda p: p.card_history.extend(earlier(1024)),
        "payment.card_history has 1027 events, but a request may carry 1024 of them",
    ),
]


@pytest.mark.parametrize(("spoil", "sentence"), REFUSALS, ids=[r[1][:50] for r in REFUSALS])
def test_a_wrong_payment_is_told_what_is_wrong_and_where(
    run: Run, tmp_path: Path, spoil: Callable[[risk_pb2.Payment], object], sentence: str
) -> None:
    asked = payment()
    spoil(asked)

    async def body(stub: Stub, replica: FakeReplica) -> Any:
        return await error_of(stub.Score(score(asked))), replica.batches

    error, batches = ask(run, tmp_path, body)

    assert error.code() is INVALID
    assert sentence in error.details()
    assert not batches


def test_a_request_without_a_payment_is_refused(run: Run, tmp_path: Path) -> None:
    error = ask(run, tmp_path, lambda stub, _: error_of(stub.Score(risk_pb2.ScoreRequest())))

    assert (error.code(), error.details()) == (INVALID, "payment is missing")


@pytest.mark.parametrize(
    ("named", "code", "sentence"),
    [
        ({"model": "x"}, "NOT_FOUND", "Request for unknown model: 'x' is not found"),
        ({"version": "9"}, "NOT_FOUND", "Request for unknown model: 'fraud-tx' version 9 is not found"),
        ({"version": "one"}, "INVALID_ARGUMENT", "failed to get model version from specified version string"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    run: Run, tmp_path: Path, named: dict[str, str], code: str, sentence: str
) -> None:
    error = ask(run, tmp_path, lambda stub, _: error_of(stub.Score(score(payment(), **named))))

    assert error.code().name == code
    assert sentence in error.details()


def _no_signal(spec: control_pb2.ModelSpec) -> None:
    spec.ClearField("signal")


def _no_score(spec: control_pb2.ModelSpec) -> None:
    spec.outputs[1].name = "rank"


def _score_of_two(spec: control_pb2.ModelSpec) -> None:
    spec.outputs[1].dims[:] = [2]


def _another_input(spec: control_pb2.ModelSpec) -> None:
    spec.inputs[8].name = "weather"


def _another_width(spec: control_pb2.ModelSpec) -> None:
    spec.inputs[2].dims[1] = 6


def _fixed_history(spec: control_pb2.ModelSpec) -> None:
    spec.inputs[1].axis, spec.inputs[1].dims[:] = "", [1]


def _one_axis(spec: control_pb2.ModelSpec) -> None:
    spec.inputs[4].axis = "card"


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_no_signal, "it declares no signal"),
        (_no_score, "it has no output 'score' of one number"),
        (_score_of_two, "it has no output 'score' of one number"),
        (_another_input, "its input 'weather' is no column of a payment"),
        (_another_width, "its input 'card_codes' is no column of a payment"),
        (_fixed_history, "its input 'card_amount' is no column of a payment"),
        (_one_axis, "its input 'merchant_ts' shares an axis with another stream"),
    ],
)
def test_a_model_that_cannot_be_asked_about_payments_says_why(
    run: Run, tmp_path: Path, spoil: Callable[[control_pb2.ModelSpec], None], complaint: str
) -> None:
    spec = payment_spec()
    spoil(spec)

    async def main() -> Any:
        async with gateway_of(tmp_path, FakePaymentReplica(spec)) as (_, channel):
            return await error_of(risk_pb2_grpc.RiskServiceStub(channel).Score(score(payment())))

    error = run(main())

    assert error.code() is INVALID
    assert error.details() == f"model 'fraud-tx' cannot be asked about payments: {complaint}"


def test_a_model_that_needs_a_history_of_the_merchant_says_so(run: Run, tmp_path: Path) -> None:
    spec = payment_spec()
    spec.axes[1].required = True

    async def main() -> Any:
        async with gateway_of(tmp_path, FakePaymentReplica(spec)) as (_, channel):
            return await error_of(risk_pb2_grpc.RiskServiceStub(channel).Score(score(payment(1, 0))))

    error = run(main())

    assert (error.code(), error.details()) == (
        INVALID,
        "payment: axis 'merchant' of model 'fraud-tx' needs an event",
    )


def test_an_answer_that_is_no_score_is_internal(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, replica: FakeReplica) -> Any:
        replica.change = lambda answer: answer.columns.__setitem__(1, np.array([100], "<i4").tobytes())
        return await error_of(stub.Score(score(payment())))

    error = ask(run, tmp_path, body)

    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "the model's answer is not a probability and a score"


# Time and load --------------------------------------------------------------------------------------------------------


def test_a_caller_who_gives_no_deadline_gets_the_models(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, replica: FakeReplica) -> Any:
        replica.hanging.set()
        error = await error_of(stub.Score(score(payment())))
        replica.hanging.clear()
        return error

    error = ask(run, tmp_path, body, models={"fraud-tx": {"batching": {"default_timeout_ms": 50}}})

    assert (error.code(), error.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, "Request timeout expired")


@pytest.mark.parametrize("rpc", ["Score", "ScoreBatch"])
def test_a_grpc_deadline_is_kept_to(run: Run, tmp_path: Path, rpc: str) -> None:
    message = score(payment()) if rpc == "Score" else batch(payment(1), payment(2))

    async def body(stub: Stub, replica: FakeReplica) -> Any:
        replica.hanging.set()
        begun = asyncio.get_running_loop().time()
        error = await error_of(getattr(stub, rpc)(message, timeout=0.1))
        replica.hanging.clear()
        return error.code(), asyncio.get_running_loop().time() - begun

    code, took_s = ask(run, tmp_path, body)

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert took_s < 1.0


def test_a_full_queue_refuses_at_once_with_a_pushback(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, replica: FakeReplica) -> Any:
        replica.delay_s = 0.2
        calls = [stub.Score(score(payment(0, 0))) for _ in range(40)]
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = ask(run, tmp_path, body, models={"fraud-tx": {"batching": {"max_queue_rows": 4}}})
    refused = [answer for answer in answers if isinstance(answer, aio.AioRpcError)]

    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert dict(refused[0].trailing_metadata())["grpc-retry-pushback-ms"] == "50"
    assert len(answers) - len(refused) >= 4


def test_a_caller_that_goes_away_gives_its_place_back(run: Run, tmp_path: Path) -> None:
    async def main() -> Any:
        replica = FakePaymentReplica()
        async with gateway_of(tmp_path, replica) as (gateway, channel):
            stub = risk_pb2_grpc.RiskServiceStub(channel)
            replica.hanging.set()
            gone = stub.ScoreBatch(batch(payment(1), payment(2)))
            await _until(lambda: replica.batches)
            gone.cancel()
            await _until(lambda: not gateway.admission.held)
            replica.hanging.clear()
            return await stub.Score(score(payment()), timeout=5)

    assert run(main()).signals[0].HasField("score")


# The world around -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rpc", ["Score", "ScoreBatch"])
def test_its_span_has_its_name_and_its_callers_trace(run: Run, tmp_path: Path, rpc: str) -> None:
    sink = Sink()
    trace_id, parent = bytes([9]) * 16, 0xAA
    message: Any = score(payment(2), request_id="r-1") if rpc == "Score" else batch(payment(1), payment(0))

    async def main() -> Any:
        async with gateway_of(tmp_path, FakePaymentReplica(), telemetry__otlp_endpoint=sink.endpoint) as (_, channel):
            stub = risk_pb2_grpc.RiskServiceStub(channel)
            traceparent = context.header(trace_id, parent, sampled=True)
            call = getattr(stub, rpc)(message, metadata=(("traceparent", traceparent),))
            await call
            refused = getattr(stub, rpc)(type(message)())
            await error_of(refused)
            return dict(await call.trailing_metadata()), dict(await refused.trailing_metadata())

    answered, refused = run(main())
    spans = [span for _, span in sink.spans()]
    sink.close()

    method = f"headrace.v1.RiskService/{rpc}"
    told = {span.trace_id: span for span in spans if span.name == method}
    mine = told[trace_id]
    assert len(told) == 2
    assert int.from_bytes(mine.parent_span_id) == parent
    assert attributes(mine)["rpc.method"] == method
    assert attributes(mine)["rpc.response.status_code"] == "OK"
    below = {span.name for span in spans if span.trace_id == trace_id and span.name != method}
    assert below >= {"queue", "execute", "forward"}
    assert answered["traceparent"].split("-")[1:3] == [trace_id.hex(), mine.span_id.hex()]
    assert [part.split(";")[0] for part in answered["server-timing"].split(", ")] == ["queue", "execute", "forward"]
    assert "traceparent" in refused


def test_reflection_tells_of_the_service_and_all_its_messages(run: Run, tmp_path: Path) -> None:
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="headrace.v1.RiskService"),
    ]

    async def main() -> Any:
        async with gateway_of(tmp_path, FakePaymentReplica()) as (_, channel):
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(questions))
            listed, files = await call.read(), await call.read()
            call.cancel()
            return {service.name for service in listed.list_services_response.service}, files

    services, files = run(main())

    assert "headrace.v1.RiskService" in services
    assert len(files.file_descriptor_response.file_descriptor_proto) == 2  # its own, and google's Timestamp


def test_health_says_whether_some_model_has_a_signal(run: Run, tmp_path: Path) -> None:
    async def main(kind: type[FakeReplica]) -> str:
        async with gateway_of(tmp_path, kind()) as (_, channel):
            await asyncio.sleep(0.2)  # health is compared with the replicas every 0.1 s
            question = health_pb2.HealthCheckRequest(service="headrace.v1.RiskService")
            answer = await health_pb2_grpc.HealthStub(channel).Check(question)
            return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    assert run(main(FakePaymentReplica)) == "SERVING"
    assert run(main(FakeReplica)) == "NOT_SERVING"
