"""Whatever a challenger does, no caller notices, and what became of each copy is known."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.shadowing import Sums, ask, policy, replica, right, running, shadow, until

from headrace.core.adapting import adapted
from headrace.gateway import copies
from headrace.gateway.breaker import FAILURES, FIRST_S, Came
from headrace.gateway.lane import REFUSED_S
from headrace.gateway.server import Gateway
from headrace.testing.control import FakeControl
from headrace.v1 import replica_pb2

Run = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("unhurried")


def test_a_challenger_that_hangs_costs_no_caller_anything_and_its_copies_time_out(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], float, int, Sums]:
        async with replica("1") as one, replica("2") as two:
            two.hanging.set()
            slow = shadow(timeout_ms=200, max_in_flight_rows=40)
            async with running(tmp_path, [one, two], policy(slow)) as (gateway, control):
                begun, answers, most = time.monotonic(), Counter[str](), 0
                for turn in range(10):
                    answers += await ask(gateway, range(20 * turn, 20 * turn + 20))
                    most = max(most, *(lane.held for _, lane in gateway.models.comparisons))
                took_s = time.monotonic() - begun
                await until(lambda: Sums(control).whole and Sums(control).sampled == 200)
                two.hanging.clear()
                return answers, took_s, most, Sums(control)

    answers, took_s, most, sums = run(main())

    assert answers == {"1": 200}
    assert took_s < 5
    assert most <= 40
    assert sums.errors["TIMEOUT"] > 0
    assert sums.drops["buffer"] > 0


def test_a_challenger_that_dies_is_blamed_for_what_it_had_and_then_left_alone(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], Sums]:
        async with replica("1") as one, replica("2") as two:
            two.hanging.set()
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                answers = await ask(gateway, range(20))
                await until(lambda: bool(two.batches))
                await two.stop()
                await until(lambda: not all(lane.ready for _, lane in gateway.models.comparisons))
                answers += await ask(gateway, range(20))
                await until(lambda: Sums(control).whole and Sums(control).sampled == 40)
                return answers, Sums(control)

    answers, sums = run(main())

    assert answers == {"1": 40}
    assert sums.errors["LOST"] > 0
    assert sums.drops["unready"] > 0


def nan(answer: replica_pb2.PackedAnswer) -> None:
    answer.status = bytes([replica_pb2.ROW_STATUS_NOT_FINITE]) * len(answer.status)


def short(answer: replica_pb2.PackedAnswer) -> None:
    answer.columns[0] = answer.columns[0][:-1]


@pytest.mark.parametrize("spoil", [nan, short])
def test_garbage_of_a_challenger_is_evidence_against_it(
    run: Run, tmp_path: Path, spoil: Callable[[replica_pb2.PackedAnswer], None]
) -> None:
    async def main() -> tuple[Counter[str], Sums]:
        async with replica("1") as one, replica("2") as two:
            two.change = spoil
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                answers = await ask(gateway, range(20))
                await until(lambda: Sums(control).whole and Sums(control).sampled == 20)
                return answers, Sums(control)

    answers, sums = run(main())

    assert answers == {"1": 20}
    assert sums.errors == {"GARBAGE": 20}


async def keep_asking(gateway: Gateway, control: FakeControl, over: Callable[[], bool]) -> Sums:
    """Four payments at a time, until it is over and all of them are accounted for."""
    before, asked = Sums(control).sampled, 0
    while not over():
        asked += (await ask(gateway, range(asked, asked + 4))).total()
        await asyncio.sleep(0.01)
    await until(lambda: Sums(control).whole and Sums(control).sampled == before + asked)
    return Sums(control)


def test_a_challenger_that_fails_every_copy_is_left_alone_and_found_well_again(run: Run, tmp_path: Path) -> None:
    """Thirty more failures a moment say nothing new, and whatever computes them is taken from somebody."""

    async def main() -> tuple[list[float], Sums, Sums]:
        async with replica("1") as one, replica("2") as two:
            two.change = nan
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                failing = await keep_asking(gateway, control, lambda: len(two.arrived_s) > FAILURES)
                arrived_s, two.change = two.arrived_s[: FAILURES + 1], lambda _: None
                well = await keep_asking(gateway, control, lambda: Sums(control).equal_pairs() > 0)
                return arrived_s, failing, well

    arrived_s, failing, well = run(main())

    assert arrived_s[-1] - arrived_s[-2] >= FIRST_S[Came.FAILED]
    assert failing.errors == {"GARBAGE": len(failing.pairs)}
    assert failing.drops["failing"] > 0
    assert well.errors["GARBAGE"] + well.equal_pairs() == len(well.pairs)


def test_what_both_versions_fail_is_no_reason_to_leave_one_alone(run: Run, tmp_path: Path) -> None:
    """Neither is to blame for it alone: else an hour that is bad for both would be the challenger's."""

    async def main() -> Sums:
        async with replica("1") as one, replica("2") as two:
            one.change = two.change = nan
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                return await keep_asking(gateway, control, lambda: len(two.arrived_s) > 2 * FAILURES)

    sums = run(main())

    assert "failing" not in sums.drops
    assert sums.errors == {"GARBAGE": len(sums.pairs)}


async def refused(status: grpc.StatusCode, tmp_path: Path) -> Sums:
    """What became of twenty copies that the challenger's replica refuses so."""
    async with replica("1") as one, replica("2") as two:
        two.refuse_with = status
        async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
            await ask(gateway, range(20))
            await until(lambda: Sums(control).whole and Sums(control).sampled == 20)
            return Sums(control)


def test_a_challenger_that_fails_is_counted_by_row(run: Run, tmp_path: Path) -> None:
    sums = run(refused(grpc.StatusCode.INTERNAL, tmp_path))

    assert sums.errors == {"FAILED": 20}


def test_copies_give_way_while_payments_wait(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], Sums]:
        async with replica("1") as one, replica("2") as two:
            one.delay_s = 0.05
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                answers = await ask(gateway, range(400))
                await until(lambda: Sums(control).whole and Sums(control).sampled == 400)
                return answers, Sums(control)

    answers, sums = run(main())

    assert answers == {"1": 400}
    assert sums.drops["load"] > 100


def test_no_moment_for_copies_is_one_in_which_a_payment_was_refused(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], list[bool]]:
        async with replica("1") as one, replica("2") as two:
            one.delay_s = 0.02
            small = {"echo": {"batching": {"max_queue_rows": 4}}}
            async with running(tmp_path, [one, two], policy(shadow()), models=small) as (gateway, _):
                answers = await ask(gateway, range(200))
                strained = [gateway.models.strained()]  # the queue is empty again: everybody has an answer
                await asyncio.sleep(2 * REFUSED_S)
                return answers, [*strained, gateway.models.strained()]

    answers, strained = run(main())

    assert answers["UNAVAILABLE"]
    assert answers["1"]
    assert strained == [True, False]


def test_a_batch_that_lets_payments_pass_is_late_not_lost(run: Run, tmp_path: Path) -> None:
    """The cap that evicts a hung replica from the payment path is none of a copy's: it has its own time."""

    async def main() -> tuple[Sums, bool]:
        async with replica("1") as one, replica("2") as two, replica("2") as three:
            patient = shadow(timeout_ms=4000)
            async with running(tmp_path, [one, two, three], policy(patient)) as (gateway, control):
                for turn in range(15):  # a learnt prediction would make the cap short
                    await ask(gateway, range(turn, turn + 1))
                    await until(lambda turn=turn: len(Sums(control).pairs) == turn + 1)
                two.delay_s = three.delay_s = 1.0
                await ask(gateway, range(4))
                await until(lambda: len(Sums(control).pairs) == 19)
                return Sums(control), all(lane.ready for _, lane in gateway.models.comparisons)

    sums, ready = run(main())

    assert not sums.errors
    assert ready


def test_a_full_queue_of_copies_is_nobodys_fault(run: Run, tmp_path: Path) -> None:
    sums = run(refused(grpc.StatusCode.RESOURCE_EXHAUSTED, tmp_path))

    assert sums.drops == {"load": 20}


def test_a_replica_that_refuses_copies_is_left_alone_for_longer_each_time(run: Run, tmp_path: Path) -> None:
    """One that hangs is in good health, and its queue is full: asking it every few milliseconds is work for nothing."""

    async def main() -> tuple[list[float], Sums]:
        async with replica("1") as one, replica("2") as two:
            two.refuse_with = grpc.StatusCode.RESOURCE_EXHAUSTED
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                await keep_asking(gateway, control, lambda: len(two.arrived_s) >= 5)
                refused, two.refuse_with = two.arrived_s[:5], None
                # It is asked again, sooner or later.
                return refused, await keep_asking(gateway, control, lambda: bool(Sums(control).pairs))

    refused, sums = run(main())

    for number, (one, other) in enumerate(pairwise(refused)):
        assert other - one >= FIRST_S[Came.REFUSED] * 2**number
    assert sums.drops["unready"] > 0
    assert set(sums.drops) == {"load", "unready"}


def test_nothing_is_made_of_a_copy_before_its_caller_is_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any) -> Any:
        time.sleep(0.5)
        return adapted(*arguments)

    async def main() -> tuple[float, list[tuple[float, float]]]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                monkeypatch.setattr(copies, "adapted", slow)
                begun = time.monotonic()
                await ask(gateway, range(1))
                took_s = time.monotonic() - begun
                await until(lambda: bool(Sums(control).pairs))
                return took_s, Sums(control).pairs

    took_s, pairs = run(main())

    assert took_s < 0.4
    assert pairs == [(right(0), right(0))]


def test_a_copy_that_fails_on_an_error_of_ours_is_accounted_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def main() -> tuple[Counter[str], Sums]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                monkeypatch.setattr(copies, "adapted", broken)
                answers = await ask(gateway, range(20))
                await until(lambda: Sums(control).whole and Sums(control).sampled == 20)
                return answers, Sums(control)

    answers, sums = run(main())

    assert answers == {"1": 20}
    assert sums.drops == {"error": 20}
