"""Idempotent retries over a real socket: one answer a key, everybody's own id, and nothing of it without a key."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from tests.payments import payment
from tests.shadowing import policy, question, replica, running, until
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.gateway.server import Gateway
from headrace.telemetry import reading
from headrace.testing.gateway import running_gateway
from headrace.testing.payments import FakePaymentReplica
from headrace.testing.replica import FakeReplica
from headrace.v1 import replica_pb2, risk_pb2, risk_pb2_grpc

Run = Callable[..., Any]
Stub = Any
INVALID = grpc.StatusCode.INVALID_ARGUMENT
LATE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


def never_twice(replica: FakeReplica) -> FakeReplica:
    """Have it answer something else each time it is asked."""
    numbers = itertools.count()

    def change(answer: replica_pb2.PackedAnswer) -> None:
        values = np.frombuffer(answer.columns[0]) + next(numbers) / 1024
        answer.columns[0] = values.tobytes()

    replica.change = change
    return replica


@asynccontextmanager
async def gateway_of(tmp_path: Path, **flags: Any) -> AsyncIterator[tuple[Stub, FakeReplica, Gateway]]:
    async with (
        replica("1") as one,
        running(tmp_path, [never_twice(one)], policy(), **flags) as (gateway, _),
        aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
    ):
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel), one, gateway


def ask(number: int = 3, key: str = "order-17", request_id: str = "") -> service_pb2.ModelInferRequest:
    message = question(number, idempotency_key=key) if key else question(number)
    message.id = request_id
    return message


def is_replay(answer: service_pb2.ModelInferResponse) -> bool:
    return "headrace_idempotent_replay" in answer.parameters


def without_own(answer: service_pb2.ModelInferResponse) -> service_pb2.ModelInferResponse:
    """What two tries must have in common: all but their ids, and who was first."""
    same = service_pb2.ModelInferResponse()
    same.CopyFrom(answer)
    same.id = ""
    if is_replay(same):
        del same.parameters["headrace_idempotent_replay"]
    return same


async def error_of(call: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def page_of(gateway: Gateway) -> str:
    url = f"http://127.0.0.1:{gateway.metrics_port}/metrics"
    return await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())


def test_a_retry_gets_the_first_answer_under_its_own_id(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[list[Any], int]:
        async with gateway_of(tmp_path) as (stub, one, _):
            return [await stub.ModelInfer(ask(request_id=name)) for name in ("first", "second", "")], len(one.batches)

    answers, batches = run(main())

    assert batches == 1
    assert [answer.id for answer in answers] == ["first", "second", ""]
    assert [is_replay(answer) for answer in answers] == [False, True, True]
    assert without_own(answers[0]) == without_own(answers[1]) == without_own(answers[2])


def test_without_a_key_each_try_is_its_own_whatever_its_id(run: Run, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with gateway_of(tmp_path) as (stub, _, _):
            return [await stub.ModelInfer(ask(key="", request_id="same")) for _ in range(2)]

    first, second = run(main())

    assert first.raw_output_contents != second.raw_output_contents
    assert not is_replay(second)


def test_the_same_key_with_other_inputs_is_refused(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[aio.AioRpcError, Any]:
        async with gateway_of(tmp_path) as (stub, _, _):
            await stub.ModelInfer(ask(3))
            error = await error_of(stub.ModelInfer(ask(4, request_id="r")))
            return error, await stub.ModelInfer(ask(3))

    error, again = run(main())

    assert error.code() == INVALID
    assert error.details() == "[request id: r] this idempotency key came with other inputs before"
    assert is_replay(again)


def _kind(message: Any) -> None:
    message.parameters["headrace_idempotency_key"].int64_param = 7


def _empty(message: Any) -> None:
    message.parameters["headrace_idempotency_key"].string_param = ""


def _long(message: Any) -> None:
    message.parameters["headrace_idempotency_key"].string_param = "x" * 257


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [(_kind, "expected string_param"), (_empty, "expected a key of 1 to 256"), (_long, "at most 256 characters")],
)
def test_a_key_is_a_string_that_says_something(run: Run, tmp_path: Path, edit: Any, sentence: str) -> None:
    message = ask()
    edit(message)

    async def main() -> aio.AioRpcError:
        async with gateway_of(tmp_path) as (stub, _, _):
            return await error_of(stub.ModelInfer(message))

    error = run(main())

    assert error.code() == INVALID
    assert sentence in str(error.details())


def test_tries_at_the_same_time_are_computed_once_and_outlive_the_first(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[list[Any], int]:
        async with gateway_of(tmp_path) as (stub, one, gateway):
            one.hanging.set()
            first = stub.ModelInfer(ask(request_id="0"), timeout=30)
            await until(lambda: bool(one.batches))
            tries = [stub.ModelInfer(ask(request_id=str(n)), timeout=30) for n in (1, 2, 3)]
            await until(lambda: gateway.admission.held == 4)
            first.cancel()
            leaving = stub.ModelInfer(ask(), timeout=0.2)  # it comes behind the news that the first has left
            assert (await error_of(leaving)).code() in LATE
            one.hanging.clear()
            return list(await asyncio.gather(*tries)), len(one.batches)

    answers, batches = run(main())

    assert batches == 1
    assert [answer.id for answer in answers] == ["1", "2", "3"]
    assert all(is_replay(answer) for answer in answers)
    assert len({answer.raw_output_contents[0] for answer in answers}) == 1


def test_a_try_that_waits_is_told_at_its_own_deadline(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[aio.AioRpcError, Any]:
        async with gateway_of(tmp_path) as (stub, one, gateway):
            one.hanging.set()
            first = asyncio.ensure_future(stub.ModelInfer(ask(), timeout=30))
            await until(lambda: gateway.admission.held == 1 and bool(one.batches))
            error = await error_of(stub.ModelInfer(ask(), timeout=0.3))
            one.hanging.clear()
            return error, await first

    error, first = run(main())

    assert error.code() in LATE
    assert not is_replay(first)


def test_a_failure_is_not_remembered(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[aio.AioRpcError, Any]:
        async with gateway_of(tmp_path) as (stub, one, _):
            one.refuse_with = grpc.StatusCode.INTERNAL
            error = await error_of(stub.ModelInfer(ask()))
            one.refuse_with = None
            return error, await stub.ModelInfer(ask())

    error, answer = run(main())

    assert error.code() == grpc.StatusCode.INTERNAL
    assert not is_replay(answer)


def test_a_fallbacks_answer_is_not_remembered(run: Run, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        models = {"echo": {"primary_version": "1", "fallback": {"prior": {"sum": -1}}}}
        async with gateway_of(tmp_path, models=models) as (stub, one, _):
            one.refuse_with = FULL
            first = await stub.ModelInfer(ask(), timeout=30)
            one.refuse_with = None
            return [first, await stub.ModelInfer(ask(), timeout=30), await stub.ModelInfer(ask(), timeout=30)]

    answers = run(main())

    paths = ["headrace_fallback_by" in answer.parameters for answer in answers]
    assert paths == [True, False, False]
    assert [is_replay(answer) for answer in answers] == [False, False, True]


def test_without_a_window_only_those_at_the_same_time_share(run: Run, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with gateway_of(tmp_path, gateway__idempotency_window_s=0) as (stub, _, _):
            return [await stub.ModelInfer(ask()) for _ in range(2)]

    assert not any(is_replay(answer) for answer in run(main()))


def test_a_key_is_its_callers_own(run: Run, tmp_path: Path) -> None:
    callers = [
        {"name": name, "token_sha256": hashlib.sha256(f"token-{name}".encode()).hexdigest(), "may": ["infer"]}
        for name in ("shop", "till")
    ]

    async def main() -> list[bool]:
        async with gateway_of(tmp_path, access={"mode": "closed", "callers": callers}) as (stub, _, _):
            found = []
            for name in ("shop", "till", "shop", "till"):
                metadata = (("authorization", f"Bearer token-{name}"),)
                found.append(is_replay(await stub.ModelInfer(ask(), metadata=metadata)))
            return found

    assert run(main()) == [False, False, True, True]


def test_a_replay_is_no_inference_and_every_result_is_counted(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[str, Any]:
        async with gateway_of(tmp_path) as (stub, _, gateway):
            for _ in range(3):
                await stub.ModelInfer(ask())
            await error_of(stub.ModelInfer(ask(4)))
            statistics = await stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="echo"))
            return await page_of(gateway), statistics.model_stats[0]

    page, statistics = run(main())

    stats = statistics.inference_stats
    assert (statistics.inference_count, statistics.execution_count) == (1, 1)
    assert (stats.success.count, stats.queue.count, stats.fail.count) == (3, 3, 1)
    assert (stats.cache_hit.count, stats.cache_miss.count, stats.compute_infer.count) == (2, 1, 1)
    for result, count in (("computed", 1), ("replayed", 2), ("conflict", 1)):
        assert f'headrace_idempotency_total{{model="echo",result="{result}",version="1"}} {count}.0' in page
    assert "headrace_idempotency_answers 1.0" in page


def test_the_trace_of_a_replay_leads_to_the_request_it_was_computed_for(run: Run, tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with gateway_of(tmp_path) as (stub, _, _):
            found = []
            for _ in range(2):
                call = stub.ModelInfer(ask())
                await call
                found.append(dict(await call.trailing_metadata())["traceparent"].split("-")[1])
            return found

    first_id, second_id = run(main())
    (first,), (second,) = reading.find(tmp_path, first_id), reading.find(tmp_path, second_id)

    assert first.rpc.attributes["headrace.idempotency"] == "computed"
    assert not first.rpc.links
    assert {span.name for span in first.own} >= {"queue", "execute", "forward"}
    assert second.rpc.attributes["headrace.idempotency"] == "replayed"
    assert second.rpc.links == ((first.rpc.trace_id, first.rpc.span_id),)
    assert second.own == [second.rpc]


# RiskService ----------------------------------------------------------------------------------------------------------


def test_payments_are_retried_in_the_same_way(run: Run, tmp_path: Path) -> None:
    asked = risk_pb2.ScoreRequest(payment=payment(), idempotency_key="p", request_id="a")
    several = risk_pb2.ScoreBatchRequest(payments=[payment(), payment(1)], idempotency_key="q", request_id="a")
    other = risk_pb2.ScoreRequest(payment=payment(amount=13), idempotency_key="p")

    async def main() -> tuple[list[Any], int, aio.AioRpcError, aio.AioRpcError]:
        async with FakePaymentReplica() as one:
            async with (
                running_gateway(tmp_path, [one]) as (gateway, _),
                aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
            ):
                stub = risk_pb2_grpc.RiskServiceStub(channel)
                found = [await stub.Score(asked), await stub.ScoreBatch(several)]
                asked.request_id = several.request_id = "b"
                found += [await stub.Score(asked), await stub.ScoreBatch(several)]
                batches, error = len(one.batches), await error_of(stub.Score(other))
                other.idempotency_key = "x" * 257
                return found, batches, error, await error_of(stub.Score(other))

    (first, first_batch, again, again_batch), batches, error, too_long = run(main())

    assert batches == 2
    assert (first.request_id, again.request_id, again_batch.request_id) == ("a", "b", "b")
    assert [answer.idempotent_replay for answer in (first, again, again_batch)] == [False, True, True]
    assert list(again.signals) == list(first.signals)
    assert list(again_batch.assessments) == list(first_batch.assessments)
    assert (error.code(), too_long.code()) == (INVALID, INVALID)
    assert "more than 256 characters" in str(too_long.details())
