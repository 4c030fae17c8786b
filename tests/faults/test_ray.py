"""What Ray loses: Serve's controller, a node, all of it; and the place that replicas read their model from."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from tests.faults import patient
from tests.faults.bounds import BOUNDS
from tests.faults.load import RIGHT, Load
from tests.faults.rig import Rig, report
from tests.upgrades.ray_cluster import parent

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]
UNREADABLE_S = 5.0
GONE_S = 6.0
"""Longer than a lease, and than a call's deadline."""


def test_the_serve_controller_killed(rig: Rig) -> None:
    """And a replica with it: another controller replaces both."""
    bound = BOUNDS["controller"]

    async def main() -> tuple[Load, list[int], float, float]:
        async with rig.loaded() as load:
            controllers, victim = [rig.serve_controller()], next(iter(await rig.replicas()))
            os.kill(controllers[0], signal.SIGKILL)
            os.kill(victim, signal.SIGKILL)
            fault_s = time.monotonic()
            whole_at = await rig.until_whole(bound.whole_s, without=victim)
            await load.answered()
            controllers.append(rig.serve_controller())
        return load, controllers, fault_s, whole_at

    load, (before, after), fault_s, whole_at = rig.run(main())

    report("Serve controller and a replica killed", load, bound, fault_s, whole_at)
    assert load.told() == {}
    assert before != after


def test_a_model_store_that_cannot_be_read(rig: Rig) -> None:
    """Who serves goes on; what would start does not, until its model is there and is what it should be."""
    bound = BOUNDS["store"]
    weights = rig.model / "weights.safetensors"
    whole_weights = weights.read_bytes()

    async def main() -> tuple[Load, list[int], float, float]:
        async with rig.loaded() as load:
            victim, *kept = await rig.replicas()
            away = rig.model.rename(Path(f"{rig.model}-away"))
            os.kill(victim, signal.SIGKILL)
            await asyncio.sleep(UNREADABLE_S)
            weights.parent.mkdir()
            for path in away.iterdir():
                path.rename(rig.model / path.name)
            weights.write_bytes(whole_weights + b" ")  # here again, and not what its digest says
            away.rmdir()
            await asyncio.sleep(UNREADABLE_S)
            seen = sorted(await rig.replicas())
            weights.write_bytes(whole_weights)
            fault_s = time.monotonic()
            whole_at = await rig.until_whole(bound.whole_s, without=victim)
            await load.answered()
        return load, [pid for pid in seen if pid not in kept], fault_s, whole_at

    load, strangers, fault_s, whole_at = rig.run(main(), 180)

    report("model store unreadable, then corrupt", load, bound, fault_s, whole_at)
    assert load.told() == {}
    assert strangers == []


def test_a_node_lost(rig: Rig) -> None:
    """Every process of it at once, without a goodbye: the other node's replica answers, and gets a companion there."""
    bound = BOUNDS["node"]

    async def main() -> tuple[Load, float, float]:
        victim = await replica_alone_on_its_node(rig)
        async with rig.loaded() as load:
            fault_s = time.monotonic()
            await rig.ray.lose_node_of(victim)
            whole_at = await rig.until_whole(bound.whole_s, without=victim)
            await load.answered()
        await rig.ray.add_node()
        return load, fault_s, whole_at

    load, fault_s, whole_at = rig.run(main(), 240)

    report("node lost", load, bound, fault_s, whole_at)
    assert load.told() == {}


async def replica_alone_on_its_node(rig: Rig) -> int:
    """Serve spreads replicas, as far as it knows of nodes when it starts them."""
    while True:
        first, second = await rig.replicas()
        if parent(first) != parent(second):
            return first
        os.kill(first, signal.SIGKILL)
        await rig.until_whole(60, without=first)


def test_the_whole_ray_cluster_lost_and_back(rig: Rig) -> None:
    """Nobody waits past the deadline. Gateways and control live on, and know the replicas of the next one.

    Who tells a caller that its time is over, the gateway a millisecond before or its own clock, is a race.
    """
    bound = BOUNDS["cluster"]

    async def main() -> tuple[Load, float, float]:
        async with rig.loaded() as load:
            await rig.lose_ray()
            await asyncio.sleep(GONE_S)
            await rig.start_ray()
            fault_s = time.monotonic()
            whole_at = await rig.until_whole(bound.whole_s)
            await load.answered()
        return load, fault_s, whole_at

    restarts = [child.restarts for child in (rig.control, *rig.gateways)]
    load, fault_s, whole_at = rig.run(main(), 300)

    report("Ray cluster lost and back", load, bound, fault_s, whole_at)
    assert {one.how for one in load.asked} <= {RIGHT, "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert any(f"no replica of '{patient.NAME}' is ready" in one.sentence for one in load.others())
    assert load.sound_after_s(fault_s) <= bound.whole_s
    assert [child.restarts for child in (rig.control, *rig.gateways)] == restarts
