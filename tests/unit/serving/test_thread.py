"""The runner's thread: one turn at a time, a bounded queue, and nobody's turn harms another's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from headrace.errors import ModelFailed, Overloaded
from headrace.serving.thread import RunnerThread

Run = Callable[..., Any]


async def eventually(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


class Gate:
    """Work that begins, says so, and ends when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        self.open.wait(5)
        return "done"


async def running(thread: RunnerThread, gate: Gate) -> asyncio.Task[str]:
    task = asyncio.create_task(thread.run(gate))
    await eventually(gate.begun.is_set)
    return task


def test_turns_run_one_at_a_time_in_the_order_of_arrival(run: Run) -> None:
    async def main() -> None:
        thread, order, gate = RunnerThread(8), [], Gate()
        first = await running(thread, gate)
        others = [asyncio.create_task(thread.run(lambda i=i: order.append(i))) for i in range(5)]
        await asyncio.sleep(0)

        assert thread.waiting == 5
        assert not order
        gate.open.set()
        await asyncio.gather(first, *others)
        assert order == [0, 1, 2, 3, 4]
        assert thread.waiting == 0
        thread.close()

    run(main())


def test_a_turn_beyond_the_bound_is_refused_at_once(run: Run) -> None:
    async def main() -> None:
        thread, gate = RunnerThread(2), Gate()
        held = [await running(thread, gate), *(asyncio.create_task(thread.run(lambda: "done")) for _ in range(2))]
        await asyncio.sleep(0)

        with pytest.raises(Overloaded):
            await thread.run(lambda: "never")
        gate.open.set()
        assert await asyncio.gather(*held) == ["done"] * 3
        assert await thread.run(lambda: "again") == "again"
        thread.close()

    run(main())


def test_a_turn_whose_caller_has_gone_never_runs(run: Run) -> None:
    async def main() -> None:
        thread, gate, ran = RunnerThread(2), Gate(), []
        first = await running(thread, gate)
        gone = asyncio.create_task(thread.run(lambda: ran.append("gone")))
        stays = asyncio.create_task(thread.run(lambda: ran.append("stays")))
        await asyncio.sleep(0)
        gone.cancel()
        gate.open.set()
        await asyncio.gather(first, stays)

        assert ran == ["stays"]
        thread.close()

    run(main())


def test_a_running_turn_counts_until_it_is_over_even_when_its_caller_has_gone(run: Run) -> None:
    """A hung model and callers that give up must not fill the memory: the bound holds."""

    async def main() -> None:
        thread, gate = RunnerThread(0), Gate()
        first = await running(thread, gate)
        first.cancel()
        await asyncio.wait({first})

        with pytest.raises(Overloaded):
            await thread.run(lambda: "never")
        assert thread.running_s > 0
        gate.open.set()
        await eventually(lambda: not thread.running_s)
        await asyncio.sleep(0.01)
        assert await thread.run(lambda: "next") == "next"
        thread.close()

    run(main())


def test_an_error_reaches_its_own_caller_and_the_thread_goes_on(run: Run) -> None:
    async def main() -> None:
        thread = RunnerThread(2)

        def fail() -> None:
            raise ModelFailed("as told")

        with pytest.raises(ModelFailed, match="as told"):
            await thread.run(fail)
        assert await thread.run(lambda: "next") == "next"
        thread.close()

    run(main())
