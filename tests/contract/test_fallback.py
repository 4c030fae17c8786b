"""Fallbacks over a real socket: who answers when the version in charge cannot, what is said of it, when nobody may."""

from __future__ import annotations

import asyncio
import logging
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from tests.payments import payment
from tests.shadowing import Sums, policy, question, replica, right, running, shadow, until
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.gateway.server import Gateway
from headrace.rpc.health import READINESS
from headrace.telemetry import reading, waterfall
from headrace.testing.gateway import running_gateway
from headrace.testing.payments import FakePaymentReplica, payment_spec
from headrace.testing.replica import ECHO_SPEC, FakeReplica
from headrace.v1 import control_pb2, replica_pb2, risk_pb2, risk_pb2_grpc

Run = Callable[..., Any]
Stub = Any
PREVIOUS = {"version": "previous", "reserve_ms": 400}
PRIOR = {"prior": {"sum": -1}, "reserve_ms": 400}
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


def named(name: str, version: str = "1") -> FakeReplica:
    spec = control_pb2.ModelSpec()
    spec.CopyFrom(ECHO_SPEC)
    spec.name, spec.version = name, version
    return FakeReplica(spec)


@asynccontextmanager
async def two_versions(
    tmp_path: Path, fallback: dict[str, Any] | None, **flags: Any
) -> AsyncIterator[tuple[Stub, FakeReplica, FakeReplica, Gateway]]:
    """Version 2 is in charge, version 1 is there as well."""
    model = {"echo": {"primary_version": "2", "fallback": fallback}} | flags.pop("models", {})
    async with (
        replica("1") as one,
        replica("2") as two,
        running(tmp_path, [one, two], policy(primary="2"), models=model, **flags) as (gateway, _),
        aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
    ):
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel), one, two, gateway


def value(answer: service_pb2.ModelInferResponse) -> float:
    return float(np.frombuffer(answer.raw_output_contents[0])[0])


def said(answer: service_pb2.ModelInferResponse) -> tuple[str, str, str]:
    names = ("headrace_path", "headrace_fallback_reason", "headrace_fallback_by")
    found = [answer.parameters[name].string_param if name in answer.parameters else "" for name in names]
    return found[0], found[1], found[2]


async def error_of(call: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def lost(stub: Stub, replica: FakeReplica) -> None:
    """It dies, and its gateway has found that out."""
    await replica.stop()
    answer = await stub.ModelInfer(question(1), timeout=1.0)
    assert said(answer)[:2] == ("fallback", "replica_loss")


def versioned(message: service_pb2.ModelInferRequest, version: str) -> service_pb2.ModelInferRequest:
    message.model_version = version
    return message


# Who answers, and why -------------------------------------------------------------------------------------------------


def test_whoever_would_wait_past_its_deadline_gets_the_previous_version_in_time(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Any, float]:
        async with two_versions(tmp_path, PREVIOUS) as (stub, _, two, _):
            two.hanging.set()
            begun = time.monotonic()
            answer = await stub.ModelInfer(question(3), timeout=1.0)
            took_s = time.monotonic() - begun
            two.hanging.clear()
            return answer, took_s

    answer, took_s = run(main())

    assert value(answer) == right(3)
    assert said(answer) == ("fallback", "deadline", "version:1")
    assert (answer.model_name, answer.model_version) == ("echo", "1")
    assert 0.5 < took_s < 1.0


def test_a_full_queue_hands_over_at_once(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Any, float]:
        async with two_versions(tmp_path, PREVIOUS) as (stub, _, two, _):
            two.refuse_with = FULL
            begun = time.monotonic()
            return await stub.ModelInfer(question(3), timeout=30), time.monotonic() - begun

    answer, took_s = run(main())

    assert (value(answer), said(answer)) == (right(3), ("fallback", "overload", "version:1"))
    assert took_s < 10


def test_a_version_without_a_replica_is_not_waited_for(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Any, float]:
        async with two_versions(tmp_path, PREVIOUS) as (stub, _, two, _):
            await lost(stub, two)
            begun = time.monotonic()
            return await stub.ModelInfer(question(3), timeout=30), time.monotonic() - begun

    answer, took_s = run(main())

    assert (value(answer), said(answer)) == (right(3), ("fallback", "replica_loss", "version:1"))
    assert took_s < 10


def test_a_replica_that_dies_with_the_request_is_a_lost_one(run: Run, tmp_path: Path) -> None:
    async def main() -> Any:
        async with two_versions(tmp_path, PREVIOUS) as (stub, _, two, _):
            two.hanging.set()
            asking = asyncio.ensure_future(stub.ModelInfer(question(3), timeout=1.5))
            await until(lambda: bool(two.batches))
            await two.stop()
            return await asking

    answer = run(main())

    assert (value(answer), said(answer)) == (right(3), ("fallback", "replica_loss", "version:1"))


def test_another_model_answers_under_its_own_name(run: Run, tmp_path: Path) -> None:
    async def main() -> Any:
        async with FakeReplica() as large, named("small", "7") as small:
            models = {"echo": {"primary_version": "1", "fallback": {"model": "small"}}}
            async with (
                running_gateway(tmp_path, [large, small], models=models) as (gateway, _),
                aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
            ):
                large.refuse_with = FULL
                return await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(question(4), timeout=30)

    answer = run(main())

    assert (value(answer), said(answer)) == (right(4), ("fallback", "overload", "model:small"))
    assert (answer.model_name, answer.model_version) == ("small", "7")


def test_a_prior_is_what_it_is_in_every_row_and_names_no_version(run: Run, tmp_path: Path) -> None:
    message = question(3)
    for tensor, place in zip(message.inputs, range(2), strict=True):
        tensor.shape[0] = 3
        message.raw_input_contents[place] *= 3

    async def main() -> Any:
        async with two_versions(tmp_path, PRIOR) as (stub, one, two, _):
            one.refuse_with = two.refuse_with = FULL
            return await stub.ModelInfer(message, timeout=30)

    answer = run(main())

    assert np.frombuffer(answer.raw_output_contents[0]).tolist() == [-1, -1, -1]
    assert list(answer.outputs[0].shape) == [3, 1]
    assert said(answer) == ("fallback", "overload", "prior")
    assert (answer.model_name, answer.model_version) == ("echo", "")
    assert answer.parameters["headrace_batch_rows"].int64_param == 0


def test_the_prior_is_the_last_resort_where_somebody_else_fails_as_well(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Any, int]:
        async with two_versions(tmp_path, PREVIOUS | PRIOR) as (stub, one, two, _):
            one.refuse_with = two.refuse_with = FULL
            return await stub.ModelInfer(question(3), timeout=30), len(one.batches)

    answer, asked = run(main())

    assert (value(answer), said(answer)) == (-1, ("fallback", "overload", "prior"))
    assert asked > 0


def test_an_overload_is_handed_on_only_as_far_as_it_may(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], int]:
        fallback = PREVIOUS | PRIOR | {"max_in_flight_rows": 2}
        async with two_versions(tmp_path, fallback) as (stub, one, two, _):
            one.hanging.set()
            two.refuse_with = FULL
            asking = [asyncio.ensure_future(stub.ModelInfer(question(key), timeout=30)) for key in range(12)]
            await until(lambda: sum(one.done() for one in asking) == 10)
            one.hanging.clear()
            answers = await asyncio.gather(*asking)
            return Counter(said(answer)[2] for answer in answers), sum(batch.rows for batch in one.batches)

    told, rows = run(main())

    assert told == {"version:1": 2, "prior": 10}
    assert rows == 2


def test_when_all_is_well_nobody_else_is_asked_and_nothing_is_said(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Any, int]:
        async with two_versions(tmp_path, PREVIOUS | PRIOR) as (stub, one, _, _):
            return await stub.ModelInfer(question(3), timeout=10), len(one.batches)

    answer, asked = run(main())

    assert (value(answer), answer.model_version, said(answer)[1:], asked) == (right(3), "2", ("", ""), 0)


# When nobody may ------------------------------------------------------------------------------------------------------


def test_without_the_setting_the_caller_gets_the_error(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[aio.AioRpcError, int]:
        async with two_versions(tmp_path, None) as (stub, one, two, _):
            two.refuse_with = FULL
            return await error_of(stub.ModelInfer(question(3), timeout=30)), len(one.batches)

    error, asked = run(main())

    assert (error.code(), asked) == (grpc.StatusCode.UNAVAILABLE, 0)


def test_a_request_that_names_its_version_gets_that_or_an_error(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[aio.AioRpcError, int]:
        async with two_versions(tmp_path, PREVIOUS | PRIOR) as (stub, one, two, _):
            two.refuse_with = FULL
            return await error_of(stub.ModelInfer(versioned(question(3), "2"), timeout=30)), len(one.batches)

    error, asked = run(main())

    assert (error.code(), asked) == (grpc.StatusCode.UNAVAILABLE, 0)


def test_a_reason_that_is_not_listed_is_told_to_the_caller(run: Run, tmp_path: Path) -> None:
    async def main() -> aio.AioRpcError:
        async with two_versions(tmp_path, PRIOR | {"reasons": ["deadline", "replica_loss"]}) as (stub, _, two, _):
            two.refuse_with = FULL
            return await error_of(stub.ModelInfer(question(3), timeout=30))

    assert run(main()).code() == grpc.StatusCode.UNAVAILABLE


def wrong_inputs() -> list[service_pb2.ModelInferRequest]:
    """A shape, a value and an output that the model does not have."""
    shape, value_, output = question(3), question(3), question(3)
    shape.inputs[0].shape[1] = 99
    value_.raw_input_contents[0] = np.full((1, 4, 2), np.nan, np.float32).tobytes()
    output.outputs.add(name="nothing")
    return [shape, value_, output]


def test_wrong_input_is_told_and_never_covered_up(run: Run, tmp_path: Path) -> None:
    async def main() -> list[grpc.StatusCode]:
        async with two_versions(tmp_path, PRIOR) as (stub, _, two, _):
            await lost(stub, two)
            return [(await error_of(stub.ModelInfer(wrong, timeout=30))).code() for wrong in wrong_inputs()]

    assert run(main()) == [grpc.StatusCode.INVALID_ARGUMENT] * 3


@pytest.mark.parametrize("status", [replica_pb2.ROW_STATUS_FAILED, replica_pb2.ROW_STATUS_NOT_FINITE])
def test_a_model_that_fails_is_not_covered_up(run: Run, tmp_path: Path, status: Any) -> None:
    def spoil(answer: replica_pb2.PackedAnswer) -> None:
        answer.status = bytes([status]) * len(answer.status)

    async def main() -> aio.AioRpcError:
        async with two_versions(tmp_path, PREVIOUS | PRIOR) as (stub, _, two, _):
            two.change = spoil
            return await error_of(stub.ModelInfer(question(3), timeout=30))

    assert run(main()).code() == grpc.StatusCode.INTERNAL


def test_a_fallback_that_fails_leaves_the_first_error(run: Run, tmp_path: Path) -> None:
    async def main() -> aio.AioRpcError:
        async with two_versions(tmp_path, PREVIOUS) as (stub, one, two, _):
            one.refuse_with = grpc.StatusCode.INTERNAL
            two.refuse_with = FULL
            return await error_of(stub.ModelInfer(question(3), timeout=30))

    error = run(main())

    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "every replica's queue is full" in str(error.details())


def test_nobody_is_asked_for_a_caller_that_has_left(run: Run, tmp_path: Path) -> None:
    async def main() -> int:
        async with two_versions(tmp_path, PREVIOUS | PRIOR) as (stub, one, two, gateway):
            two.hanging.set()
            asking = stub.ModelInfer(question(3), timeout=30)
            await until(lambda: bool(two.batches))
            asking.cancel()
            await until(lambda: not gateway.admission.held)
            two.hanging.clear()
            return len(one.batches)

    assert run(main()) == 0


def test_a_later_version_never_stands_in(run: Run, tmp_path: Path) -> None:
    """One that nobody has promoted is unproven."""

    async def main() -> aio.AioRpcError:
        async with replica("1") as one, replica("2") as two:
            models = {"echo": {"primary_version": "1", "fallback": PREVIOUS}}
            async with (
                running(tmp_path, [one, two], policy(primary="1"), models=models) as (gateway, _),
                aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
            ):
                one.refuse_with = FULL
                return await error_of(
                    service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(question(3), timeout=30)
                )

    assert run(main()).code() == grpc.StatusCode.UNAVAILABLE


def test_a_prior_that_does_not_fit_a_version_is_said_once_and_given_to_nobody(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> aio.AioRpcError:
        async with two_versions(tmp_path, {"prior": {"total": 1}}) as (stub, _, two, _):
            two.refuse_with = FULL
            return await error_of(stub.ModelInfer(question(3), timeout=30))

    error = run(main())

    said_of_it = [record.getMessage() for record in caplog.records if "prior" in record.getMessage()]
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert len(said_of_it) == 2  # one a version
    assert all("'total', which is no output" in sentence for sentence in said_of_it)


# What else knows ------------------------------------------------------------------------------------------------------


def test_an_experiment_counts_the_failure_and_not_the_fallbacks_answer(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[list[tuple[str, str, str]], Sums]:
        async with replica("1") as one, replica("2") as two:
            models = {"echo": {"primary_version": "1", "fallback": PREVIOUS}}
            rules = policy(shadow(), canary=1.0)
            async with running(tmp_path, [one, two], rules, models=models) as (gateway, control):
                two.refuse_with = FULL
                async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                    answers = [await stub.ModelInfer(question(k, entity=f"card-{k}"), timeout=30) for k in range(5)]
                await gateway.stop()
                return [said(answer) for answer in answers], Sums(control)

    told, sums = run(main())

    assert set(told) == {("fallback", "overload", "version:1")}
    assert sums.asked == (0, 0, 5, 5)


def test_the_counters_say_who_failed_and_who_answered(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[str, Any]:
        async with two_versions(tmp_path, PREVIOUS) as (stub, _, two, gateway):
            two.refuse_with = FULL
            for key in range(3):
                await stub.ModelInfer(question(key), timeout=30)
            url = f"http://127.0.0.1:{gateway.metrics_port}/metrics"
            page = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
            return page, await stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="echo"))

    page, statistics = run(main())

    by_version = {one.version: one for one in statistics.model_stats}
    label = 'by="version:1",model="echo",reason="overload",version="2"'
    assert f"headrace_fallback_total{{{label}}} 3.0" in page
    assert 'headrace_request_duration_seconds_count{code="OK",model="echo",path="fallback",version="2"} 3.0' in page
    assert 'nv_inference_request_failure{model="echo",reason="REJECTED",version="2"} 3.0' in page
    assert "headrace_shed_total{" not in page  # no caller was refused
    assert (by_version["2"].inference_stats.success.count, by_version["2"].inference_stats.fail.count) == (0, 3)
    assert (by_version["1"].inference_stats.success.count, by_version["1"].inference_stats.fail.count) == (3, 0)
    assert (by_version["1"].inference_count, by_version["1"].inference_stats.compute_infer.count) == (3, 3)


def test_the_trace_shows_both_tries_and_says_which_one_was_told(run: Run, tmp_path: Path) -> None:
    async def main() -> str:
        async with two_versions(tmp_path, PREVIOUS) as (stub, _, two, _):
            two.hanging.set()
            call = stub.ModelInfer(question(3), timeout=1.0)
            await call
            two.hanging.clear()
            return dict(await call.trailing_metadata())["traceparent"].split("-")[1]

    trace_id = run(main())
    (trace,) = reading.find(tmp_path, trace_id)
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(waterfall.draw(trace))
    drawn = console.export_text()

    rpc = trace.rpc.attributes
    assert (rpc["headrace.path"], rpc["headrace.keep"]) == ("fallback", "fallback")
    assert (rpc["headrace.fallback.reason"], rpc["headrace.fallback.by"]) == ("deadline", "version:1")
    assert rpc["headrace.fallback.error"] == "DeadlinePassed"
    assert rpc["headrace.model.version"] == "2"
    first = {span.name: span.attributes for span in trace.own if span is not trace.rpc}
    assert first.keys() == {"queue", "execute"}
    assert {one["headrace.path"] for one in first.values()} == {"primary"}
    assert [span.name for span in trace.copies] == ["queue", "execute", "forward"]
    assert {span.attributes["headrace.path"] for span in trace.copies} == {"fallback"}
    assert {span.attributes["headrace.model.version"] for span in trace.copies} == {"1"}
    assert "asked instead: echo 1" in drawn
    assert "answered by a fallback, version:1: deadline (DeadlinePassed)" in drawn


def test_the_log_has_a_line_for_it(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with two_versions(tmp_path, PRIOR) as (stub, _, two, _):
            two.refuse_with = FULL
            await stub.ModelInfer(question(3), timeout=30)

    with caplog.at_level(logging.INFO, "headrace.requests"):
        run(main())

    (line,) = [record for record in caplog.records if record.name == "headrace.requests"]
    fields = line.fields  # type: ignore[attr-defined]
    assert (line.getMessage(), line.levelname) == ("Fallback", "INFO")
    assert (fields["fallback"], fields["by"], fields["instead_of"]) == ("overload", "prior", "Overloaded")
    assert (fields["code"], fields["version"]) == ("OK", "2")


def test_an_outage_does_not_end_in_not_found(run: Run, tmp_path: Path) -> None:
    """A version without replicas is forgotten after a while: not one that somebody stands in for."""

    async def main() -> tuple[Counter[str], tuple[str, str, str]]:
        async with two_versions(tmp_path, PRIOR, gateway__retire_after_s=0.05) as (stub, one, two, gateway):
            lanes = {lane.spec.version: lane for lane in gateway.models.lanes()}
            await one.stop()
            await two.stop()
            gateway.models.apply(control_pb2.Snapshot(policies=[policy(primary="2")]))
            await until(lambda: all(lane.idle_s() > 0.05 for lane in lanes.values()))
            await gateway.models.retire()
            left = Counter(lane.spec.version for lane in gateway.models.lanes())
            return left, said(await stub.ModelInfer(question(3), timeout=30))

    left, told = run(main())

    assert left == {"2": 1}
    assert told == ("fallback", "replica_loss", "prior")


def test_a_gateway_that_has_never_seen_the_version_in_charge_says_so_and_is_not_ready(run: Run, tmp_path: Path) -> None:
    """It came up in the middle of an outage. Who named no version has made no mistake: that may be tried again."""

    async def main() -> tuple[aio.AioRpcError, str]:
        models = {"echo": {"primary_version": "1", "fallback": PREVIOUS}}
        required = {"gateway__required_models": ["echo"]}
        async with (
            replica("1") as one,
            running(tmp_path, [one], policy(primary="2"), models=models, **required) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await until(lambda: gateway._readiness._shown.get("echo", False))  # version 1, which callers may name
            error = await error_of(stub.ModelInfer(question(3), timeout=10))
            health = health_pb2_grpc.HealthStub(channel)
            told = await health.Check(health_pb2.HealthCheckRequest(service=READINESS), timeout=5)
            return error, health_pb2.HealthCheckResponse.ServingStatus.Name(told.status)

    error, ready = run(main())

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details().endswith("Request for unknown model: 'echo' version 2 is not at ready state")
    assert ready == "NOT_SERVING"


# RiskService ----------------------------------------------------------------------------------------------------------


def paying(version: str) -> FakePaymentReplica:
    spec = payment_spec()
    spec.version = version
    return FakePaymentReplica(spec)


def score(run: Run, tmp_path: Path, fallback: dict[str, Any], request: Any) -> Any:
    """What RiskService answers while version 2, which is in charge, refuses."""

    async def main() -> Any:
        async with paying("1") as one, paying("2") as two:
            models = {"fraud-tx": {"fallback": fallback, "primary_version": "2"}}
            async with (
                running_gateway(tmp_path, [one, two], models=models) as (gateway, _),
                aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
            ):
                await until(lambda: len(gateway.models.lanes()) == 2)
                two.refuse_with = FULL
                stub = risk_pb2_grpc.RiskServiceStub(channel)
                method = stub.Score if isinstance(request, risk_pb2.ScoreRequest) else stub.ScoreBatch
                return await method(request, timeout=30)

    return run(main())


def test_a_payment_is_assessed_by_the_previous_version_and_the_signal_says_so(run: Run, tmp_path: Path) -> None:
    answer = score(run, tmp_path, PREVIOUS, risk_pb2.ScoreRequest(payment=payment()))

    (signal,) = answer.signals
    assert (answer.fallback.reason, answer.fallback.by) == ("overload", "version:1")
    assert (signal.model_version, signal.degraded_reason) == ("1", "fallback: overload, by version:1")
    assert signal.HasField("evaluated_at")


def test_a_prior_is_a_signal_that_no_model_has_given(run: Run, tmp_path: Path) -> None:
    prior = {"prior": {"p": 0.03, "score": 20}}
    wrong = payment(channel="pigeon")
    answer = score(run, tmp_path, prior, risk_pb2.ScoreBatchRequest(payments=[payment(), wrong, payment(1, 0)]))

    first, second, third = (assessment.signals[0] for assessment in answer.assessments)
    assert (answer.fallback.reason, answer.fallback.by) == ("overload", "prior")
    for signal in (first, third):
        assert (signal.probability, signal.score) == (pytest.approx(0.03), 20)
        assert signal.level == risk_pb2.RISK_LEVEL_LOW
        assert (signal.model, signal.model_version, signal.calibration_version) == ("fraud-tx", "", "")
        assert not signal.HasField("evaluated_at")
        assert signal.degraded_reason == "fallback: overload, by prior"
    assert second.level == risk_pb2.RISK_LEVEL_NOT_ASSESSED
    assert second.degraded_reason.startswith("invalid: ")


def test_reasons_are_given_by_a_model_or_not_at_all(run: Run, tmp_path: Path) -> None:
    asked = risk_pb2.ScoreRequest(payment=payment(), explain=True)

    explained = score(run, tmp_path, PREVIOUS, asked)
    with pytest.raises(aio.AioRpcError) as caught:
        score(run, tmp_path, {"prior": {"p": 0.03, "score": 20}}, asked)

    assert explained.signals[0].top_factors
    assert caught.value.code() == FULL
