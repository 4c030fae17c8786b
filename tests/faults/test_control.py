"""Control dies, is away, goes silent: nobody who pays notices."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from tests.faults.bounds import BOUNDS
from tests.faults.load import Load
from tests.faults.rig import REPLICAS, Rig, report

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]
AWAY_S = 8.0
"""Longer than a lease, and than the silence after which a gateway looks for control again."""


def control_pid(rig: Rig) -> int:
    assert rig.control.pid is not None
    return rig.control.pid


def test_control_killed(rig: Rig) -> None:
    bound = BOUNDS["control killed"]

    async def main() -> tuple[Load, float, float]:
        async with rig.loaded() as load:
            victim = control_pid(rig)
            os.kill(victim, signal.SIGKILL)
            fault_s = time.monotonic()
            while rig.control.pid == victim:
                await asyncio.sleep(0.01)
            whole_at = await rig.until_whole(bound.whole_s)
            await load.answered()
        return load, fault_s, whole_at

    load, fault_s, whole_at = rig.run(main())

    report("control killed", load, bound, fault_s, whole_at)
    assert load.told() == {}


def test_control_away_while_a_replica_is_lost(rig: Rig) -> None:
    """The other replica answers everybody. What takes its place is seen when control is back."""
    bound = BOUNDS["control away"]

    async def main() -> tuple[Load, float, float]:
        async with rig.loaded() as load:
            victim = next(iter(await rig.replicas()))
            await rig.control.stop(timeout_s=0)
            os.kill(victim, signal.SIGKILL)
            await asyncio.sleep(AWAY_S)
            await rig.control.start()
            fault_s = time.monotonic()
            whole_at = await rig.until_whole(bound.whole_s, without=victim)
            await load.answered()
        return load, fault_s, whole_at

    load, fault_s, whole_at = rig.run(main())

    report("control away, a replica lost", load, bound, fault_s, whole_at)
    assert load.told() == {}


def test_control_stopped_without_a_word(rig: Rig) -> None:
    """Its connections stay open, and nothing comes of them any more. No replica is replaced for that."""
    bound = BOUNDS["control stopped"]

    async def main() -> tuple[Load, set[int], set[int], float, float]:
        async with rig.loaded() as load:
            before = set(await rig.replicas())
            os.kill(control_pid(rig), signal.SIGSTOP)
            await asyncio.sleep(AWAY_S)
            os.kill(control_pid(rig), signal.SIGCONT)
            fault_s = time.monotonic()
            whole_at = await rig.until_whole(bound.whole_s)
            await load.answered()
            return load, before, set(await rig.replicas()), fault_s, whole_at

    load, before, after, fault_s, whole_at = rig.run(main())

    report("control silent", load, bound, fault_s, whole_at)
    assert load.told() == {}
    assert before == after
    assert len(after) == REPLICAS
