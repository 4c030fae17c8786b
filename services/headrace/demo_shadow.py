"""`headrace demo-shadow`: two challengers of fraud-tx beside simulated traffic, told as their experiments go.

Version 2 was trained on later data: it passes its gates, takes over step by step, and stays. Version 3 is version 2,
but reads the amounts of one currency in the wrong unit: the gate refuses it, and the report shows where. Only the
payments are simulated.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import tritonclient.grpc.aio as triton
from grpc import aio
from rich.console import Console
from rich.text import Text

from headrace import demo_traffic
from headrace.cluster import Cluster
from headrace.config import AccessSettings, Settings, TlsSettings
from headrace.demo_stream import Stream
from headrace.demo_traffic import MODEL
from headrace.errors import StartupError
from headrace.experiments import page, tables
from headrace.experiments.gates import DEMO
from headrace.serving import weights
from headrace.v1 import experiments_pb2 as pb
from headrace.v1 import experiments_pb2_grpc

PAGES: Final = Path("build/demo")
TRACES: Final = PAGES / "traces"
SHIPPED, REFRESHED, WRONG = "1", "2", "3"
WRONG_CURRENCY: Final = "GBP"
"""Of the challenger that is wrong: models/challengers/fraud-tx/3."""
MIN_CANARY_PAIRS: Final = 300
"""Fewer than the demo's limits ask for: at a quarter of the entities each takes four payments."""
MAX_FLIP_RATE: Final = 0.01
MAX_ERROR_EXCESS: Final = 0.015
"""More than the demo's limits allow: each step has to show it by what came since the last, in seconds."""
LABEL_DELAY_S: Final = 1.0
"""Outcomes are told all at once, of every payment that was answered: what has none by then will have none."""
READY_S: Final = 60.0
LOOK_EVERY_S: Final = 1.0
LIMIT_S: Final = 240.0
"""What each experiment may take."""
CALL_S: Final = 30.0
"""A report whose outcomes have just come in takes seconds."""
OUTCOMES_AT_ONCE: Final = 10_000


def plan() -> pb.Plan:
    """How both are run: the demo's limits, and a canary whose first step is large enough for seconds of traffic.

    Both edges of the score from which payments are treated differently are compared. Copies may wait for long: three
    versions and whoever sends the payments share the cores of one machine.
    """
    limits = pb.Gates()
    limits.CopyFrom(DEMO)
    limits.min_canary_pairs = MIN_CANARY_PAIRS
    limits.max_flip_rate = MAX_FLIP_RATE
    limits.max_error_excess = MAX_ERROR_EXCESS
    return pb.Plan(
        output="score",
        thresholds=[50, 75],
        canary_shares=[0.25, 0.5, 1],
        timeout_ms=20_000,
        max_in_flight_rows=1_024,
        automatic=True,
        gates=limits,
        label_delay_s=LABEL_DELAY_S,
    )


async def run(settings: Settings, rate: float) -> bool:
    """Run both experiments over `rate` payments a second at most. True: both ended as told. Raises: StartupError."""
    console = Console()
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    settings = settings_of_the_demo(settings)
    with console.status("simulating payments, starting a cluster with three versions of fraud-tx"):
        simulated = asyncio.create_task(asyncio.to_thread(Stream.simulate, rate))
        cluster = await Cluster(settings).__aenter__()
    try:
        stream = await simulated
        async with aio.insecure_channel(cluster.control_address) as channel:
            story = Story(experiments_pb2_grpc.ExperimentServiceStub(channel), stream, console)
            return await _tell(story, cluster.address)
    finally:
        with console.status("draining"):
            await cluster.stop()


def settings_of_the_demo(settings: Settings) -> Settings:
    """Quiet, fraud-tx alone with its challengers, with traces and a ledger that are nobody else's.

    Raises: StartupError where the challengers are not.
    """
    challengers = weights.shipped_models().parent / "challengers"
    if not challengers.is_dir():
        raise StartupError(f"{challengers}: not there; the challengers come with a checkout of the repository")
    changed = {
        "telemetry": settings.telemetry.model_copy(update={"trace_dir": TRACES, "log_level": "ERROR"}),
        "control": settings.control.model_copy(update={"ledger": Path(":memory:")}),
        "tls": TlsSettings(),  # it is its own caller, on this machine
        "access": AccessSettings(),
        "only": (MODEL,),
        "model_dirs": (challengers,),
    }
    return settings.model_copy(update=changed)


async def _tell(story: Story, address: str) -> bool:
    """The story over traffic that flows as long as it is told."""
    async with triton.InferenceServerClient(address) as client:
        await _until_ready(client)
        async with story.stream.flowing(client):
            return await story.tell()


async def _until_ready(client: triton.InferenceServerClient) -> None:
    """Until each version can be asked: that the model is ready says no more than that one of them is."""
    until = time.monotonic() + READY_S
    for version in (SHIPPED, REFRESHED, WRONG):
        while not await client.is_model_ready(MODEL, version):
            if time.monotonic() > until:
                raise StartupError(f"version {version} of {MODEL} did not become ready within {READY_S:g} s")
            await asyncio.sleep(0.1)


class Story:
    """One experiment after the other, and whether each ends as told."""

    def __init__(
        self, experiments: experiments_pb2_grpc.ExperimentServiceStub, stream: Stream, console: Console
    ) -> None:
        self.stream = stream
        self._experiments = experiments
        self._console = console
        self._begun = time.monotonic()
        self._moves_said = 0
        """Of the experiment under way."""
        self._outcomes_told = 0
        """Answered payments whose outcomes were told."""

    async def tell(self) -> bool:
        """Both experiments. Whatever control refuses ends the story, in one line."""
        try:
            await self._ask(
                "SetTraffic", pb.SetTrafficRequest(model=MODEL, primary_version=SHIPPED, why="the demo begins")
            )
            promoted = await self._promotes(SHIPPED, REFRESHED)
            refused = await self._refuses(REFRESHED if promoted else SHIPPED, WRONG)
        except aio.AioRpcError as error:
            self._console.print(f"control: {error.code().name}: {error.details()}", style="red")
            return False
        self._console.print(self.stream.summary())
        self._console.print(f"Pages: {PAGES}/experiment-*.html", style="dim")
        return promoted and refused

    async def _promotes(self, incumbent: str, challenger: str) -> bool:
        """The challenger passes gate after gate by itself, until it answers everybody; then somebody says: it stays."""
        experiment = await self._begin(incumbent, challenger, "trained on later data")
        seen = await self._watch(
            experiment, lambda report: report.experiment.stage not in (pb.STAGE_SHADOW, pb.STAGE_CANARY)
        )
        if seen.experiment.stage == pb.STAGE_PRIMARY:  # nobody goes on from here but by hand
            seen = await self._watch(
                experiment,
                lambda report: report.experiment.stage != pb.STAGE_PRIMARY or report.verdict == pb.VERDICT_PASS,
            )
        if seen.experiment.stage == pb.STAGE_PRIMARY and seen.verdict == pb.VERDICT_PASS:
            await self._ask("Promote", pb.PromoteRequest(id=experiment, why="it answered everybody and did well"))
        report = await self._report(experiment)
        traffic = await self._ask("GetTraffic", pb.GetTrafficRequest(model=MODEL))
        if report.experiment.stage == pb.STAGE_FINISHED and traffic.policy.primary_version == challenger:
            self._say(f"version {challenger} is in charge", "green")
            return True
        await self._end(report)
        self._say(f"version {challenger} was not promoted", "red")
        return False

    async def _refuses(self, incumbent: str, challenger: str) -> bool:
        """The gate says no while nobody has been answered by the challenger, and the report says in which currency."""
        experiment = await self._begin(incumbent, challenger, "amounts are normalised")
        await self._watch(
            experiment,
            lambda report: (
                report.experiment.stage != pb.STAGE_SHADOW
                or (report.figures.pairs >= DEMO.min_pairs and "flips" in broken(report))
            ),
        )
        refusal = await self._refusal(experiment)
        report = await self._report(experiment)
        where = worst_currency(report)
        await self._end(report)
        good = report.experiment.stage == pb.STAGE_SHADOW and bool(refusal) and where == WRONG_CURRENCY
        self._say(f"promoting version {challenger}: {refusal or 'was not refused'}", "green" if good else "red")
        self._say(f"where it differs most: {where}", "green" if good else "red")
        return good

    async def _begin(self, incumbent: str, challenger: str, why: str) -> str:
        request = pb.CreateExperimentRequest(
            model=MODEL, incumbent=incumbent, challenger=challenger, plan=plan(), start=True, why=why
        )
        made = await self._ask("CreateExperiment", request)
        self._moves_said = 0
        self._say(f"version {challenger} beside version {incumbent}: {why}", "bold")
        identity: str = made.experiment.id
        return identity

    async def _watch(self, experiment: str, over: Callable[[pb.Report], bool]) -> pb.Report:
        """Look until it is over, or its time is. Returns: the last look."""
        until = time.monotonic() + LIMIT_S
        with self._console.status("") as status:
            while True:
                report = await self._look(experiment)
                self._say_moves(report)
                if over(report) or time.monotonic() > until:
                    return report
                self.stream.pace.keep_up(report.figures.pending, sum(report.figures.drops.values()))
                status.update(f"{live(report)}  {self.stream.pace.rate:.0f}/s")
                await asyncio.sleep(LOOK_EVERY_S)

    def _say_moves(self, report: pb.Report) -> None:
        """Print the moves that were not printed yet."""
        for move in report.experiment.moves[self._moves_said :]:
            self._say(place(move.to_stage, move.canary_share), "bold", more=move.why)
        self._moves_said = len(report.experiment.moves)

    def _say(self, text: str, style: str = "", *, more: str = "") -> None:
        minutes, seconds = divmod(round(time.monotonic() - self._begun), 60)
        self._console.print(Text.assemble((f"{minutes}:{seconds:02}  ", "dim"), (text, style), (f"  {more}", "dim")))

    async def _look(self, experiment: str) -> pb.Report:
        report: pb.Report = (await self._ask("GetReport", pb.GetReportRequest(id=experiment))).report
        return report

    async def _refusal(self, experiment: str) -> str:
        """What control answers who asks to go on nevertheless; empty: it went on."""
        try:
            await self._ask("Promote", pb.PromoteRequest(id=experiment, why="to see it refused"))
        except aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
                raise
            return error.details() or "refused"
        return ""

    async def _report(self, experiment: str) -> pb.Report:
        """Weeks go by in a moment: outcomes come in, and the report is printed and written."""
        await self._tell_outcomes()
        report = await self._look(experiment)
        self._say_moves(report)
        self._console.print(tables.whole(report))
        path = PAGES / f"experiment-{report.experiment.challenger}.html"
        path.write_text(page.page(report), encoding="utf-8")
        return report

    async def _tell_outcomes(self) -> None:
        """What became of the payments that were answered since the last time."""
        rows = self.stream.answered[self._outcomes_told :]
        self._outcomes_told += len(rows)
        events = self.stream.timeline.events
        outcomes = [found for row in rows if (found := demo_traffic.outcome(events, row)) is not None]
        for begin in range(0, len(outcomes), OUTCOMES_AT_ONCE):
            part = outcomes[begin : begin + OUTCOMES_AT_ONCE]
            await self._ask("RecordOutcomes", pb.RecordOutcomesRequest(outcomes=part))

    async def _end(self, report: pb.Report) -> None:
        """Nothing is compared any more, and the incumbent answers."""
        if report.experiment.stage not in (pb.STAGE_FINISHED, pb.STAGE_ROLLED_BACK):
            await self._ask(
                "Rollback", pb.RollbackRequest(id=report.experiment.id, why="the demo's experiment is over")
            )

    async def _ask(self, rpc: str, request: Any) -> Any:
        return await getattr(self._experiments, rpc)(request, timeout=CALL_S)


def live(report: pb.Report) -> str:
    """An experiment in one line: where it stands, what it has, what it waits for."""
    figures, experiment = report.figures, report.experiment
    flips = "  ".join(f"{at.rate.events} flips at {at.threshold:g}" for at in figures.flips)
    waits = ", ".join(gate.name for gate in report.gates if gate.verdict != pb.VERDICT_PASS)
    verdict = pb.Verdict.Name(report.verdict).removeprefix("VERDICT_")
    stage = place(experiment.stage, experiment.canary_share)
    return f"{stage}  {figures.pairs:,} pairs  {flips}  {verdict}" + (f": {waits}" if waits else "")


def place(stage: pb.Stage, share: float = 0.0) -> str:
    """A stage as people write it, the canary's with its share."""
    name = pb.Stage.Name(stage).removeprefix("STAGE_")
    return f"{name} {share:.0%}" if stage == pb.STAGE_CANARY else name


def broken(report: pb.Report) -> set[str]:
    """The gates that fail, by name."""
    return {gate.name for gate in report.gates if gate.verdict == pb.VERDICT_FAIL}


def worst_currency(report: pb.Report) -> str:
    """Where the largest share of the decisions differs; empty where none does."""
    found = [part for part in report.figures.segments if part.name == "currency" and part.flips.events]
    return max(found, key=lambda part: part.flips.events / part.flips.trials).value if found else ""
