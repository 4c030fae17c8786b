"""The service on either server, and its watch over experiments, without replicas and without waiting."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import pytest
from grpc import aio
from tests import experiments

from headrace.config import ModelSettings
from headrace.control import experiments as experiments_
from headrace.control import experiments as watch
from headrace.control.discovery import Directory
from headrace.control.experiments import MAX_ASKING, ExperimentService
from headrace.control.labels import Labels
from headrace.control.ledger import Ledger
from headrace.control.traffic import Reason
from headrace.control.trials import Trials
from headrace.testing.clock import FakeClock
from headrace.v1 import control_pb2, experiments_pb2_grpc
from headrace.v1 import experiments_pb2 as pb

Run = Callable[..., Any]


class Service(ExperimentService):
    """Over a ledger in memory, versions 1 and 2 of `m` and of `n` registered."""

    def __init__(
        self,
        require: Callable[[Any, str], str] = lambda _call, _permission: "ann",
        models: Mapping[str, ModelSettings] | None = None,
    ) -> None:
        self.clock = FakeClock(experiments.NOW_US / 1e6)
        self.ledger = Ledger(":memory:")
        self.trials = Trials(self.ledger, lambda: self.clock.now_ns() // 1000, (75,))
        self.directory = Directory(self.clock, lease_s=1e6)
        for model in "mn":
            for version in "12":
                spec = experiments.spec(version, model)
                ready = control_pb2.REPLICA_STATE_READY
                entry = control_pb2.Registration(replica_id=model + version, endpoint="h:1", spec=spec, state=ready)
                self.directory.register(entry)
        super().__init__(self.trials, self.directory, models or {}, require=require, tell=self._told)
        self.told = 0
        self.looks = 0

    async def look(self) -> None:
        self.looks += 1
        await super().look()

    async def _told(self) -> None:
        self.told += 1

    def begin(self, name: str, model: str = "m", **plan: Any) -> None:
        request = pb.CreateExperimentRequest(
            id=name, model=model, incumbent="1", challenger="2", plan=pb.Plan(**plan), start=True
        )
        self.trials.begin(request, "ann", self.directory.versions(model))


class Named(str):
    """A call without a wire, from a caller of this name."""

    __slots__ = ()

    async def abort(self, code: grpc.StatusCode, _: str, __: object = ()) -> None:
        raise Ended(code.name)


class Ended(Exception):
    """With a status."""


async def _refusal(asking: Awaitable[Any]) -> str:
    try:
        await asking
    except Ended as ended:
        return str(ended)
    return ""


def _after(release: threading.Event, find: Callable[[str], pb.Experiment]) -> Callable[[str], pb.Experiment]:
    def found(name: str) -> pb.Experiment:
        release.wait()
        return find(name)

    return found


async def asked(make_server: Callable[[], Any], service: Service, ask: Callable[[Any], Awaitable[Any]]) -> Any:
    """What a client of the service gets, or code and sentence."""
    server = make_server()
    experiments_pb2_grpc.add_ExperimentServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            return await ask(experiments_pb2_grpc.ExperimentServiceStub(channel))
    except aio.AioRpcError as error:
        return error.code().name, error.details()
    finally:
        await server.stop(0.2)
        await service.close()


def test_pairs_are_told_and_refused_alike_on_both_servers(run: Run, make_server: Callable[[], Any]) -> None:
    async def main() -> tuple[Any, int]:
        service = Service()
        service.begin("e")
        wrong = experiments.message(2)
        wrong.pairs.canary.append(True)

        async def ask(stub: Any) -> None:
            await stub.RecordPairs(experiments.message(1))
            await stub.RecordPairs(wrong)

        return await asked(make_server, service, ask), service.trials.report("e").figures.pairs

    assert run(main()) == (("INVALID_ARGUMENT", "pairs.canary: 101 entries for 100 pairs"), 100)


def test_a_rollback_waits_for_no_more_than_a_piece_of_what_outcomes_are_told(
    run: Run, make_server: Callable[[], Any]
) -> None:
    feed = pb.RecordOutcomesRequest(outcomes=[pb.Outcome(event_id=str(i)) for i in range(10_000)])

    async def main() -> tuple[list[bool], list[int]]:
        service = Service()
        service.begin("e")

        async def ask(stub: Any) -> tuple[list[bool], list[int]]:
            feeding = [asyncio.ensure_future(stub.RecordOutcomes(feed)) for _ in range(4)]
            await stub.GetExperiment(pb.GetExperimentRequest(id="e"))  # behind the first of it
            await stub.Rollback(pb.RollbackRequest(id="e"))
            told = [one.done() for one in feeding]
            return told, [answer.matched for answer in await asyncio.gather(*feeding)]

        return await asked(make_server, service, ask)

    assert run(main()) == ([False] * 4, [0] * 4)


def test_calls_that_decide_nothing_wait_in_bounded_number_and_moves_beside_them(run: Run) -> None:
    """Half of the room is for others than whoever asks most."""

    async def main() -> tuple[Counter[str], str, pb.Stage]:
        service = Service(lambda call, _: call)
        service.begin("e")
        release = threading.Event()
        service.trials.find = _after(release, service.trials.find)
        lists = [
            asyncio.create_task(_refusal(service.GetExperiment(pb.GetExperimentRequest(id="e"), Named("greedy"))))
            for _ in range(MAX_ASKING)
        ]
        while sum(one.done() for one in lists) < MAX_ASKING // 2:
            await asyncio.sleep(0)
        other = asyncio.create_task(_refusal(service.ListExperiments(pb.ListExperimentsRequest(), Named("other"))))
        rolling = asyncio.create_task(service.Rollback(pb.RollbackRequest(id="e"), Named("ann")))
        release.set()
        after = await rolling
        found = Counter([await one for one in lists]), await other, after.experiment.stage
        await service.close()
        return found

    results, other, stage = run(main())

    assert results == {"": MAX_ASKING // 2, "RESOURCE_EXHAUSTED": MAX_ASKING // 2}
    assert other == ""
    assert stage == pb.STAGE_ROLLED_BACK


def test_nobody_speaks_for_the_gateway_of_another_caller(run: Run) -> None:
    async def main() -> int:
        service = Service(lambda call, _: call)
        service.begin("e")
        await service.RecordPairs(experiments.message(1 << 40, 0), Named("stranger"))
        for sequence in (1, 2, 2):
            await service.RecordPairs(experiments.message(sequence), Named("own"))
        await service.close()
        return service.trials.report("e").figures.pairs

    assert run(main()) == 200


def test_messages_wait_within_bounds_of_their_number_and_their_bytes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments_, "MAX_BYTES", 100_000)
    long = experiments.message(1)
    long.gateway_id = "g" * 257

    async def main() -> list[str]:
        service = Service(lambda call, _: call)
        service.begin("e")
        release, find = threading.Event(), service.trials.find
        service.trials.find = _after(release, find)
        busy = asyncio.create_task(service.GetExperiment(pb.GetExperimentRequest(id="e"), Named("ann")))
        await asyncio.sleep(0)
        large, small = (experiments.message(1, rows, gateway=str(rows)) for rows in (2000, 10))
        waiting = asyncio.create_task(_refusal(service.RecordPairs(large, Named("own"))))
        await asyncio.sleep(0)
        results = [await _refusal(service.RecordPairs(message, Named("own"))) for message in (small, long)]
        release.set()
        await busy
        results += [await waiting, await _refusal(service.RecordPairs(small, Named("own")))]
        await service.close()
        return results

    assert run(main()) == ["RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "", ""]


def test_an_error_of_ours_tells_nothing_of_itself(
    run: Run, make_server: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_call: Any, _permission: str) -> str:
        raise RuntimeError("a secret")

    async def main() -> Any:
        return await asked(make_server, Service(broken), lambda stub: stub.Rollback(pb.RollbackRequest(id="e")))

    assert run(main()) == ("INTERNAL", "internal error")
    assert "a secret" in caplog.text


def test_an_experiment_that_can_not_be_judged_holds_nobody_up(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Service:
        service = Service()
        service.begin("good", "n")
        forced = pb.PromoteRequest(id="good", force=True)
        service.trials.promote(forced, "ann", service.directory.versions("n"))
        service.trials.record([experiments.message(1, 2000, experiment="good", canary=1000, errors=300)])
        service.begin("spoiled")  # the newest is looked at first
        service.ledger.execute("INSERT INTO comparisons VALUES ('spoiled', -1, 'challenger', '{}')")
        await service.look()
        await service.close()
        return service

    service = run(main())

    assert service.trials.find("good").stage == pb.STAGE_ROLLED_BACK
    assert {policy.primary_version for policy in service.directory.snapshot("e").policies} == {"1"}
    assert service.told
    assert "the experiments could not be looked at" in caplog.text


def test_a_declared_experiment_that_has_to_wait_keeps_nobody_busy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BREATH_S", 0)
    monkeypatch.setattr(watch, "PERIOD_S", 3600)
    models = {"m": ModelSettings.model_validate({"primary_version": "1", "traffic": {"shadows": [{"version": "2"}]}})}

    async def main() -> Service:
        service = Service(models=models)
        warming = control_pb2.Registration(
            replica_id="m2", endpoint="h:1", spec=experiments.spec("2"), state=control_pb2.REPLICA_STATE_WARMING
        )
        service.directory.register(warming)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(service.run())
            for _ in range(50):  # far more turns of the ledger's thread than a look takes
                await service.ListExperiments(pb.ListExperimentsRequest(), None)
            watching.cancel()
        await service.close()
        return service

    service = run(main())

    assert service.looks == 1
    assert not service.trials.all()


class Outcomes:
    """What a computation of labels finds, once `begin` is set; an error where it has nothing to find."""

    def __init__(self, service: Service, found: pb.LabelledFigures | None) -> None:
        self.begin = threading.Event()
        self._found = found
        service.trials.record_outcomes([pb.Outcome(event_id="1-1", fraud=True)])
        service.trials.matured = lambda _experiment: self

    def figures(self) -> pb.LabelledFigures:
        self.begin.wait()
        if self._found is None:
            raise ValueError("no figures")
        return self._found


WORSE = pb.LabelledFigures(
    labels=5000,
    positives=500,
    average_precision_gain=pb.Interval(lower=-0.5, upper=-0.4),
    recall_gain=pb.Interval(lower=-0.5, upper=-0.4),
)


class Call:
    """A call whose refusal is an exception."""

    async def abort(self, code: Any, sentence: str, _: object = ()) -> None:
        raise PermissionError(f"{code.name}: {sentence}")


def ready_for_a_canary() -> Service:
    """Every gate of experiment `e` passes, as long as outcomes say nothing."""
    service = Service()
    service.begin("e", gates=pb.Gates(min_pairs=4000, min_hours=0, max_batch_time_ratio=0))
    service.trials.record([experiments.message(1, 10_000)])
    assert service.trials.report("e").verdict == pb.VERDICT_PASS
    return service


def test_a_breached_guardrail_waits_for_no_bootstrap(run: Run) -> None:
    async def main() -> Service:
        service = Service()
        service.begin("e")
        service.trials.promote(pb.PromoteRequest(id="e", force=True), "ann", service.directory.versions("m"))
        service.trials.record([experiments.message(1, 2000, canary=1000, errors=300)])
        outcomes = Outcomes(service, WORSE)
        try:
            await service.look()
        finally:
            outcomes.begin.set()
        await service.close()
        return service

    assert run(main()).trials.find("e").stage == pb.STAGE_ROLLED_BACK


def test_a_step_waits_for_outcomes_that_are_being_computed(run: Run) -> None:
    async def main() -> str:
        service = ready_for_a_canary()
        outcomes = Outcomes(service, WORSE)
        await service.look()
        step = asyncio.create_task(service.Promote(pb.PromoteRequest(id="e"), Call()))
        for _ in range(20):
            await service.GetTraffic(pb.GetTrafficRequest(model="m"), Call())
        assert not step.done()
        outcomes.begin.set()
        (refusal,) = await asyncio.gather(step, return_exceptions=True)
        await service.close()
        return str(refusal)

    assert run(main()).startswith("FAILED_PRECONDITION: labels: average precision -0.5000 to -0.4000")


def test_outcomes_that_could_not_be_computed_close_the_gate_until_they_can(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> tuple[str, list[pb.Gate]]:
        service = ready_for_a_canary()
        Outcomes(service, None).begin.set()
        (refusal,) = await asyncio.gather(service.Promote(pb.PromoteRequest(id="e"), Call()), return_exceptions=True)
        Outcomes(service, WORSE).begin.set()
        service.clock.advance(60)
        report = (await service.GetReport(pb.GetReportRequest(id="e"), Call())).report
        await service.close()
        return str(refusal), [gate for gate in report.gates if gate.name == "labels"]

    refusal, gates = run(main())

    assert refusal == "FAILED_PRECONDITION: labels: not computed yet, asked: what outcomes say (WAIT)"
    assert [gate.verdict for gate in gates] == [pb.VERDICT_FAIL]
    assert "no figures" in caplog.text


def test_an_automatic_step_waits_until_outcomes_were_looked_at_once(run: Run) -> None:
    """After a restart nothing is known of outcomes that are in the ledger."""

    async def main() -> list[pb.Stage]:
        service = Service()
        limits = pb.Gates(min_pairs=4000, min_hours=0, max_batch_time_ratio=0)
        service.begin("e", automatic=True, gates=limits)
        service.trials.record([experiments.message(1, 10_000)])
        outcomes = Outcomes(service, pb.LabelledFigures())
        await service.look()
        before = service.trials.find("e").stage
        outcomes.begin.set()
        await service.GetReport(pb.GetReportRequest(id="e"), Call())
        service.clock.advance(10)
        await service.look()
        await service.close()
        return [before, service.trials.find("e").stage]

    assert run(main()) == [pb.STAGE_SHADOW, pb.STAGE_CANARY]


@pytest.mark.parametrize("away", ["while it is decided", "while it is told"])
def test_followers_hear_of_a_move_though_its_caller_leaves(run: Run, away: str) -> None:
    """Nobody looks at an experiment that is over: what it has moved is told all the same."""

    async def main() -> str:
        service = Service()
        service.trials.set_traffic(control_pb2.TrafficPolicy(model="n", primary_version="1"), Reason("ann", ""))
        await service.look()
        moving = asyncio.ensure_future(
            service.SetTraffic(pb.SetTrafficRequest(model="n", primary_version="2", why="w"), Call())
        )
        if away == "while it is told":
            while service.trials.policy("n").primary_version != "2":
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(0)
        for _ in range(3):  # its call, and then the connection, with everything that runs on it
            moving.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(moving, return_exceptions=True)
        asked = service.trials.policy("n").primary_version
        await service.look()
        told = {policy.model: policy.primary_version for policy in service.directory.snapshot("e").policies}
        await service.close()
        return f"{asked} {told['n']}"

    asked, told = run(main()).split()

    assert told == asked
    assert away == "while it is decided" or told == "2"


def test_labels_are_computed_anew_after_an_outcome_or_ten_minutes_with_a_rest_between() -> None:
    known = Labels()
    assert known.due(0)
    known.begin(0)
    assert not known.due(0)
    known.settle(None, 0, 2_000_000)

    known.stale = True

    assert not known.due(21_000_000)
    assert known.due(22_000_000)
    known.stale = False
    assert not known.due(601_000_000)
    assert known.due(602_000_000)


def test_figures_are_read_on_another_thread_while_experiments_come() -> None:
    service = Service()
    failed: list[Exception] = []
    entered = threading.Event()

    def scrape() -> None:
        try:
            while not entered.is_set():
                service.statistics()
        except RuntimeError as error:
            failed.append(error)

    reader = threading.Thread(target=scrape)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        for number in range(200):
            request = pb.CreateExperimentRequest(id=f"e{number}", model="m", incumbent="1", challenger="2")
            service.trials.begin(request, "ann", service.directory.versions("m"))
    finally:
        entered.set()
        reader.join()
        sys.setswitchinterval(before)

    assert not failed
    assert sum(service.statistics().stages.values()) == 200
