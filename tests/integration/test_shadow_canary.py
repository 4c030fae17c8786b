"""Who answers, and who is compared with it, while policies change: sticky, whole, and blamed for what it does."""

from __future__ import annotations

import asyncio
import urllib.request
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.shadowing import Sums, ask, policy, replica, running, shadow, until

from headrace import top
from headrace.core.octaves import NEVER, bucket

Run = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("unhurried")


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
    nobody, took = sums.took

    assert 300 < asked <= 400  # some callers leave before they are looked at
    assert failed > 100
    assert failed >= 0.8 * (asked - answers["2"])  # some answers leave in time and arrive late
    assert not nobody
    assert took.total() - took[NEVER] == asked - failed
    assert min(took) >= bucket(100_000)
