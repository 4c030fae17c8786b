"""ExperimentService over real sockets: an experiment's whole way, every refusal, and what followers get to see."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from grpc import aio
from tests import experiments

from headrace.channel import OPTIONS, connect
from headrace.config import Settings
from headrace.control.server import ControlServer
from headrace.credentials import ClientCredentials
from headrace.gateway.snapshot import SnapshotFollower
from headrace.serving.registration import RegistrationLoop
from headrace.testing.clock import FakeClock
from headrace.testing.gateway import settings
from headrace.v1 import control_pb2, experiments_pb2_grpc
from headrace.v1 import experiments_pb2 as pb

Run = Callable[..., Any]
LIMITS = pb.Gates(min_pairs=4000, min_hours=0, min_canary_pairs=400, max_batch_time_ratio=0, max_error_excess=0.005)


def plan(**changes: Any) -> pb.Plan:
    return pb.Plan(**{"gates": LIMITS, "canary_shares": (0.05, 1), **changes})


NAMES = ("nobody", "ann", "bob", "cy", "dan")
"""Callers who may do everything; their token is their name. `guest` may only read."""
EVERYTHING = ("infer", "outcome", "read", "gateway", "replica", "admin")


def callers() -> list[dict[str, Any]]:
    tokens = {name: hashlib.sha256(name.encode()).hexdigest() for name in (*NAMES, "guest")}
    everybody = [{"name": name, "token_sha256": tokens[name], "may": EVERYTHING} for name in NAMES]
    return [*everybody, {"name": "guest", "token_sha256": tokens["guest"], "may": ["read"]}]


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {name}"),)


class Rig:
    """Control with versions of `m` registered, a client of its service and a follower."""

    def __init__(self, tmp_path: Path, versions: str = "123", **flags: Any) -> None:
        closed = {
            "access__mode": "closed",
            "access__callers": callers(),
            "control__ledger": str(tmp_path / "ledger.db"),
        }
        self.settings: Settings = settings(tmp_path, **{**closed, **flags})
        token = tmp_path / "token"
        token.write_text("nobody")
        self.credentials = ClientCredentials(token_file=token)
        self.clock = FakeClock(experiments.NOW_US / 1e6)
        self.snapshots: list[control_pb2.Snapshot] = []
        self._versions = versions
        self._stack = AsyncExitStack()
        self._sequence = 0

    async def __aenter__(self) -> Self:
        wall_us = lambda: self.clock.now_ns() // 1000  # noqa: E731
        control = await self._stack.enter_async_context(ControlServer(self.settings, wall_us))
        self.address = f"127.0.0.1:{control.port}"
        own = await self._stack.enter_async_context(connect(self.address, self.credentials))
        self.stub = experiments_pb2_grpc.ExperimentServiceStub(own)
        others = await self._stack.enter_async_context(aio.insecure_channel(self.address, OPTIONS))
        self.borne = experiments_pb2_grpc.ExperimentServiceStub(others)
        """For calls with a bearer of their own."""
        for version in self._versions:
            await self.register(version)
        following = asyncio.create_task(
            SnapshotFollower(self.address, "g", self.snapshots.append, self.credentials).run()
        )
        self._stack.callback(following.cancel)
        await self.until(lambda _: True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def register(self, version: str) -> None:
        """A replica of this version, ready."""
        entry = control_pb2.Registration(
            replica_id=version,
            endpoint="127.0.0.1:1",
            spec=experiments.spec(version),
            state=control_pb2.REPLICA_STATE_READY,
        )
        loop = RegistrationLoop(self.address, entry, control_pb2.Load, self.credentials)
        loop.start()
        self._stack.push_async_callback(loop.close)
        await loop.wait_registered()

    async def until(self, holds: Callable[[control_pb2.TrafficPolicy], bool]) -> float:
        """Seconds until the follower has a policy of `m` like that."""
        begun = time.monotonic()
        while not self.snapshots or not holds(self.policy):
            await asyncio.sleep(0.002)
        return time.monotonic() - begun

    @property
    def policy(self) -> control_pb2.TrafficPolicy:
        found = [policy for policy in self.snapshots[-1].policies if policy.model == "m"]
        return found[0] if found else control_pb2.TrafficPolicy()

    async def create(self, name: str = "e", who: str = "ann", **fields: Any) -> pb.Experiment:
        fields = {"model": "m", "incumbent": "1", "challenger": "2", "plan": plan(), "start": True, **fields}
        request = pb.CreateExperimentRequest(id=name, **fields)
        return (await self.borne.CreateExperiment(request, metadata=bearer(who))).experiment

    async def tell(self, rows: int, name: str = "e", **of_pairs: int) -> None:
        """Pairs in one message."""
        self._sequence += 1
        asked = {"seed": self._sequence, **of_pairs}
        await self.stub.RecordPairs(experiments.message(self._sequence, rows, experiment=name, **asked))

    async def promote(self, name: str = "e", who: str = "bob", **fields: Any) -> pb.Experiment:
        request = pb.PromoteRequest(id=name, **{"why": "gates", **fields})
        return (await self.borne.Promote(request, metadata=bearer(who))).experiment

    async def roll_back(self, name: str = "e", why: str = "it is slow") -> pb.Experiment:
        return (await self.borne.Rollback(pb.RollbackRequest(id=name, why=why), metadata=bearer("cy"))).experiment

    async def report(self, name: str = "e") -> pb.Report:
        return (await self.stub.GetReport(pb.GetReportRequest(id=name))).report

    async def find(self, name: str = "e") -> pb.Experiment:
        return (await self.stub.GetExperiment(pb.GetExperimentRequest(id=name))).experiment

    async def traffic(self) -> control_pb2.TrafficPolicy:
        return (await self.stub.GetTraffic(pb.GetTrafficRequest(model="m"))).policy

    async def until_stage(self, stage: pb.Stage, share: float = 0, name: str = "e") -> pb.Experiment:
        """The experiment when it has come there by itself."""
        while ((found := await self.find(name)).stage, found.canary_share) != (stage, share):
            await asyncio.sleep(0.02)
        return found


async def refused(asking: Awaitable[Any]) -> tuple[str, str]:
    """Code and sentence of a call that fails."""
    with pytest.raises(aio.AioRpcError) as caught:
        await asking
    return caught.value.code().name, caught.value.details()


def test_an_experiment_goes_from_shadow_to_finished_and_every_move_says_who_and_why(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            begun = await rig.create(why="a new model")
            assert (begun.stage, begun.plan.output, list(begun.plan.thresholds)) == (pb.STAGE_SHADOW, "score", [75])
            assert await rig.until(lambda policy: len(policy.shadows) == 2) < 1
            assert rig.policy.primary_version == "1"

            await rig.tell(2000)
            code, sentence = await refused(rig.promote())
            assert code == "FAILED_PRECONDITION"
            assert sentence.startswith("pairs: ")
            assert "(WAIT)" in sentence
            assert (await rig.find()).stage == pb.STAGE_SHADOW

            for _ in range(4):
                await rig.tell(2000)
            canary = await rig.promote()
            assert (canary.stage, canary.canary_share) == (pb.STAGE_CANARY, 0.05)
            assert await rig.until(lambda policy: policy.canary.share == 0.05) < 1
            assert (rig.policy.canary.version, rig.policy.canary.salt) == ("2", "e")
            assert (await refused(rig.promote()))[0] == "FAILED_PRECONDITION"  # nothing is known of the canary
            for _ in range(2):
                await rig.tell(2000, canary=1000)
            assert (await rig.promote()).canary_share == 1
            for _ in range(2):
                await rig.tell(2000, canary=1000)
            assert (await rig.promote()).stage == pb.STAGE_PRIMARY
            assert await rig.until(lambda policy: policy.primary_version == "2") < 1
            assert not rig.policy.HasField("canary")
            assert [(shadow.incumbent, shadow.challenger) for shadow in rig.policy.shadows] == [("1", "2")]
            for _ in range(2):
                await rig.tell(2000, canary=2000)
            finished = await rig.promote(who="dan", why="a week is over")

            assert await rig.until(lambda policy: not policy.shadows) < 1
            assert rig.policy == await rig.traffic()
            assert (rig.policy.primary_version, finished.stage) == ("2", pb.STAGE_FINISHED)
            assert (await refused(rig.promote()))[1] == "experiment 'e' is FINISHED: it is over"
            assert (await refused(rig.roll_back()))[0] == "FAILED_PRECONDITION"
            assert [(move.who, move.why, pb.Stage.Name(move.to_stage)[6:]) for move in finished.moves] == [
                ("ann", "a new model", "DRAFT"),
                ("ann", "a new model", "SHADOW"),
                ("bob", "gates", "CANARY"),
                ("bob", "gates", "CANARY"),
                ("bob", "gates", "PRIMARY"),
                ("dan", "a week is over", "FINISHED"),
            ]
            assert finished.moves[2].figures.figures.pairs == 10_000
            assert finished.moves[2].figures.verdict == pb.VERDICT_PASS
            assert all(move.at.ToMicroseconds() == experiments.NOW_US for move in finished.moves)

    run(main())


def test_a_draft_that_is_rolled_back_changes_nothing_about_who_answers(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            await rig.create(start=False)

            assert (await rig.roll_back()).stage == pb.STAGE_ROLLED_BACK

            await rig.until(lambda policy: policy.revision > 0)
            assert rig.policy == control_pb2.TrafficPolicy(model="m", revision=rig.policy.revision)

    run(main())


@pytest.mark.parametrize("steps", range(1, 6), ids=["shadow", "canary", "all", "primary", "pinned"])
def test_a_rollback_from_any_stage_puts_the_incumbent_in_charge(run: Run, tmp_path: Path, steps: int) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            if steps == 5:
                await rig.stub.SetTraffic(pb.SetTrafficRequest(model="m", primary_version="1"))
            await rig.create(start=False)
            for _ in range(min(steps, 4)):
                await rig.promote(force=True)

            back = await rig.roll_back()

            in_force = await rig.traffic()
            assert await rig.until(lambda policy: policy == in_force) < 1
            assert (rig.policy.primary_version, len(rig.policy.shadows)) == ("1", 0)
            assert not rig.policy.HasField("canary")
            assert (back.stage, back.moves[-1].who, back.moves[-1].why) == (pb.STAGE_ROLLED_BACK, "cy", "it is slow")
            assert (await rig.roll_back(why="again")) == back  # asked twice, done once

    run(main())


def test_an_automatic_experiment_goes_its_way_alone_up_to_primary(run: Run, tmp_path: Path) -> None:
    async def main() -> pb.Experiment:
        async with Rig(tmp_path) as rig:
            await rig.create(plan=plan(automatic=True))
            for _ in range(5):
                await rig.tell(2000)
            await rig.until_stage(pb.STAGE_CANARY, 0.05)
            for _ in range(2):
                await rig.tell(2000, canary=1000)
            await rig.until_stage(pb.STAGE_CANARY, 1)
            for _ in range(2):
                await rig.tell(2000, canary=1000)
            await rig.until_stage(pb.STAGE_PRIMARY)
            for _ in range(2):
                await rig.tell(2000, canary=2000)
            await rig.until(lambda policy: policy.primary_version == "2")
            return await rig.find()

    found = run(main())

    assert found.stage == pb.STAGE_PRIMARY
    assert {move.who for move in found.moves[2:]} == {"headrace"}
    assert found.moves[2].why.startswith("pairs: ")
    assert found.moves[2].figures.figures.pairs >= LIMITS.min_pairs


@pytest.mark.parametrize("stage", [pb.STAGE_CANARY, pb.STAGE_PRIMARY], ids=["canary", "primary"])
def test_a_breached_guardrail_takes_the_challenger_back_whoever_promoted_it(
    run: Run, tmp_path: Path, stage: pb.Stage
) -> None:
    async def main() -> tuple[pb.Experiment, control_pb2.TrafficPolicy]:
        async with Rig(tmp_path) as rig:
            await rig.create()
            await rig.promote(force=True, to_stage=stage)
            await rig.tell(2000, canary=1000, errors=300)
            found = await rig.until_stage(pb.STAGE_ROLLED_BACK)
            await rig.until(lambda policy: not policy.shadows)
            return found, rig.policy

    found, policy = run(main())

    assert found.moves[-1].who == "headrace"
    assert "errors: 30" in found.moves[-1].why
    assert found.moves[-1].figures.figures.challenger_errors.events == 300
    assert (policy.primary_version, policy.HasField("canary")) == ("1", False)


def test_a_restart_in_the_middle_loses_nothing(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            await rig.create()
            await rig.tell(500, flips=2)
            await rig.promote(force=True)
            await rig.tell(500, canary=100, lost=3)
            await rig.until(lambda policy: policy.canary.share == 0.05)
            before, report, policy = await rig.find(), await rig.report(), rig.policy
        async with Rig(tmp_path) as again:
            assert await again.find() == before
            after = await again.report()
            assert after.figures == report.figures
            assert after.gates == report.gates
            assert again.policy == policy
            await again.stub.RecordPairs(experiments.message(2, 500, canary=100, lost=3))  # sent again, not counted
            assert (await again.report()).figures == report.figures
            again.clock.advance(1)
            assert (await again.roll_back()).stage == pb.STAGE_ROLLED_BACK
            await again.until(lambda found: found.revision > policy.revision)

    run(main())


def test_what_can_not_be_is_refused_by_name_and_nothing_begins(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            await rig.create("first")
            for fields, code, sentence in [
                ({"name": "first"}, "ALREADY_EXISTS", "there is an experiment 'first' already"),
                ({"challenger": "9"}, "NOT_FOUND", "version '9' of 'm' is not there"),
                ({"challenger": ""}, "NOT_FOUND", "version '' of 'm' is not there"),
                ({"model": "n"}, "NOT_FOUND", "model 'n' is not there"),
                ({"model": ""}, "INVALID_ARGUMENT", "model: required"),
                ({"challenger": "1"}, "INVALID_ARGUMENT", "challenger: version 1 is the incumbent itself"),
                ({"name": "a b"}, "INVALID_ARGUMENT", "id: letters, digits"),
                ({"plan": plan(share=2)}, "INVALID_ARGUMENT", "plan.share: 2"),
                ({"plan": plan(output="q")}, "INVALID_ARGUMENT", "plan.output: 'q' is not one number a row"),
                ({"plan": plan(output="p")}, "INVALID_ARGUMENT", "plan.thresholds: 0"),
                ({"plan": plan(canary_shares=(0.5, 0.1))}, "INVALID_ARGUMENT", "plan.canary_shares: "),
                ({"incumbent": "3"}, "FAILED_PRECONDITION", "version 1 is in charge of 'm', not 3"),
            ]:
                found = await refused(rig.create(**{"name": "second", **fields}))
                assert found[0] == code, found
                assert found[1].startswith(sentence), found
            unknown = pb.GetReportRequest(id="x")
            for asking in (rig.find("x"), rig.promote("x"), rig.roll_back("x"), rig.stub.GetReport(unknown)):
                assert await refused(asking) == ("NOT_FOUND", "there is no experiment 'x'")
            listed = await rig.stub.ListExperiments(pb.ListExperimentsRequest())
            assert [one.id for one in listed.experiments] == ["first"]

    run(main())


def test_an_experiment_without_an_id_gets_one_of_its_model_and_versions(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            assert (await rig.create("")).id == "m-1-2"
            assert (await refused(rig.create("")))[1] == "experiment 'm-1-2' compares these two already"
            await rig.roll_back("m-1-2")
            assert (await rig.create("", incumbent="")).id == "m-1-2-2"  # whoever is in charge
            await rig.create("", challenger="3")
            listed = (await rig.stub.ListExperiments(pb.ListExperimentsRequest(model="m"))).experiments
            assert [one.id for one in listed] == ["m-1-3", "m-1-2-2", "m-1-2"]
            assert not any(move.HasField("figures") for one in listed for move in one.moves)
            assert not (await rig.stub.ListExperiments(pb.ListExperimentsRequest(model="n"))).experiments

    run(main())


def test_two_challengers_are_compared_at_once_and_one_goes_ahead(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            await rig.create("a")
            await rig.create("b", challenger="3")
            await rig.until(lambda policy: len(policy.shadows) == 4)
            await rig.promote("a", force=True)
            assert await refused(rig.promote("b", force=True)) == (
                "FAILED_PRECONDITION",
                "experiment 'a' of 'm' is in CANARY; one at a time",
            )
            await rig.promote("a", force=True, to_stage=pb.STAGE_FINISHED)
            await rig.until(lambda policy: policy.primary_version == "2" and len(policy.shadows) == 2)
            code, sentence = await refused(rig.promote("b", force=True))
            assert (code, sentence.startswith("version 2 is in charge of 'm', not 1")) == ("FAILED_PRECONDITION", True)
            await rig.roll_back("b")  # it never was in charge: who is stays
            await rig.until(lambda policy: not policy.shadows)
            assert rig.policy.primary_version == "2"

    run(main())


def test_two_who_ask_for_the_same_step_make_one(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[list[Any], pb.Experiment]:
        async with Rig(tmp_path) as rig:
            await rig.create()
            await rig.promote(force=True)
            seen = {"force": True, "from_stage": pb.STAGE_CANARY, "from_share": 0.05}
            answers = await asyncio.gather(*(rig.promote(who=who, **seen) for who in NAMES), return_exceptions=True)
            return answers, await rig.find()

    answers, found = run(main())

    refusals = [one.details() for one in answers if isinstance(one, aio.AioRpcError)]
    assert refusals == ["experiment 'e' is CANARY 100 % by now, not CANARY 5 %: look at it again"] * 4
    assert (found.canary_share, len(found.moves)) == (1, 4)


def test_a_challenger_that_is_not_ready_is_not_put_in_charge(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path, versions="1", control__lease_s=0.3) as rig:
            entry = control_pb2.Registration(
                replica_id="w", endpoint="h:1", spec=experiments.spec("2"), state=control_pb2.REPLICA_STATE_WARMING
            )
            loop = RegistrationLoop(rig.address, entry, control_pb2.Load, rig.credentials)
            loop.start()
            await loop.wait_registered()
            assert await refused(rig.create()) == ("FAILED_PRECONDITION", "version 2 of 'm' is not ready")
            await rig.create(start=False)
            assert (await refused(rig.promote(force=True)))[1] == "version 2 of 'm' is not ready"
            loop.update(control_pb2.REPLICA_STATE_READY)
            while (await rig.find()).stage != pb.STAGE_SHADOW:
                try:
                    await rig.promote()
                except aio.AioRpcError:
                    await asyncio.sleep(0.02)
            await loop.close()

    run(main())


def test_traffic_is_set_without_an_experiment_and_never_against_one(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            canary = control_pb2.Canary(version="3", share=0.1)
            asked = pb.SetTrafficRequest(model="m", primary_version="2", canary=canary, why="by hand")
            policy = (await rig.stub.SetTraffic(asked)).policy
            assert await rig.until(lambda found: found == policy) < 1
            assert (policy.primary_version, policy.canary.share, policy.canary.salt) == ("2", 0.1, "m/3")
            for request, code in [
                (pb.SetTrafficRequest(model="n"), "NOT_FOUND"),
                (pb.SetTrafficRequest(), "INVALID_ARGUMENT"),
                (pb.SetTrafficRequest(model="m", primary_version="7"), "NOT_FOUND"),
                (
                    pb.SetTrafficRequest(model="m", primary_version="2", canary=control_pb2.Canary(version="1")),
                    "INVALID_ARGUMENT",
                ),
                (pb.SetTrafficRequest(model="m", canary=canary), "INVALID_ARGUMENT"),
            ]:
                assert (await refused(rig.stub.SetTraffic(request)))[0] == code
            assert (await refused(rig.stub.GetTraffic(pb.GetTrafficRequest(model="n"))))[0] == "NOT_FOUND"
            await rig.create(incumbent="2", challenger="1")
            assert await refused(rig.stub.SetTraffic(asked)) == (
                "FAILED_PRECONDITION",
                "experiment 'e' decides who answers for 'm': promote it or roll it back",
            )

    run(main())


def test_garbage_pairs_are_refused_by_name_and_the_gateways_beside_them_are_heard(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            await rig.create()
            wrong = experiments.message(1, gateway="wrong")
            wrong.pairs.amount.append(1)
            good = [experiments.message(1, gateway=f"g{i}") for i in range(20)]
            asked = [rig.stub.RecordPairs(one) for one in (*good, wrong, *good)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            failed = [answer for answer in answers if isinstance(answer, aio.AioRpcError)]
            assert [(one.code().name, one.details()) for one in failed] == [
                ("INVALID_ARGUMENT", "pairs.amount: 101 entries for 100 pairs")
            ]
            assert (await rig.report()).figures.pairs == 2000
            unknown = experiments.message(1, experiment="x")
            assert (await refused(rig.stub.RecordPairs(unknown)))[0] == "NOT_FOUND"

    run(main())


def test_outcomes_become_figures_of_both_sides(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[int, pb.Report]:
        async with Rig(tmp_path) as rig:
            await rig.create()
            await rig.tell(1000, seed=7, at_us=experiments.NOW_US - 31 * 86_400_000_000)
            assert not (await rig.report()).HasField("labelled")
            told = [pb.Outcome(event_id=f"7-{i}", fraud=i % 10 == 0) for i in range(500)]
            told.append(pb.Outcome(event_id="unknown", fraud=True))
            answer = await rig.stub.RecordOutcomes(pb.RecordOutcomesRequest(outcomes=told))
            return answer.matched, await rig.report()

    matched, report = run(main())

    assert matched == 500
    assert (report.labelled.labels, report.labelled.positives) == (1_000, 50)


def test_permissions_are_asked_and_names_written_down(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            guest = bearer("guest")
            await rig.create(start=False)
            for asking, permission in [
                (rig.borne.CreateExperiment(pb.CreateExperimentRequest(), metadata=guest), "admin"),
                (rig.borne.Promote(pb.PromoteRequest(), metadata=guest), "admin"),
                (rig.borne.Rollback(pb.RollbackRequest(), metadata=guest), "admin"),
                (rig.borne.SetTraffic(pb.SetTrafficRequest(), metadata=guest), "admin"),
                (rig.borne.RecordPairs(pb.RecordPairsRequest(), metadata=guest), "gateway"),
                (rig.borne.RecordOutcomes(pb.RecordOutcomesRequest(), metadata=guest), "outcome"),
            ]:
                expected = ("PERMISSION_DENIED", f"this caller may not do this: it needs the permission '{permission}'")
                assert await refused(asking) == expected
            await rig.borne.GetExperiment(pb.GetExperimentRequest(id="e"), metadata=guest)
            await rig.borne.GetTraffic(pb.GetTrafficRequest(model="m"), metadata=guest)

    run(main())


def test_a_shadow_in_the_settings_begins_once_when_its_version_is_there(run: Run, tmp_path: Path) -> None:
    model = {
        "primary_version": "1",
        "traffic": {"canary": {"version": "3", "share": 0.2}, "shadows": [{"version": "2", "share": 0.5}]},
    }

    async def main() -> None:
        async with Rig(tmp_path, versions="1", models={"m": model}) as rig:
            assert (rig.policy.primary_version, rig.policy.canary.share) == ("1", 0.2)
            assert not rig.policy.shadows
            await rig.register("2")
            await rig.until(lambda policy: len(policy.shadows) == 2)
            found = await rig.find("settings-m-2")
            assert (found.incumbent, found.plan.share, found.moves[0].who) == ("1", 0.5, "settings")
            assert found.moves[0].why == "models.m.traffic.shadows"
            await rig.roll_back("settings-m-2")
        async with Rig(tmp_path, versions="12", models={"m": model}) as again:
            await again.create("another", challenger="2")
            await again.until(lambda policy: len(policy.shadows) == 2)
            assert (await again.find("settings-m-2")).stage == pb.STAGE_ROLLED_BACK

    run(main())


def test_a_ledger_that_can_not_be_written_stops_no_discovery(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Rig(tmp_path) as rig:
            await rig.create()
            with sqlite_locked(tmp_path / "ledger.db"):
                code, sentence = await refused(rig.stub.RecordPairs(experiments.message(1)))
                await rig.register("4")
                begun = time.monotonic()
                while "4" not in {replica.spec.version for replica in rig.snapshots[-1].replicas}:
                    await asyncio.sleep(0.002)
                assert time.monotonic() - begun < 1
            assert (code, sentence) == ("UNAVAILABLE", "the ledger can't be used now: database is locked")
            await rig.stub.RecordPairs(experiments.message(1))  # the gateway had kept it
            assert (await rig.report()).figures.pairs == 100

    with caplog.at_level(logging.WARNING):
        run(main())

    assert caplog.text.count("can't be used: database is locked") == 1
    assert "can be used again" in caplog.text


@contextlib.contextmanager
def sqlite_locked(path: Path) -> Iterator[None]:
    """Somebody else writes to the file all the while."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")
