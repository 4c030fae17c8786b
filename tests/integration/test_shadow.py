"""Comparisons under a real gateway: both answers meet, nobody waits for the second, every row is accounted for."""

from __future__ import annotations

import asyncio
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console
from tests.shadowing import Sums, ask, policy, replica, right, running, shadow, steady, until

from headrace import top
from headrace.core.adapting import adapted
from headrace.gateway import shadow as gateway_shadow
from headrace.gateway import shedding, telling
from headrace.gateway.lane import REFUSED_S
from headrace.telemetry import reading, waterfall
from headrace.v1 import replica_pb2

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _steady(monkeypatch: pytest.MonkeyPatch) -> None:
    steady(monkeypatch)


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


def test_a_request_that_names_its_version_is_in_no_experiment(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], Counter[str], int]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow(), canary=1.0)) as (gateway, control):
                named = await ask(gateway, range(10), version="1")
                chosen = await ask(gateway, range(10))
                await gateway.stop()
                return named, chosen, Sums(control).sampled

    named, chosen, sampled = run(main())

    assert named == {"1": 10}
    assert chosen == {"2": 10}
    assert sampled == 10


def test_a_request_that_names_its_version_is_in_no_experiment_when_it_is_refused_either(
    run: Run, tmp_path: Path
) -> None:
    """Somebody's batch job with tight deadlines, or a full queue, must neither roll a canary back nor excuse one."""

    async def main() -> tuple[list[Counter[str]], tuple[int, int, int, int]]:
        async with replica("1") as one, replica("2") as two:
            narrow = {"echo": {"batching": {"max_queue_rows": 2}}}
            async with running(tmp_path, [one, two], policy(shadow(), canary=1.0), models=narrow) as (gateway, control):
                for each in (one, two):
                    each.hanging.set()
                asking = asyncio.gather(*(ask(gateway, range(12), version=version) for version in "12"))
                await until(gateway.models.strained)
                for each in (one, two):
                    each.hanging.clear()
                told = await asking
                await gateway.stop()
                return told, Sums(control).asked

    told, asked = run(main())

    for counts in told:
        assert counts["UNAVAILABLE"] > 0
        assert counts.total() == 12
    assert asked == (0, 0, 0, 0)


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
                await until(lambda: len(Sums(control).pairs) == 20)
                return answers, Sums(control)

    answers, sums = run(main())

    assert answers == {"1": 20}
    assert sums.errors == {"GARBAGE": 20}


def test_a_challenger_that_fails_is_counted_by_row(run: Run, tmp_path: Path) -> None:
    async def main() -> Sums:
        async with replica("1") as one, replica("2") as two:
            two.refuse_with = grpc.StatusCode.INTERNAL
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                await ask(gateway, range(20))
                await until(lambda: len(Sums(control).pairs) == 20)
                return Sums(control)

    assert run(main()).errors == {"FAILED": 20}


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


def test_the_canary_keeps_its_entities_while_its_share_grows(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[list[set[int]], Counter[str]]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow(), canary=0.0)) as (gateway, control):
                found = []
                for share in (0.05, 0.25, 0.6, 1.0):
                    before = gateway.models.find("echo", "1")
                    await control.say(policy=policy(shadow(), canary=share))
                    model = next(iter(gateway.models))
                    await until(lambda model=model, share=share: model.policy.canary.share == share)
                    assert gateway.models.find("echo", "1") is before
                    by_key = [(await ask(gateway, range(key, key + 1)))["2"] for key in range(200)]
                    found.append({key for key, taken in enumerate(by_key) if taken})
                nobody = await ask(gateway, range(20), entity="")
                return found, nobody

    shares, nobody = run(main())

    assert all(small <= large for small, large in pairwise(shares))
    assert len(shares[-1]) == 200
    assert 20 < len(shares[1]) < 90
    assert nobody == {"1": 20}


def test_whoever_did_not_answer_is_the_shadow_of_a_canary(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], Sums, Counter[bool]]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow(), canary=0.5)) as (gateway, control):
                answers = await ask(gateway, range(60))
                await until(lambda: len(Sums(control).pairs) == 60)
                turned = Counter(bool(c) for message in control.told for c in message.pairs.canary)
                return answers, Sums(control), turned

    answers, sums, turned = run(main())

    assert answers["1"] + answers["2"] == 60
    assert turned[True] == answers["2"] > 0
    assert turned[False] == answers["1"] > 0
    assert sums.equal_pairs() == 60


def test_a_canary_without_a_replica_leaves_its_entities_to_the_primary(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], int]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(canary=1.0)) as (gateway, control):
                await two.stop()
                await control.say([one.registration])
                model = next(iter(gateway.models))
                await until(lambda: not model.lanes["2"].ready)
                return await ask(gateway, range(20)), model.canary_away

    answers, away = run(main())

    assert answers == {"1": 20}
    assert away == 20


def test_a_challenger_in_charge_that_is_lost_is_blamed_for_every_request(run: Run, tmp_path: Path) -> None:
    """Its guardrail must see what callers see, also when there is no replica left to fail."""

    async def main() -> tuple[Counter[str], Sums]:
        async with replica("1") as one, replica("2") as two:
            batching = {"echo": {"batching": {"default_timeout_ms": 300}}}
            async with running(tmp_path, [one, two], policy(shadow(), primary="2"), models=batching) as found:
                gateway, control = found
                await two.stop()
                await control.say([one.registration])
                await until(lambda: not next(iter(gateway.models)).lanes["2"].ready)
                answers = await ask(gateway, range(20), timeout_s=0.5)
                await until(lambda: len(Sums(control).pairs) == 20)
                return answers, Sums(control)

    answers, sums = run(main())

    assert not answers["1"] + answers["2"]
    assert sums.errors["LOST"] + sums.errors["TIMEOUT"] == 20  # by whichever clock was first
    assert sums.asked == (0, 0, 20, 20)
    assert sums.whole


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


def test_a_policy_is_swapped_under_load_without_a_lost_or_doubled_answer(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], Sums]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                policies = [policy(shadow()), policy(shadow(), canary=0.3), policy(shadow(), primary="2"), policy()]
                answers: Counter[str] = Counter()
                for turn in range(24):
                    asking = asyncio.create_task(ask(gateway, range(40 * turn, 40 * turn + 40)))
                    await control.say(policy=policies[turn % 4])
                    answers += await asking
                await until(lambda: all(not lane.held for _, lane in gateway.models.comparisons))
                await gateway.stop()
                return answers, Sums(control)

    answers, sums = run(main())

    assert answers["1"] + answers["2"] == 24 * 40
    assert sums.whole


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


def test_a_gateway_cut_off_from_control_keeps_its_policy_and_says_so(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], bool, str]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(primary="2")) as (gateway, control):
                await control.__aexit__()
                await until(lambda: not gateway.follower.connected)
                answers = await ask(gateway, range(20))
                shown = top.Reading(0.0)
                url = f"http://127.0.0.1:{gateway.metrics_port}/metrics"
                shown.add(await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode()))
                return answers, gateway.follower.connected, str(top.table(shown, shown).caption)

    answers, connected, caption = run(main())

    assert answers == {"2": 20}
    assert not connected
    assert "cannot hear control" in caption


def test_what_callers_get_is_counted_whether_or_not_it_is_compared(run: Run, tmp_path: Path) -> None:
    """A challenger in charge that cannot keep up sheds its own evidence: the counts must stay."""

    async def main() -> tuple[Counter[str], Sums]:
        async with replica("1") as one, replica("2") as two:
            two.delay_s = 0.1
            first = policy(shadow(share=0.01), primary="2")
            async with running(tmp_path, [one, two], first) as (gateway, control):
                answers = Counter[str]()
                for turn in range(4):
                    answers += await ask(gateway, range(100 * turn, 100 * turn + 100), timeout_s=0.25)
                await gateway.stop()
                return answers, Sums(control)

    answers, sums = run(main())
    _, _, asked, failed = sums.asked

    assert 300 < asked <= 400  # some callers leave before they are looked at
    assert failed > 100
    assert failed >= 0.8 * (asked - answers["2"])  # some answers leave in time and arrive late


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
    async def main() -> Sums:
        async with replica("1") as one, replica("2") as two:
            two.refuse_with = grpc.StatusCode.RESOURCE_EXHAUSTED
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                await ask(gateway, range(20))
                await until(lambda: Sums(control).whole and Sums(control).sampled == 20)
                return Sums(control)

    sums = run(main())

    assert sums.drops == {"load": 20}


def test_a_replica_that_refuses_copies_is_left_alone_for_longer_each_time(run: Run, tmp_path: Path) -> None:
    """One that hangs is in good health, and its queue is full: asking it every few milliseconds is work for nothing."""

    async def main() -> tuple[list[float], Sums]:
        async with replica("1") as one, replica("2") as two:
            two.refuse_with = grpc.StatusCode.RESOURCE_EXHAUSTED
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, control):
                asked = 0
                while len(two.arrived_s) < 5:
                    asked += (await ask(gateway, range(asked, asked + 4))).total()
                    await asyncio.sleep(0.01)
                refused = two.arrived_s[:5]
                await until(lambda: Sums(control).whole and Sums(control).sampled == asked)
                two.refuse_with = None
                while not Sums(control).pairs:  # it is asked again, sooner or later
                    asked += (await ask(gateway, range(1))).total()
                await until(lambda: Sums(control).whole and Sums(control).sampled == asked)
                return refused, Sums(control)

    refused, sums = run(main())

    for number, (one, other) in enumerate(pairwise(refused)):
        assert other - one >= shedding.SHORTEST_S * 2**number
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
                monkeypatch.setattr(gateway_shadow, "adapted", slow)
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
                monkeypatch.setattr(gateway_shadow, "adapted", broken)
                answers = await ask(gateway, range(20))
                await until(lambda: Sums(control).whole and Sums(control).sampled == 20)
                return answers, Sums(control)

    answers, sums = run(main())

    assert answers == {"1": 20}
    assert sums.drops == {"error": 20}
