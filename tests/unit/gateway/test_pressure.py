"""Whether the event loop is the bottleneck: of a loop that sleeps, of one that never does, and in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from headrace.gateway.pressure import Pressure

Run = Callable[..., Any]


def observed(*shares: float) -> Pressure:
    pressure = Pressure()
    for share in shares:
        pressure.observe(share)
    return pressure


def test_pressure_begins_when_the_loop_has_been_busy_for_a_while() -> None:
    assert not observed(1.0).high
    assert observed(*[1.0] * 20).high


def test_what_relieves_it_a_little_does_not_end_it() -> None:
    pressure = observed(*[1.0] * 20, *[0.75] * 20)
    assert pressure.high
    for _ in range(20):
        pressure.observe(0.4)
    assert not pressure.high


def test_it_does_not_begin_between_its_bounds() -> None:
    assert not observed(*[0.75] * 50).high


def test_a_loop_that_sleeps_is_not_busy_and_one_that_spins_is(run: Run) -> None:
    async def main() -> tuple[float, float]:
        pressure = Pressure()
        watching = asyncio.create_task(pressure.watch())
        await asyncio.sleep(0.6)
        asleep = pressure.busy
        until = time.perf_counter() + 1.5
        while time.perf_counter() < until:
            await asyncio.sleep(0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return asleep, pressure.busy

    asleep, spinning = run(main())

    assert asleep < 0.3
    assert spinning > 0.8


def test_a_loop_that_is_held_up_is_late_and_one_that_is_not_is_not(run: Run) -> None:
    async def main(hold_s: float) -> float:
        pressure = Pressure()
        watching = asyncio.create_task(pressure.watch())
        for _ in range(20):
            time.sleep(hold_s)  # noqa: ASYNC251  this is what holds it up
            await asyncio.sleep(0.03)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return pressure.late_s

    assert run(main(0.08)) > 0.01
    assert run(main(0.0)) < 0.01


def test_what_telling_takes_follows_the_latest_batches() -> None:
    pressure = Pressure()
    for _ in range(20):
        pressure.observe_telling(0.004)
    assert pressure.telling_s == pytest.approx(0.004, rel=0.01)
