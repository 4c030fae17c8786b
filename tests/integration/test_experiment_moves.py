"""Moves under load, seen by two gateways: nobody fails, one version answers, a card stays where its hash puts it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio
from tests.shadowing import question, replica, right, until
from tritonclient.grpc import service_pb2_grpc

from headrace.control.server import ControlServer
from headrace.core.routing import Canary
from headrace.gateway import telling
from headrace.gateway.server import Gateway
from headrace.serving.registration import RegistrationLoop
from headrace.testing.gateway import settings
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2, experiments_pb2, experiments_pb2_grpc

Run = Callable[..., Any]
CYCLES = 100
CARDS = 40


@dataclass
class Told:
    """One answer: when it was asked for and given, of which card, by whom."""

    asked: float
    given: float
    card: str
    version: str


@dataclass
class Callers:
    """Closed-loop callers of one gateway."""

    port: int
    answers: list[Told] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    stopping: bool = False

    async def run(self, count: int = 4) -> None:
        async with aio.insecure_channel(f"127.0.0.1:{self.port}") as channel, asyncio.TaskGroup() as group:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for _ in range(count):
                group.create_task(self._ask(stub))

    async def _ask(self, stub: Any) -> None:
        while not self.stopping:
            key = random.randrange(CARDS)
            asked = time.monotonic()
            try:
                answer = await stub.ModelInfer(question(key, entity=f"card-{key}", amount=1.0), timeout=5)
            except aio.AioRpcError as error:
                self.failures[f"{error.code().name}: {error.details()}"] += 1
                continue
            if float(np.frombuffer(answer.raw_output_contents[0])[0]) != right(key):
                self.failures["wrong"] += 1
            self.answers.append(Told(asked, time.monotonic(), f"card-{key}", answer.model_version))


@asynccontextmanager
async def registered(address: str, replicas: list[FakeReplica]) -> AsyncIterator[None]:
    loops = [RegistrationLoop(address, one.registration, control_pb2.Load) for one in replicas]
    for loop in loops:
        loop.start()
        await loop.wait_registered()
    try:
        yield
    finally:
        for loop in loops:
            await loop.close()


def plan(**fields: Any) -> experiments_pb2.Plan:
    gates = experiments_pb2.Gates(min_coverage=0.0)
    return experiments_pb2.Plan(thresholds=[10.0], canary_shares=[0.25, 1.0], gates=gates, **fields)


class Experiment:
    """One experiment after another on the echo model, moved by hand."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
        self.id = ""

    async def create(self, name: str, **fields: Any) -> None:
        self.id = name
        await self._stub.CreateExperiment(
            experiments_pb2.CreateExperimentRequest(
                id=name, model="echo", incumbent="1", challenger="2", plan=plan(**fields), start=True
            )
        )

    async def promote(self, to: experiments_pb2.Stage) -> experiments_pb2.Experiment:
        asked = experiments_pb2.PromoteRequest(id=self.id, to_stage=to, force=True, why="drill")
        return (await self._stub.Promote(asked)).experiment

    async def rollback(self) -> None:
        await self._stub.Rollback(experiments_pb2.RollbackRequest(id=self.id, why="drill"))

    async def report(self) -> experiments_pb2.Report:
        return (await self._stub.GetReport(experiments_pb2.GetReportRequest(id=self.id))).report


@pytest.mark.proof
def test_a_hundred_promotions_and_rollbacks_cost_no_request_and_move_no_card_by_chance(
    run: Run, tmp_path: Path
) -> None:
    """Between two moves the version of every answer is known beforehand; across one, it is one of the two."""

    async def main() -> tuple[list[Callers], list[tuple[float, float, Canary | None, str]]]:
        async with replica("1") as one, replica("2") as two, ControlServer(drill(tmp_path)) as control:
            address = f"127.0.0.1:{control.port}"
            async with (
                registered(address, [one, two]),
                Gateway(drill(tmp_path), address) as first,
                Gateway(drill(tmp_path), address) as second,
                aio.insecure_channel(address) as channel,
            ):
                gateways = [first, second]
                await asyncio.gather(*(gateway.wait_ready(10) for gateway in gateways))
                callers = [Callers(gateway.port) for gateway in gateways]
                calling = [asyncio.create_task(each.run()) for each in callers]
                periods = await drills(Experiment(channel), gateways)
                for each in callers:
                    each.stopping = True
                await asyncio.gather(*calling)
                return callers, periods

    callers, periods = run(main(), timeout_s=180)
    answers = [told for each in callers for told in each.answers]
    checked = sum(check(told, periods) for told in answers)

    assert not sum((each.failures for each in callers), Counter())
    assert {told.version for told in answers} == {"1", "2"}
    assert checked > len(answers) / 4, "too few answers lay between two moves"
    assert all(len(each.answers) > 500 for each in callers)


def drill(tmp_path: Path) -> Any:
    return settings(tmp_path, telemetry__enabled=False, models={"echo": {"primary_version": "1"}})


Period = tuple[float, float, Canary | None, str]
"""From when to when every gateway went by this canary and primary."""


async def drills(experiment: Experiment, gateways: list[Gateway]) -> list[Period]:
    """Promote and roll back, over and over."""
    stage, periods = experiments_pb2, []
    for cycle in range(CYCLES):
        await experiment.create(f"drill-{cycle}")
        periods.append(await settled(gateways, "1", None))
        await experiment.promote(stage.STAGE_CANARY)
        periods.append(await settled(gateways, "1", Canary("2", 0.25, experiment.id)))
        if cycle % 2:
            await experiment.promote(stage.STAGE_PRIMARY)
            periods.append(await settled(gateways, "2", None))
        await experiment.rollback()
        periods.append(await settled(gateways, "1", None))
    return periods


async def settled(gateways: list[Gateway], primary: str, canary: Canary | None) -> Period:
    """Wait until every gateway goes by it (within the second that is promised), then let some answers pass."""
    begun = time.monotonic()
    models = [next(iter(gateway.models)) for gateway in gateways]
    await until(lambda: all((m.policy.primary, m.policy.canary) == (primary, canary) for m in models), timeout_s=1)
    since = time.monotonic()
    assert since - begun < 1
    await asyncio.sleep(0.03)
    return since, time.monotonic(), canary, primary


def check(told: Told, periods: list[Period]) -> bool:
    """Whether it lay within one period, in which only one version may have answered."""
    for since, until_, canary, primary in periods:
        if since <= told.asked and told.given <= until_:
            expected = canary.version if canary is not None and canary.takes(told.card) else primary
            assert told.version == expected, f"{told.card} was answered by {told.version}, not {expected}"
            return True
    return False


@asynccontextmanager
async def control_process(config_file: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`headrace control`, as a supervisor would run it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headrace", "control", "--config", str(config_file), stdin=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@pytest.mark.proof
def test_control_killed_again_and_again_loses_no_pair_and_counts_none_twice(
    run: Run, tmp_path: Path, free_port: int
) -> None:
    chosen = settings(
        tmp_path, control__port=free_port, control__ledger=str(tmp_path / "ledger.db"), telemetry__enabled=False,
        models={"echo": {"primary_version": "1"}},
    )  # fmt: skip
    config_file = tmp_path / "headrace.yaml"
    config_file.write_text(chosen.model_dump_json(exclude={"engine", "model_dirs", "only"}))
    address = f"127.0.0.1:{free_port}"

    async def reached(channel: aio.Channel, *, begin: bool) -> Experiment:
        experiment = Experiment(channel)
        experiment.id = "killed"
        async with asyncio.timeout(20):
            while True:
                try:
                    if begin:
                        await experiment.create("killed", noise_share=0.5)
                    await experiment.report()
                except aio.AioRpcError:
                    await asyncio.sleep(0.1)
                else:
                    return experiment

    async def main() -> tuple[experiments_pb2.Report, list[Callers], int, list[Any]]:
        async with replica("1") as one, replica("2") as two, aio.insecure_channel(address) as channel:
            async with control_process(config_file) as control, registered(address, [one, two]):
                async with Gateway(chosen, address) as first, Gateway(chosen, address) as second:
                    gateways = [first, second]
                    await asyncio.gather(*(gateway.wait_ready(20) for gateway in gateways))
                    await reached(channel, begin=True)
                    await until(lambda: all(len(list(g.models.comparisons)) == 2 for g in gateways))
                    callers = [Callers(gateway.port) for gateway in gateways]
                    calling = [asyncio.create_task(each.run()) for each in callers]
                    for _ in range(3):
                        await asyncio.sleep(random.uniform(0.5, 1.2))
                        os.kill(control.pid, signal.SIGKILL)
                        await control.wait()
                        await asyncio.sleep(0.5)
                        control = await asyncio.create_subprocess_exec(  # noqa: PLW2901  the supervisor's part
                            sys.executable, "-m", "headrace", "control", "--config", str(config_file),
                            stdin=asyncio.subprocess.DEVNULL,
                        )  # fmt: skip
                        await reached(channel, begin=False)
                    for each in callers:
                        each.stopping = True
                    await asyncio.gather(*calling)
                    await until(lambda: not any(lane.held for g in gateways for _, lane in g.models.comparisons))
                    await until(lambda: not any(gateway.teller.waiting for gateway in gateways))
                    # What was shed is told a second later, and one more where control was away: it is no pair.
                    await asyncio.sleep(2 * (telling.TELL_S + telling.BACKOFF_S))
                    report = await (await reached(channel, begin=False)).report()
                    told = sum(gateway.teller.told for gateway in gateways)
                    policies = [next(iter(gateway.models)).policy for gateway in gateways]
                control.terminate()
                await control.wait()
                return report, callers, told, policies

    report, callers, told, policies = run(main(), timeout_s=120)
    figures, noise = report.figures, report.noise
    asked = sum(len(each.answers) for each in callers)

    assert not sum((each.failures for each in callers), Counter())
    assert figures.sampled == asked
    assert figures.pairs + sum(figures.drops.values()) == figures.sampled
    assert noise.pairs + sum(noise.drops.values()) == noise.sampled
    assert figures.pending == noise.pending == 0
    assert figures.pairs + noise.pairs == told
    assert figures.pairs > 100
    assert not figures.challenger_errors.events
    assert report.experiment.stage == experiments_pb2.STAGE_SHADOW
    assert {policy.primary for policy in policies} == {"1"}
