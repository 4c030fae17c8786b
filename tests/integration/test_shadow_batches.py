"""How copies travel: in company, and no longer than the payments that share their replicas can bear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.shadowing import Sums, ask, policy, replica, running, shadow, until

from headrace.gateway import shadow as gateway_shadow
from headrace.gateway.server import Gateway
from headrace.testing.replica import ECHO_SPEC, FakeReplica
from headrace.v1 import control_pb2

Run = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("unhurried")


def copies(of: FakeReplica) -> list[int]:
    """Rows of each of its shadow batches."""
    return [batch.rows for batch in of.batches if batch.shadow]


async def one_by_one(gateway: Gateway, keys: range) -> None:
    for key in keys:
        await ask(gateway, range(key, key + 1))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("challenger", ["1", "2"], ids=["on the incumbent's replicas", "on its own"])
def test_copies_gather_for_company_wherever_they_go(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, challenger: str
) -> None:
    """A forward of ten rows costs far less than ten of one, and keeps one payment waiting instead of ten."""
    monkeypatch.setattr(gateway_shadow, "GATHER_S", 1.0)

    async def main() -> list[int]:
        async with replica("1") as one, replica("2") as two:
            asked = {"1": one, "2": two}[challenger]
            noise = challenger == "1"
            async with running(tmp_path, [one, two], policy(shadow(challenger, timeout_ms=8000))) as (gateway, control):
                await one_by_one(gateway, range(20))
                await until(lambda: len(Sums(control, noise=noise).pairs) == 20)
                return copies(asked)

    found = run(main())

    assert sum(found) == 20
    assert len(found) <= 7


def test_a_full_batch_of_copies_waits_for_no_more(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_shadow, "GATHER_S", 60.0)

    async def main() -> tuple[list[int], float]:
        async with replica("1") as one, replica("2") as two:
            patient = shadow(timeout_ms=60_000)
            async with running(tmp_path, [one, two], policy(patient)) as (gateway, control):
                begun = time.monotonic()
                await ask(gateway, range(33))
                await until(lambda: len(Sums(control).pairs) >= 30)
                return copies(two), time.monotonic() - begun

    found, took_s = run(main())

    assert found[0] >= 30
    assert took_s < 10


def test_copies_that_gather_do_not_push_each_other_out_of_a_small_buffer(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_shadow, "GATHER_S", 60.0)

    async def main() -> Sums:
        async with replica("1") as one, replica("2") as two:
            small = shadow(timeout_ms=60_000, max_in_flight_rows=8)
            async with running(tmp_path, [one, two], policy(small)) as (gateway, control):
                await one_by_one(gateway, range(24))
                await until(lambda: len(Sums(control).pairs) >= 20)
                return Sums(control)

    assert not run(main()).drops


def test_copies_wait_a_part_of_their_time_at_most(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_shadow, "GATHER_S", 60.0)

    async def main() -> Sums:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow(timeout_ms=400))) as (gateway, control):
                await one_by_one(gateway, range(4))
                await until(lambda: Sums(control).whole and len(Sums(control).pairs) == 4)
                return Sums(control)

    sums = run(main())

    assert not sums.errors
    assert not sums.drops


def test_on_replicas_that_answer_payments_a_batch_of_copies_is_short(run: Run, tmp_path: Path) -> None:
    """Where each row takes its time, one more copy would hold up a payment that much longer."""

    async def main() -> list[int]:
        spec = control_pb2.ModelSpec()
        spec.CopyFrom(ECHO_SPEC)
        async with FakeReplica(spec) as one:
            one.row_s = 0.03
            async with running(tmp_path, [one], policy()) as (gateway, control):
                for rows in (1, 2, 3, 4, 5, 6, 7, 8) * 2:  # until it is known what a row costs
                    await ask(gateway, range(rows))
                await control.say(policy=policy(shadow("1", timeout_ms=8000)))
                await until(lambda: bool(gateway.models.comparisons))
                await ask(gateway, range(12))
                await until(lambda: len(Sums(control, noise=True).pairs) == 12)
                return copies(one)

    assert max(run(main())) <= 3
