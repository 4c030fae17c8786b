"""Extras and inputs that may be left out, over a real socket: who asks gets them, whoever rides along never notices.

Behind the gateway is a replica whose model adds up a row, and says why to those who ask: its events, and its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.client import request
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import ECHO_SPEC, FakeReplica
from headrace.v1 import control_pb2, replica_pb2

Run = Callable[..., Any]
Stub = Any


def spec() -> control_pb2.ModelSpec:
    found = control_pb2.ModelSpec()
    found.CopyFrom(ECHO_SPEC)
    found.inputs.add(name="bonus", datatype="FP32", dims=[2], optional=True, finite=True)
    found.extras.add(name="why", datatype="FP64", dims=[2], labels=["events", "key"], costs_rows=4)
    return found


class Explaining(FakeReplica):
    """Adds the bonus to the sum, and explains it to the rows that ask."""

    def __init__(self) -> None:
        super().__init__(spec())

    def _answer(self, request: replica_pb2.PackedBatch) -> replica_pb2.PackedAnswer:
        answer = super()._answer(request)
        keys = np.frombuffer(request.columns[1], "<i8")
        sums = np.frombuffer(answer.columns[0], "<f8")
        bonus = np.frombuffer(request.columns[2], "<f4").reshape(-1, 2).sum(1)
        answer.columns[0] = (sums + bonus).astype("<f8").tobytes()
        if request.wants_extras:
            why = np.stack([sums - keys, keys], 1) * np.frombuffer(request.wants_extras, np.uint8)[:, None]
            answer.columns.append(why.astype("<f8").tobytes())
        return answer


def ask(
    *outputs: str, key: int = 7, rows: int = 1, length: int = 3, value: float = 1.0, **optional: np.ndarray
) -> service_pb2.ModelInferRequest:
    columns = {"events": np.full((rows, length, 2), value, np.float32), "key": np.full((rows, 1), key, np.int64)}
    message = request("echo", columns | optional)
    for name in outputs:
        message.outputs.add(name=name)
    return message


def read(answer: service_pb2.ModelInferResponse) -> dict[str, list[float]]:
    values = (np.frombuffer(data, "<f8").tolist() for data in answer.raw_output_contents)
    return {output.name: found for output, found in zip(answer.outputs, values, strict=True)}


def with_gateway(run: Run, tmp_path: Path, body: Callable[[Stub, Explaining], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with (
            Explaining() as replica,
            running_gateway(tmp_path, [replica]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            return await body(service_pb2_grpc.GRPCInferenceServiceStub(channel), replica)

    return run(main())


async def error_of(call: Awaitable[Any]) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def together(replica: Explaining, stub: Stub, messages: list[service_pb2.ModelInferRequest]) -> list[Any]:
    """Their answers out of one batch: they gather behind two that hang."""
    replica.hanging.set()
    ahead = []
    for place in range(2):  # one runs, one is staged behind it
        ahead.append(asyncio.ensure_future(stub.ModelInfer(ask(rows=8))))
        await until(lambda place=place: len(replica.batches) > place)
    calls = [asyncio.ensure_future(stub.ModelInfer(message)) for message in messages]
    await asyncio.sleep(0.2)
    replica.hanging.clear()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.gather(*ahead)
    return answers


def test_an_extra_is_answered_to_whoever_names_it_and_computed_for_nobody_else(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, replica: Explaining) -> Any:
        answers = [await stub.ModelInfer(ask(*named)) for named in ((), ("why",), ("why", "sum"), ("sum",))]
        return [read(answer) for answer in answers], [sent.wants_extras for sent in replica.batches]

    answers, wanted = with_gateway(run, tmp_path, body)

    assert [list(answer) for answer in answers] == [["sum"], ["why"], ["why", "sum"], ["sum"]]
    assert answers[2] == {"why": [6, 7], "sum": [13]}
    assert wanted == [b"", b"\1", b"\1", b""]


def test_riders_who_ask_and_riders_who_do_not_share_a_batch_and_get_their_own(run: Run, tmp_path: Path) -> None:
    messages = [
        ask(key=1, length=1),
        ask("why", key=2, rows=2, length=2),
        ask("sum", key=3, rows=3, length=0),
        ask("sum", "why", key=4, length=4),
    ]

    async def body(stub: Stub, replica: Explaining) -> Any:
        return [read(answer) for answer in await together(replica, stub, messages)], replica.batches[-1]

    answers, batch = with_gateway(run, tmp_path, body)

    assert batch.rows == 7
    assert batch.wants_extras == bytes([0, 1, 1, 0, 0, 0, 1])
    assert answers == [{"sum": [3]}, {"why": [4, 2, 4, 2]}, {"sum": [3, 3, 3]}, {"sum": [12], "why": [8, 4]}]


def test_where_the_only_one_who_asks_leaves_the_batch_nothing_is_explained(run: Run, tmp_path: Path) -> None:
    messages = [ask(key=1), ask("why", key=2, value=float("nan")), ask(key=3)]

    async def body(stub: Stub, replica: Explaining) -> Any:
        return await together(replica, stub, messages), replica.batches[-1]

    (first, refused, third), batch = with_gateway(run, tmp_path, body)

    assert (batch.rows, batch.wants_extras) == (2, b"")
    assert (read(first), read(third)) == ({"sum": [7]}, {"sum": [9]})
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_batch_closes_where_its_extras_are_as_many_tokens_as_it_may_have(run: Run, tmp_path: Path) -> None:
    """Ten events and four rows' worth of extras are 50 tokens; a batch may have 256."""
    messages = [ask("why", key=key, length=10) for key in range(8)]

    async def body(stub: Stub, replica: Explaining) -> Any:
        return await together(replica, stub, messages), [sent.rows for sent in replica.batches[2:]]

    answers, rows = with_gateway(run, tmp_path, body)

    assert rows == [5, 3]
    assert [read(answer)["why"] for answer in answers] == [[20, key] for key in range(8)]


@pytest.mark.parametrize(
    ("named", "spoil"),
    [
        (("why",), lambda answer: answer.columns.pop()),
        (("why",), lambda answer: answer.columns.__setitem__(1, b"12345678")),
        ((), lambda answer: answer.columns.append(bytes(16))),
    ],
    ids=["asked and not there", "asked and too short", "there and not asked"],
)
def test_an_answer_has_extras_where_somebody_asked_and_nowhere_else(
    run: Run, tmp_path: Path, named: tuple[str, ...], spoil: Callable[[Any], Any]
) -> None:
    async def body(stub: Stub, replica: Explaining) -> Any:
        replica.change = spoil
        return await error_of(stub.ModelInfer(ask(*named)))

    error = with_gateway(run, tmp_path, body)

    assert error.code() is grpc.StatusCode.INTERNAL
    assert "does not have the shape its spec promises" in error.details()


def test_what_is_left_out_is_zeros_and_what_is_given_counts_in_one_batch(run: Run, tmp_path: Path) -> None:
    messages = [ask(key=1), ask(key=1, bonus=np.array([[10, 5]], np.float32)), ask(key=1)]

    async def body(stub: Stub, replica: Explaining) -> Any:
        return await together(replica, stub, messages), replica.batches[-1].rows

    answers, rows = with_gateway(run, tmp_path, body)

    assert rows == 3
    assert [read(answer)["sum"] for answer in answers] == [[7], [22], [7]]


def test_a_value_of_what_may_be_left_out_is_looked_at_too(run: Run, tmp_path: Path) -> None:
    message = ask(bonus=np.array([[1, np.nan]], np.float32))

    error = with_gateway(run, tmp_path, lambda stub, _: error_of(stub.ModelInfer(message)))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'bonus' has a value that is not finite" in error.details()


def test_the_model_is_described_with_its_optional_inputs_and_without_its_extras(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, _: Explaining) -> Any:
        return (
            await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="echo")),
            (await stub.ModelConfig(service_pb2.ModelConfigRequest(name="echo"))).config,
        )

    metadata, config = with_gateway(run, tmp_path, body)

    assert [tensor.name for tensor in metadata.inputs] == ["events", "key", "bonus"]
    assert [tensor.name for tensor in metadata.outputs] == ["sum"]
    assert {tensor.name: tensor.optional for tensor in config.input} == {"events": False, "key": False, "bonus": True}
    assert [tensor.name for tensor in config.output] == ["sum"]
