"""Spare turns of the runner's thread: what nobody waits for goes last, and never fills the line of the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from headrace.errors import Overloaded
from headrace.serving.thread import MAX_SPARE, RunnerThread

Run = Callable[..., Any]


class Held:
    """The thread's first turn, which goes on until the test lets it end."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.let_go.wait(10)


def test_spare_turns_run_after_all_others_that_wait(run: Run) -> None:
    async def main() -> list[str]:
        thread, held, ran = RunnerThread(8), Held(), []
        first = asyncio.create_task(thread.run(held))
        await asyncio.to_thread(held.begun.wait)
        turns = []
        for name, spare in (("s1", True), ("a", False), ("s2", True), ("b", False), ("c", False)):
            turns.append(asyncio.create_task(thread.run(lambda name=name: ran.append(name), spare=spare)))
            await asyncio.sleep(0)
        assert thread.waiting == 3
        held.let_go.set()
        await asyncio.gather(first, *turns)
        thread.close()
        return ran

    ran = run(main())

    assert ran[:3] == ["a", "b", "c"]
    assert sorted(ran[3:]) == ["s1", "s2"]


def test_spare_turns_have_a_bound_of_their_own(run: Run) -> None:
    async def main() -> str:
        thread, held = RunnerThread(1), Held()
        spare = [asyncio.create_task(thread.run(held, spare=True))]
        await asyncio.to_thread(held.begun.wait)
        spare += [asyncio.create_task(thread.run(lambda: None, spare=True)) for _ in range(MAX_SPARE)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await thread.run(lambda: None, spare=True)
        awaited = asyncio.create_task(thread.run(lambda: "answered"))
        await asyncio.sleep(0)
        held.let_go.set()
        await asyncio.gather(*spare)
        thread.close()
        return await awaited

    assert run(main()) == "answered"


def test_a_cancelled_spare_turn_never_runs_and_gives_its_place_back(run: Run) -> None:
    async def main() -> list[str]:
        thread, held, ran = RunnerThread(8), Held(), []
        first = asyncio.create_task(thread.run(held))
        await asyncio.to_thread(held.begun.wait)
        for _ in range(3 * MAX_SPARE):
            spare = asyncio.create_task(thread.run(lambda: ran.append("cancelled"), spare=True))
            await asyncio.sleep(0)
            spare.cancel()
            if thread.waiting == 0 and len(ran) == 0:
                held.let_go.set()
                await first
                held = Held()
                first = asyncio.create_task(thread.run(held))
                await asyncio.to_thread(held.begun.wait)
        held.let_go.set()
        await first
        await thread.run(lambda: ran.append("last"), spare=True)
        thread.close()
        return ran

    assert run(main()) == ["last"]
