"""A replica that answers nonsense: callers hear a clean status, no error is ours, and the truth is told again after."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import pytest
from grpc import aio
from tests.bad_input.liars import Liar, Lie, truth
from tests.fuzz.mutation import mutated
from tests.fuzz.targets.target import no_error_of_ours
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.testing.gateway import running_gateway
from headrace.v1 import replica_pb2

Run = Callable[..., Any]
MOST: Final = 2**64 - 1


def changed(**fields: Any) -> Lie:
    """The truth with some fields overwritten."""

    def lie(answer: replica_pb2.PackedAnswer) -> list[bytes]:
        for name, value in fields.items():
            if isinstance(value, (list, replica_pb2.Stamps)):
                answer.ClearField(name)
                answer.MergeFrom(replica_pb2.PackedAnswer(**{name: value}))
            else:
                setattr(answer, name, value)
        return truth(answer)

    return lie


LIES: Final[dict[str, Lie]] = {
    "no protobuf": lambda _: [b"\xff\xff\xff"],
    "no columns": changed(columns=[]),
    "a column too many": changed(columns=[b"12345678", b""]),
    "a column cut short": changed(columns=[b"1234567"]),
    "no status": changed(status=b""),
    "a status too many": changed(status=b"\0\0"),
    "a status that is none": changed(status=b"\x4d"),
    "a code that is none": changed(code=99),
    "a code for callers": changed(code=grpc.StatusCode.UNAUTHENTICATED.value[0], message="x" * 100_000),
    "an answer to nobody, then the true one": lambda a: [changed(batch_id=a.batch_id ^ 1)(_copy(a))[0], *truth(a)],
    "the true one twice": lambda answer: truth(answer) * 2,
    "moments beyond time": changed(stamps=replica_pb2.Stamps(received_ns=1, started_ns=MOST, packed_ns=MOST)),
    "moments backwards": changed(stamps=replica_pb2.Stamps(received_ns=MOST, started_ns=1, copied_ns=MOST)),
    "counts beyond counting": changed(padded_tokens=MOST, queued=2**32 - 1),
}
TOLD: Final = {
    "right",
    "INTERNAL: the replica's answer does not have the shape its spec promises",
    "INTERNAL: the replica refused the batch",
    "UNAVAILABLE: the replica was lost and the retry failed too",
    "UNAVAILABLE: the replica was lost, and too many others were lately",
}


def _copy(answer: replica_pb2.PackedAnswer) -> replica_pb2.PackedAnswer:
    return replica_pb2.PackedAnswer.FromString(answer.SerializeToString())


async def _ask(stub: Any, key: int) -> str:
    columns = {"events": np.full((1, 2, 2), 0.5, np.float32), "key": np.array([[key]], np.int64)}
    try:
        answer = await stub.ModelInfer(request("echo", columns), timeout=8)
    except aio.AioRpcError as error:
        return f"{error.code().name}: {str(error.details()).partition('] ')[2]}"
    return "right" if np.frombuffer(answer.raw_output_contents[0])[0] == 2.0 + key else "wrong"


@pytest.mark.parametrize("name", LIES)
def test_who_is_lied_to_hears_a_status_and_the_truth_when_it_is_told_again(run: Run, tmp_path: Path, name: str) -> None:
    async def main() -> tuple[set[str], list[str]]:
        async with Liar() as liar, running_gateway(tmp_path, [liar]) as (gateway, _):
            async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                assert await _ask(stub, 0) == "right"
                liar.lie = LIES[name]
                lied = {await _ask(stub, key) for key in range(3)}
                liar.lie = truth
                after = [await _ask(stub, key) for key in range(20)]
                (lane,) = gateway.models.lanes()
                assert 0 < lane.cost.predict_s(10) < 1
                return lied, after

    with no_error_of_ours("headrace.gateway"), no_error_of_ours("headrace.rpc"):
        lied, after = run(main())

    assert lied <= TOLD
    assert after == ["right"] * 20


def test_an_answer_that_was_changed_anyhow_is_an_answer_of_its_size_or_a_status(run: Run, tmp_path: Path) -> None:
    """Numbers of the right size can't be told from true ones; whatever is not of the right size must be."""
    source = random.Random(7)
    sparing = frozenset({"batch_id", "columns", "code"})

    def lie(answer: replica_pb2.PackedAnswer) -> list[bytes]:
        return truth(mutated(answer, source, sparing))

    async def main() -> tuple[set[str], str]:
        async with Liar() as liar, running_gateway(tmp_path, [liar]) as (gateway, _):
            async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                liar.lie = lie
                lied = {await _ask(stub, key) for key in range(300)}
                liar.lie = truth
                return lied, await _ask(stub, 1)

    with no_error_of_ours("headrace.gateway"), no_error_of_ours("headrace.rpc"):
        lied, after = run(main())

    rows = {"UNAVAILABLE: Request timeout expired", "INTERNAL: the model's answer is not a finite number"}
    assert lied <= TOLD | rows | {"INTERNAL: the model failed on this request"}
    assert after == "right"
