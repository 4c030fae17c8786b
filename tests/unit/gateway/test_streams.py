"""A stream by itself: whatever is done first, answers leave in order, and no more is held than may be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc import aio
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from headrace.gateway.streams import Streams


class FakeCall:
    """A caller that says `count` things at once and reads slowly, in turns of the loop drawn from `chance`."""

    over = False

    def __init__(self, count: int, chance: random.Random, **metadata: str) -> None:
        self._left = list(range(count))
        self._chance = chance
        self._metadata = tuple(metadata.items())
        self.taken = 0
        self.heard: list[service_pb2.ModelStreamInferResponse] = []
        self.most_held = 0
        self.status: tuple[grpc.StatusCode, str] | None = None

    def invocation_metadata(self) -> Any:
        return self._metadata

    async def read(self) -> Any:
        await self._wait()
        if not self._left:
            return aio.EOF
        self.taken += 1
        self.most_held = max(self.most_held, self.taken - len(self.heard))
        return service_pb2.ModelInferRequest(id=str(self._left.pop(0)))

    def write_nowait(self, message: service_pb2.ModelStreamInferResponse) -> None:
        self.heard.append(message)

    async def drained(self) -> None:
        await self._wait()

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Any = ()) -> None:
        self.status = code, details
        assert all(isinstance(name, str) for name, _ in metadata)
        raise aio.AbortError

    async def _wait(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)


def answering(chance: random.Random, failing: Callable[[int], bool]) -> Any:
    async def infer(request: service_pb2.ModelInferRequest, rpc: Any) -> service_pb2.ModelInferResponse:
        for _ in range(chance.randrange(8)):
            await asyncio.sleep(0)
        if failing(int(request.id)):
            await rpc.abort(grpc.StatusCode.INVALID_ARGUMENT, f"wrong {request.id}")
        return service_pb2.ModelInferResponse(id=request.id)

    return infer


@given(seed=st.integers(0, 2**32), count=st.integers(0, 100), most=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_every_request_is_answered_once_in_order_and_within_the_bound(seed: int, count: int, most: int) -> None:
    chance = random.Random(seed)
    call = FakeCall(count, chance)

    asyncio.run(Streams(most).serve(call, answering(chance, lambda number: number % 3 == 1)))  # type: ignore[arg-type]

    assert [answer.infer_response.id for answer in call.heard] == [str(number) for number in range(count)]
    assert [answer.error_message for answer in call.heard] == [
        f"wrong {number}" if number % 3 == 1 else "" for number in range(count)
    ]
    assert call.most_held <= most
    assert call.status is None


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), wrong=st.integers(0, 59), most=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_a_status_that_ends_a_stream_comes_after_the_answers_before_it(
    seed: int, count: int, wrong: int, most: int
) -> None:
    chance = random.Random(seed)
    call = FakeCall(count, chance, triton_grpc_error="true")
    work = Streams(most).serve(call, answering(chance, lambda number: number == wrong))  # type: ignore[arg-type]

    if wrong < count:
        with pytest.raises(aio.AbortError):
            asyncio.run(work)
    else:
        asyncio.run(work)

    assert [answer.infer_response.id for answer in call.heard] == [str(number) for number in range(min(count, wrong))]
    assert call.status == ((grpc.StatusCode.INVALID_ARGUMENT, f"wrong {wrong}") if wrong < count else None)


def test_a_stream_that_comes_when_the_gateway_goes_is_told_so() -> None:
    streams, call = Streams(4), FakeCall(5, random.Random(0))
    streams.end()

    with pytest.raises(aio.AbortError):
        asyncio.run(streams.serve(call, answering(random.Random(0), lambda _: False)))  # type: ignore[arg-type]

    assert call.status is not None
    assert call.status[0] is grpc.StatusCode.UNAVAILABLE
    assert call.heard == []
    assert len(streams) == 0
