"""Whatever a gateway sends to a replica's port: an answer with a code and a sentence, and the next batch is right."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import pytest
from grpc import aio
from tests import toy
from tests.fuzz.mutation import mutated
from tests.fuzz.targets.target import no_error_of_ours

from headrace.config import ModelSettings, ReplicaSettings
from headrace.serving import weights
from headrace.serving.replica import ReplicaServer
from headrace.v1 import replica_pb2, replica_pb2_grpc

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
Run = Callable[..., Any]
OK: Final = 0
CODES: Final = {
    OK,
    *(code.value[0] for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.FAILED_PRECONDITION)),
}
REFUSED: Final = "a batch of"
"""How the line begins that a replica logs of a batch that does not fit."""


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[ReplicaServer]:
    """A replica of the toy; control is away."""
    found = weights.read(toy.write(folder))
    replica = ReplicaServer(found, ReplicaSettings(notice_s=0, grace_s=1), ModelSettings(), "127.0.0.1:9")
    try:
        await replica.start("127.0.0.1")
        yield replica
    finally:
        await replica.stop()


def counts(*lengths: int) -> bytes:
    return np.array(lengths, "<i4").tobytes()


def batch(replica: ReplicaServer, *lengths: int, **fields: Any) -> replica_pb2.PackedBatch:
    """Rows of so many ones."""
    return replica_pb2.PackedBatch(
        **{
            "replica_id": replica.replica_id,
            "model": "toy",
            "version": "1",
            "rows": len(lengths),
            "columns": [np.ones(sum(lengths), "<f4").tobytes()],
            "lengths": [counts(*lengths)],
            "remaining_s": np.full(len(lengths), np.inf, "<f8").tobytes(),
            "batch_id": 1,
            **fields,
        }
    )


@asynccontextmanager
async def stream(replica: ReplicaServer) -> AsyncIterator[Any]:
    """Raw bytes in, answers out."""
    async with aio.insecure_channel(f"127.0.0.1:{replica.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel.stream_stream("/headrace.v1.Replica/ExecuteStream", None, replica_pb2.PackedAnswer.FromString)(
            timeout=30
        )


async def assert_right(replica: ReplicaServer) -> None:
    async with aio.insecure_channel(f"127.0.0.1:{replica.port}") as channel:
        answer = await replica_pb2_grpc.ReplicaStub(channel).Execute(batch(replica, 3, 0, 5), timeout=5)
    assert np.frombuffer(answer.columns[0], "<f4").tolist() == [3, 0, 5]
    assert np.frombuffer(answer.columns[1], "<i8").tolist() == [3, 0, 5]
    replica.assert_healthy()


def test_every_batch_that_was_changed_is_answered_in_its_stream(run: Run, tmp_path: Path) -> None:
    async def main() -> list[int]:
        async with serving(tmp_path) as replica, stream(replica) as call:
            good, source, codes = batch(replica, 2, 0, 8, 1), random.Random(3), []
            for number in range(400):
                sent = mutated(good, source, frozenset({"batch_id"}))
                sent.batch_id = number
                await call.write(sent.SerializeToString())
                answer = await asyncio.wait_for(call.read(), 5)
                assert answer.batch_id == number
                assert bool(answer.code) == bool(answer.message)
                codes.append(answer.code)
            await assert_right(replica)
            return codes

    with no_error_of_ours("headrace", but=REFUSED):
        codes = run(main())

    assert set(codes) == CODES


UNFIT: Final[dict[str, Callable[[ReplicaServer], replica_pb2.PackedBatch]]] = {
    "rows": lambda replica: batch(replica, *[1] * 17),
    "a row too long": lambda replica: batch(replica, 9),
    "a huge row": lambda replica: batch(replica, 1, lengths=[counts(2**31 - 1)]),
    "huge rows": lambda replica: batch(replica, 1, rows=2**32 - 1),
    "rows of nothing": lambda replica: batch(replica, *[0] * 100_000),
    "less than nothing": lambda replica: batch(replica, 1, 1, lengths=[counts(-1, 3)]),
    "too little": lambda replica: batch(replica, 2, 2, columns=[bytes(8)]),
    "columns": lambda replica: batch(replica, 1, columns=[bytes(4)] * 1000),
    "no time": lambda replica: batch(replica, 1, remaining_s=b""),
    "no such extras": lambda replica: batch(replica, 1, wants_extras=b"\1"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_batch_that_its_model_does_not_take_is_refused_and_never_runs(run: Run, tmp_path: Path, name: str) -> None:
    """A gateway makes none: one that ran would hold up the batches of all others, or take the memory of all."""

    async def main() -> replica_pb2.PackedAnswer:
        async with serving(tmp_path) as replica, stream(replica) as call:
            await call.write(UNFIT[name](replica).SerializeToString())
            answer = await asyncio.wait_for(call.read(), 5)
            await assert_right(replica)
            return answer

    with no_error_of_ours("headrace", but=REFUSED):
        answer = run(main())

    assert answer.code == grpc.StatusCode.INTERNAL.value[0]
    assert answer.stamps.copied_ns == 0


def test_a_message_that_is_no_batch_ends_its_stream_alone(run: Run, tmp_path: Path) -> None:
    async def main() -> grpc.StatusCode:
        async with serving(tmp_path) as replica, stream(replica) as fine:
            await fine.write(batch(replica, 1).SerializeToString())
            assert (await fine.read()).code == OK
            async with stream(replica) as call:
                await call.write(b"\xff\xff\xff")
                code = await call.code()
            await fine.write(batch(replica, 2).SerializeToString())
            assert np.frombuffer((await fine.read()).columns[0], "<f4").tolist() == [2]
            await assert_right(replica)
            gc.collect()  # what nobody has looked at is told now
            return code

    with no_error_of_ours("headrace"), no_error_of_ours("asyncio"):
        assert run(main()) is grpc.StatusCode.INTERNAL
