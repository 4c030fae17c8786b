"""Thousands of malformed requests among good ones: the good are all right, the bad all told why, and nobody notices."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import grpc
import pytest
from grpc import aio
from tests.bad_input.malformed import INFER, is_right, make
from tests.bad_input.served import QUESTION, Served
from tests.steady import Steady, told

Run = Callable[..., Any]
AT_A_TIME: Final = 16
TIMEOUT_S: Final = 10
SLOWEST_S: Final = 3.0
GROWS_MIB: Final = 24
"""Of the gateway, after the first tenth: a decoder's memory of headers, and what an allocator keeps."""


async def _sent(channel: aio.Channel, seed: int, wrong: list[str]) -> str:
    """Send one, and say how it ended."""
    kind, one = make(seed)
    try:
        answer = await channel.unary_unary(one.path)(one.message, timeout=TIMEOUT_S, metadata=one.metadata)
    except aio.AioRpcError as error:
        end = error.code().name
        if error.code() is grpc.StatusCode.INTERNAL:
            end = f"{end}: {error.details()}"
        elif not error.details():
            wrong.append(f"{kind} {seed}: {end} without a word")
    else:
        end = "right" if one.path == INFER and is_right(one.message, answer) else "wrong"
    if end not in one.ends:
        wrong.append(f"{kind} {seed}: {end}")
    return f"{kind}: {end}"


async def _flood(address: str, seeds: range) -> tuple[Counter[str], list[str]]:
    ends, wrong, left = Counter[str](), list[str](), iter(seeds)

    async def sender(channel: aio.Channel) -> None:
        for seed in left:
            ends[await _sent(channel, seed, wrong)] += 1

    own = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.insecure_channel(address, own) as channel, asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(sender(channel))
    return ends, wrong


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.proof)])
def test_malformed_requests_are_told_so_and_no_good_one_notices(
    run: Run, served: Served, record_property: Callable[[str, object], None], count: int
) -> None:
    async def main() -> tuple[Counter[str], list[str], Steady, float]:
        callers = Steady(served.address, QUESTION, callers=8, pause_s=0.0)
        async with callers.asking():
            await callers.answered(50)
            first, early = await _flood(served.address, range(count // 10))
            before_mib = served.resident_mib()
            ends, wrong = await _flood(served.address, range(count // 10, count))
            grown_mib = served.resident_mib() - before_mib
            await callers.answered(50)
        return first + ends, early + wrong, callers, grown_mib

    processes = served.processes()
    ends, wrong, callers, grown_mib = run(main(), 150)
    told(record_property, {"malformed": ends.total(), "gateway grown, MiB": grown_mib}, callers)

    assert not wrong
    assert ends.total() == count
    assert set(callers.results) == {"right"}
    assert callers.slowest_s < SLOWEST_S
    assert grown_mib < GROWS_MIB
    assert served.processes() == processes
    assert served.errors() == []
