"""Pairs that control has not taken: they wait, within bounds, and what is lost is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.shadowing import Sums, ask, policy, replica, running, shadow, until

from headrace.gateway import telling

Run = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("unhurried")


def test_pairs_wait_while_control_does_not_take_them_and_keep_their_number(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[list[int], list[int], Sums]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                control.refuse_with = grpc.StatusCode.UNAVAILABLE
                await ask(gateway, range(20))
                await until(lambda: len(control.heard) >= 2)
                await ask(gateway, range(20))
                control.refuse_with = None
                await until(lambda: len(Sums(control).pairs) == 40)
                return [m.sequence for m in control.heard], [m.sequence for m in control.told], Sums(control)

    heard, told, sums = run(main())

    assert heard[:2] == [1, 1]
    assert told == sorted(set(told))
    assert sums.whole


def test_pairs_that_control_never_takes_stay_within_bounds_and_are_counted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "MAX_ROWS", 50)

    async def main() -> tuple[Sums, int, int]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                control.refuse_with = grpc.StatusCode.UNAVAILABLE
                for turn in range(10):
                    await ask(gateway, range(20 * turn, 20 * turn + 20))
                await until(lambda: all(not lane.held for _, lane in gateway.models.comparisons))
                await until(lambda: gateway.teller.lost > 0)
                waiting = gateway.teller.waiting
                control.refuse_with = None
                await until(lambda: Sums(control).whole and Sums(control).sampled == 200)
                return Sums(control), waiting, gateway.teller.lost

    sums, waiting, lost = run(main())

    assert waiting <= 50 + 200
    assert lost > 0
    assert sums.drops["control"] == lost


def test_a_gateway_that_stops_tells_its_last_pairs(run: Run, tmp_path: Path) -> None:
    async def main() -> Sums:
        async with replica("1") as one, replica("2") as two, running(tmp_path, [one, two], policy(shadow())) as found:
            gateway, control = found
            await ask(gateway, range(40))
            await gateway.stop()
            return Sums(control)

    sums = run(main())

    assert sums.sampled == 40
    assert sums.whole
