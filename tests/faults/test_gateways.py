"""One of two gateways ends, as told or at once. Callers know both; whoever keeps gateways starts another."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest
from tests.faults.bounds import BOUNDS
from tests.faults.load import Load
from tests.faults.rig import Rig, report

DYING_S = 0.1
"""For so long after its end a call may still be sent to a gateway that is gone."""
pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


async def ended(rig: Rig, number: signal.Signals, limit_s: float, **how: Any) -> tuple[Load, float, float]:
    """A signal to the first gateway: all callers, when it was, and when all was well."""
    async with rig.loaded(**how) as load:
        victim = rig.gateways[0].pid
        assert victim is not None
        os.kill(victim, number)
        fault_s = time.monotonic()
        while rig.gateways[0].pid == victim:
            await asyncio.sleep(0.01)
        whole_at = await rig.until_whole(limit_s)
        await load.answered()
    return load, fault_s, whole_at


def test_a_gateway_that_is_told_to_end_under_load(rig: Rig) -> None:
    """Callers are told before they are refused: none is."""
    bound = BOUNDS["sigterm"]

    load, fault_s, whole_at = rig.run(ended(rig, signal.SIGTERM, bound.whole_s, resends=True))

    report("gateway told to end", load, bound, fault_s, whole_at)
    assert load.told() == {}


def test_one_of_two_gateways_killed(rig: Rig) -> None:
    """Calls that it held, or that were sent as it died, end at once, in UNAVAILABLE: one of each caller at most.

    Everything else is answered by the other one.
    """
    bound = BOUNDS["gateway killed"]

    load, fault_s, whole_at = rig.run(ended(rig, signal.SIGKILL, bound.whole_s))

    report("gateway killed", load, bound, fault_s, whole_at)
    assert {one.how for one in load.others()} <= {"UNAVAILABLE"}
    assert len(load.others()) <= load.callers
    assert load.sound_after_s(fault_s) <= DYING_S
