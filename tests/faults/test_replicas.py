"""Replicas that die, hang, drag, and fall ill on some rows."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter

import pytest
from tests.faults import patient
from tests.faults.bounds import BOUNDS
from tests.faults.load import RIGHT, Asked, Load, ask, stub_of
from tests.faults.rig import Rig, report

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]
HELD_S = 0.2
"""Less than the 0.25 s after which, at the least, a replica counts as hung."""
DRAG_S = 0.5
"""More than that, and than a hundred usual batches."""


async def struck(rig: Rig, number: signal.Signals, limit_s: float) -> tuple[Load, Asked, float, float]:
    """A signal to a replica while it holds a batch: all callers, the one of that batch, when, and when all was well."""
    async with rig.loaded() as load, stub_of(*rig.targets) as stub:
        holding = asyncio.create_task(ask(stub, 7, patient.HELD, HELD_S))
        victim = await rig.until_held()
        os.kill(victim, number)
        fault_s = time.monotonic()
        whole_at = await rig.until_whole(limit_s, without=victim)
        await load.answered()
    return load, await holding, fault_s, whole_at


def test_a_replica_killed_in_the_middle_of_a_batch(rig: Rig) -> None:
    """Its batch is computed elsewhere: nobody gets anything but an answer."""
    bound = BOUNDS["killed"]

    load, holding, fault_s, whole_at = rig.run(struck(rig, signal.SIGKILL, bound.whole_s))

    report("replica killed", load, bound, fault_s, whole_at)
    assert load.told() == {}
    assert (holding.how, holding.took_s <= bound.ended_s) == (RIGHT, True)


def test_a_replica_stopped_in_the_middle_of_a_batch(rig: Rig) -> None:
    """Its port still takes what comes. Whoever waited for it is answered elsewhere once it counts as hung."""
    bound = BOUNDS["stopped"]

    load, holding, fault_s, whole_at = rig.run(struck(rig, signal.SIGSTOP, bound.whole_s))

    report("replica stopped", load, bound, fault_s, whole_at)
    assert load.told() == {}
    assert (holding.how, holding.took_s <= bound.ended_s) == (RIGHT, True)


def test_a_slow_replica(rig: Rig) -> None:
    """A hundred times slower than it was: it is given up for the other one, and comes back as soon as it is well."""
    bound = BOUNDS["slow"]

    async def main() -> tuple[Load, float, float, float]:
        async with rig.loaded() as load:
            before = await evictions(rig)
            slow = rig.note(next(iter(await rig.replicas())), "slow", str(DRAG_S))
            await asyncio.sleep(5)
            dragging = await evictions(rig) - before
            slow.unlink()
            fault_s = time.monotonic()
            whole_at = await rig.until_whole(bound.whole_s)
            await load.answered()
        return load, fault_s, whole_at, dragging

    load, fault_s, whole_at, evicted = rig.run(main())

    report("slow replica", load, bound, fault_s, whole_at)
    assert load.told() == {}
    assert evicted > 0


async def evictions(rig: Rig) -> float:
    return sum([await rig.figure(which, "headrace_evictions_total{.*}") for which in range(len(rig.targets))])


def test_rows_on_which_the_module_raises_or_answers_nan(rig: Rig) -> None:
    """They fail, each alone: whoever rides in the same batch gets an answer."""
    bound, each = BOUNDS["raises"], 25

    async def main() -> tuple[Load, dict[int, list[Asked]], float, float]:
        async with rig.loaded() as load, stub_of(*rig.targets) as stub:
            fault_s = time.monotonic()
            ills = [patient.RAISES, patient.NAN]
            found = {ill: await asyncio.gather(*(ask(stub, n, ill) for n in range(each))) for ill in ills}
            whole_at = await rig.until_whole(bound.whole_s)
            await load.answered()
        return load, found, fault_s, whole_at

    load, found, fault_s, whole_at = rig.run(main())

    report("rows that raise or answer NaN", load, bound, fault_s, whole_at)
    assert load.told() == {}
    assert Counter(one.how for one in (*found[patient.RAISES], *found[patient.NAN])) == {"INTERNAL": 2 * each}
    assert all("] the model failed on this " in one.sentence for one in found[patient.RAISES])
    assert all(one.sentence.endswith("] the model's answer is not a finite number") for one in found[patient.NAN])
    assert max(one.took_s for ill in found.values() for one in ill) <= bound.ended_s


def test_a_device_without_memory_for_whole_batches(rig: Rig) -> None:
    """What torch raises on a GPU: rows are tried one by one, and only the one that never fits fails."""
    bound = BOUNDS["memory"]

    async def main() -> tuple[Load, list[Asked], float, float]:
        async with rig.loaded(callers=16, pause_s=0.0) as load, stub_of(*rig.targets) as stub:
            short = [rig.note(pid, "short") for pid in await rig.replicas()]
            await load.answered(500)
            found = await asyncio.gather(*(ask(stub, n, patient.NO_MEMORY) for n in range(10)))
            for note in short:
                note.unlink()
            fault_s = time.monotonic()
            whole_at = await rig.until_whole(bound.whole_s)
            await load.answered()
        return load, found, fault_s, whole_at

    load, found, fault_s, whole_at = rig.run(main())

    report("no memory for whole batches", load, bound, fault_s, whole_at)
    assert load.told() == {}
    assert {one.how for one in found} == {"INTERNAL"}
    assert [*rig.notes.glob("*.lacked")]
