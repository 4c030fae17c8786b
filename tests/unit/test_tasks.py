"""A task that is to end does end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from headrace import tasks
from headrace.serving.registration import RegistrationLoop
from headrace.v1 import control_pb2

Run = Callable[..., Any]
NOBODY_LISTENS = "127.0.0.1:9"


def test_tasks_are_over_whatever_they_end_with(run: Run) -> None:
    over: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            over.append("waits")

    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            over.append("fails")
            raise RuntimeError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = [loop.create_task(one) for one in (waits(), fails(), asyncio.sleep(0))]
        await asyncio.sleep(0.01)
        await tasks.end(*begun)
        assert all(task.done() for task in begun)
        await tasks.end()

    run(main(), timeout_s=5)

    assert sorted(over) == ["fails", "waits"]


def test_a_task_that_loses_its_cancellation_is_cancelled_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)
    lost: list[int] = []

    async def tries_for_ever() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if len(lost) == 2:
                    raise
                lost.append(len(lost))

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(tries_for_ever())
        await asyncio.sleep(0)
        await tasks.end(task)
        assert task.cancelled()

    run(main(), timeout_s=5)

    assert len(lost) == 2


def test_replicas_that_find_no_control_end(run: Run) -> None:
    """Each at another moment of a call that fails: where one cancellation was all, 7 in 600 went on for ever."""

    async def leaves_after(delay_s: float) -> None:
        loop = RegistrationLoop(NOBODY_LISTENS, control_pb2.Registration(replica_id="r"), control_pb2.Load)
        loop.start()
        await asyncio.sleep(delay_s)
        await loop.close()

    async def main() -> list[str]:
        for _ in range(10):
            await asyncio.gather(*(leaves_after(moment / 100) for moment in range(30)))
        return [task.get_name() for task in asyncio.all_tasks()]

    assert "registration" not in run(main(), timeout_s=30)
