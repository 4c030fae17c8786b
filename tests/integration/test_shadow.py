"""Comparisons under a real gateway: both answers meet, nobody waits for the second, every row is accounted for."""

from __future__ import annotations

import asyncio
import random
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.shadowing import Sums, ask, policy, replica, right, running, shadow, until

from headrace.gateway import telling
from headrace.telemetry import reading, waterfall

Run = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("unhurried")


def test_every_answer_is_paired_with_the_challengers_and_told_to_control(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], Sums, list[Any]]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                answers = await ask(gateway, range(50), event_id="e", amount=12.5, currency="EUR")
                await until(lambda: len(Sums(control).pairs) == 50)
                return answers, Sums(control), [told.pairs for told in control.told]

    answers, sums, told = run(main())

    assert answers == {"1": 50}
    assert sorted(sums.pairs) == sorted((right(key), right(key)) for key in range(50))
    assert sums.sampled == 50
    assert not sums.drops
    for columns in told:
        assert set(columns.currency) <= {"EUR"}
        assert set(columns.amount) <= {12.5}
        assert set(columns.event_id) <= {"e"}
        assert len(set(columns.entity)) == len(columns.at_us)
        assert len(columns.trace_ids) == 16 * len(columns.at_us)
        assert not any(columns.canary)
    assert {batch.challenger for columns in told for batch in columns.batches} <= {False, True}


def test_the_incumbent_is_its_own_shadow_for_the_noise_floor(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], Sums, Sums, int]:
        async with replica("1") as one:
            async with running(tmp_path, [one], policy(shadow("1"))) as (gateway, control):
                answers = await ask(gateway, range(30))
                await until(lambda: len(Sums(control, noise=True).pairs) == 30)
                shadows = sum(batch.rows for batch in one.batches if batch.shadow)
                return answers, Sums(control, noise=True), Sums(control), shadows

    answers, noise, pairs, shadows = run(main())

    assert answers == {"1": 30}
    assert noise.equal_pairs() == 30
    assert shadows == 30
    assert not pairs.sampled


def test_a_comparisons_noise_floor_is_of_a_share_of_its_pairs(run: Run, tmp_path: Path) -> None:
    """The incumbent is asked again about what the challenger has answered: as often as pairs need it."""

    async def main() -> tuple[Sums, Sums, Sums]:
        random.seed(7)
        async with replica("1") as one, replica("2") as two:
            two.hanging.set()
            both = policy(shadow(timeout_ms=20_000), shadow("1", share=0.25))
            async with running(tmp_path, [one, two], both) as (gateway, control):
                for key in range(0, 200, 4):  # no queue, for which copies would give way
                    await ask(gateway, range(key, key + 4))
                await asyncio.sleep(0.5)
                while_it_hangs = Sums(control, noise=True)
                two.hanging.clear()
                await until(lambda: Sums(control).whole and Sums(control).sampled == 200)
                await asyncio.sleep(0.5)  # all of the noise floor's are counted
                await until(lambda: Sums(control, noise=True).whole)
                return while_it_hangs, Sums(control), Sums(control, noise=True)

    while_it_hangs, pairs, noise = run(main())

    assert not while_it_hangs.sampled
    assert pairs.equal_pairs() == len(pairs.pairs) > 100
    assert 0.1 < noise.sampled / len(pairs.pairs) < 0.4
    assert noise.equal_pairs() == len(noise.pairs) > 0


def test_a_share_of_the_requests_is_drawn(run: Run, tmp_path: Path) -> None:
    async def main() -> int:
        random.seed(7)
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow(share=0.25))) as (gateway, control):
                await ask(gateway, range(400))
                await until(lambda: Sums(control).whole and Sums(control).sampled > 0)
                await asyncio.sleep(2 * telling.TELL_S)
                return Sums(control).sampled

    assert 60 < run(main()) < 150


def test_the_trace_of_a_request_shows_both_computations(run: Run, tmp_path: Path) -> None:
    async def main() -> str:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                await ask(gateway, range(12))
                await until(lambda: len(Sums(control).pairs) == 12)
                return b"".join(told.pairs.trace_ids for told in control.told)[:16].hex()

    (trace,) = reading.find(tmp_path, run(main()))
    console = Console(width=140)
    with console.capture() as drawn:
        console.print(waterfall.draw(trace))

    assert [span.name for span in trace.copies] == ["queue", "execute", "forward"]
    assert {span.attributes["headrace.model.version"] for span in trace.copies} == {"2"}
    assert {span.attributes["headrace.model.version"] for span in trace.own} == {"1"}
    assert trace.copies[0].parent_id == trace.rpc.span_id
    assert trace.complete
    assert "asked as well: echo 2" in drawn.get()
    assert set(reading.percentiles_ms(tmp_path)) == {"rpc", "queue", "dispatch", "replica.batch", "forward"}


def test_metrics_tell_copies_from_payments(run: Run, tmp_path: Path) -> None:
    async def main() -> str:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                await ask(gateway, range(10))
                await until(lambda: len(Sums(control).pairs) == 10 and not gateway.teller.waiting)
                url = f"http://127.0.0.1:{gateway.metrics_port}/metrics"
                return await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())

    page = run(main())

    assert 'headrace_batch_rows_sum{model="echo",path="shadow",version="2"} 10' in page
    assert 'headrace_request_duration_seconds_count{code="OK",model="echo",path="primary",version="1"} 10' in page
    assert 'nv_inference_count{model="echo",version="1"} 10' in page
    assert 'nv_inference_count{model="echo",version="2"}' not in page
    assert 'headrace_pairs_total{result="told"} 10' in page
    assert "headrace_control_connected 1" in page
