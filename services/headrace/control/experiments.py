"""`headrace.v1.ExperimentService`: who may ask, what is asked, who hears of it. What is decided is decided in `trials`.

Everything that touches the ledger runs on its one thread, moves and guardrails first; the event loop, and discovery
with it, waits for no disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from headrace.config import ModelSettings
from headrace.control import drafting, labels, telling
from headrace.control.answering import Require, answering
from headrace.control.discovery import Directory, Versions
from headrace.control.thread import LedgerThread
from headrace.control.traffic import FILE, Reason
from headrace.control.trials import Trials, bare
from headrace.errors import (
    BrokenContract,
    Conflict,
    HeadraceError,
    InvalidInference,
    NotPassed,
    NotServing,
    Overloaded,
    Refused,
    UnknownModel,
)  # fmt: skip
from headrace.tasks import end
from headrace.v1 import control_pb2, experiments_pb2_grpc
from headrace.v1 import experiments_pb2 as pb

log = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
"""Every experiment is looked at so often, with or without news."""
BREATH_S: Final = 1.0
"""Between two looks, whatever comes: each costs tens of milliseconds for every experiment that has new pairs."""
GROUP: Final = 64
"""Messages that are counted in one transaction."""
MAX_WAITING: Final = 256
"""Messages that wait to be counted."""
MAX_BYTES: Final = 64 << 20
"""Of them together, where there is more than one."""
MAX_ASKING: Final = 64
"""Calls that ask for figures or tell outcomes, at a time; half of them of one caller."""
HOUSE_US: Final = 3_600_000_000
Answer = TypeVar("Answer")


class Asked(NamedTuple):
    """A message of pairs and its sender, who waits."""

    request: pb.RecordPairsRequest
    size: int
    done: asyncio.Future[None]


class Statistics(NamedTuple):
    """How far it is, at one moment."""

    stages: Mapping[pb.Stage, int]
    """Experiments in each."""
    pairs: int
    """Counted since the start."""
    waiting: int
    """Acts that the ledger's thread has not begun."""


class ExperimentService(experiments_pb2_grpc.ExperimentServiceServicer):
    """The service, and the task that takes automatic steps (`run`). `tell` is awaited when a policy has changed."""

    def __init__(
        self,
        trials: Trials,
        directory: Directory,
        models: Mapping[str, ModelSettings],
        *,
        require: Require,
        tell: Callable[[], Awaitable[None]],
    ) -> None:
        self._trials = trials
        self._directory = directory
        self._tell = tell
        self.require = require
        self._declared = [
            drafting.of_settings(name, shadow) for name, model in models.items() for shadow in model.traffic.shadows
        ]
        self._thread = LedgerThread()
        self._waiting: list[Asked] = []
        self._labelling: dict[str, asyncio.Task[None]] = {}
        """What outcomes say, while it is computed, by experiment."""
        self._asking: Counter[str] = Counter()
        """Calls by caller."""
        self._news = asyncio.Event()
        self._cleaned_us = 0

    async def close(self) -> None:
        """Let the ledger's thread finish what it has begun."""
        labelling = list(self._labelling.values())
        await end(*labelling)
        await asyncio.to_thread(self._thread.close)

    def statistics(self) -> Statistics:
        """From any thread."""
        stages = Counter(experiment.stage for experiment in self._trials.all())
        return Statistics(stages, self._trials.pairs, self._thread.waiting)

    async def until_writable(self) -> None:
        """Until the ledger has taken a write."""
        while True:
            try:
                await self._thread.ask(self._trials.write_nothing)
            except NotServing:  # it has said why
                await asyncio.sleep(PERIOD_S)
            else:
                return

    async def run(self) -> None:
        """Look at every experiment again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(BREATH_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):
                    await self._news.wait()

    async def look(self) -> None:
        """Begin what the settings declare, take the steps that are due, keep house."""
        self._news.clear()
        await _survived(self._do(self._trials.catch_up))
        await _survived(self._begin_declared())
        for experiment in await self._do(self._trials.live):
            await _survived(self._look_at(experiment))
        if self._trials.wall_us() - self._cleaned_us > HOUSE_US:
            self._cleaned_us = self._trials.wall_us()
            await _survived(self._do(self._trials.keep_house))
        await _survived(self._publish())  # also what a caller moved who has left before it could be told

    async def _look_at(self, experiment: pb.Experiment) -> None:
        self._labels(experiment.id)  # not awaited: a guardrail waits for no bootstrap
        try:
            await self._do(self._trials.look, experiment.id, self._directory.versions(experiment.model))
        finally:  # a rollback that could not be written down is in force all the same
            await self._publish()

    # Experiments ----------------------------------------------------------------------------------------------------

    @answering("admin")
    async def CreateExperiment(self, request: pb.CreateExperimentRequest, who: str) -> pb.CreateExperimentResponse:
        return pb.CreateExperimentResponse(experiment=await self._create(request, who))

    @answering("read")
    async def GetExperiment(self, request: pb.GetExperimentRequest, who: str) -> pb.GetExperimentResponse:
        with self._turn(who):
            return pb.GetExperimentResponse(experiment=await self._thread.ask(self._trials.find, request.id))

    @answering("read")
    async def ListExperiments(self, request: pb.ListExperimentsRequest, who: str) -> pb.ListExperimentsResponse:
        with self._turn(who):
            found = await self._thread.ask(self._trials.all, request.model)
        return pb.ListExperimentsResponse(experiments=map(bare, found))

    @answering("read")
    async def GetReport(self, request: pb.GetReportRequest, who: str) -> pb.GetReportResponse:
        with self._turn(who):
            await self._thread.ask(self._trials.find, request.id)
            await asyncio.shield(self._labels(request.id))
            return pb.GetReportResponse(report=await self._thread.ask(self._trials.report, request.id))

    @answering("admin")
    async def Promote(self, request: pb.PromoteRequest, who: str) -> pb.PromoteResponse:
        experiment = await self._do(self._trials.find, request.id)
        if not request.force:
            await asyncio.shield(self._labels(request.id))
        versions = self._directory.versions(experiment.model)
        after = await self._moving(self._trials.promote, request, who, versions)
        return pb.PromoteResponse(experiment=after)

    @answering("admin")
    async def Rollback(self, request: pb.RollbackRequest, who: str) -> pb.RollbackResponse:
        experiment = await self._do(self._trials.find, request.id)
        versions = self._directory.versions(experiment.model)
        after = await self._moving(self._trials.roll_back, request, who, versions)
        return pb.RollbackResponse(experiment=after)

    # Traffic --------------------------------------------------------------------------------------------------------

    @answering("read")
    async def GetTraffic(self, request: pb.GetTrafficRequest, who: str) -> pb.GetTrafficResponse:
        with self._turn(who):
            policy = await self._thread.ask(self._trials.policy, request.model)
        if not policy.revision and not self._directory.versions(request.model):
            raise UnknownModel(f"model '{request.model}' is not there")
        return pb.GetTrafficResponse(policy=policy)

    @answering("admin")
    async def SetTraffic(self, request: pb.SetTrafficRequest, who: str) -> pb.SetTrafficResponse:
        base = _base(request, self._directory.versions(request.model))
        policy = await self._moving(self._trials.set_traffic, base, Reason(who, request.why))
        return pb.SetTrafficResponse(policy=policy)

    # Pairs and outcomes ---------------------------------------------------------------------------------------------

    @answering("gateway")
    async def RecordPairs(self, request: pb.RecordPairsRequest, who: str) -> pb.RecordPairsResponse:
        """Whatever waits when the ledger's thread is free is counted in one transaction."""
        telling.check_bounds(request)
        size = request.ByteSize()
        if len(self._waiting) >= MAX_WAITING or (
            self._waiting and size + sum(asked.size for asked in list(self._waiting)) > MAX_BYTES
        ):
            raise Overloaded("the ledger is behind: keep the pairs and tell them later")
        request.gateway_id = telling.named(who, request.gateway_id)
        asked = Asked(request, size, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        # Not awaited itself: a sender that goes away must not take the answers of the others along.
        self._thread.ask(self._count).add_done_callback(_settle)
        await asked.done
        self._news.set()
        return pb.RecordPairsResponse()

    @answering("outcome")
    async def RecordOutcomes(self, request: pb.RecordOutcomesRequest, who: str) -> pb.RecordOutcomesResponse:
        """In pieces: whoever decides who answers waits for one of them at most."""
        with self._turn(who):
            await self._thread.ask(labels.check, request.outcomes)
            pieces = labels.chunks(request.outcomes)
            matched = [await self._thread.ask(self._trials.record_outcomes, piece) for piece in pieces]
        return pb.RecordOutcomesResponse(matched=sum(matched))

    # Inside ---------------------------------------------------------------------------------------------------------

    async def _do(self, act: Callable[..., Answer], *values: Any) -> Answer:
        """On the ledger's thread, before whatever decides nothing."""
        return await self._thread.ask(act, *values, urgent=True)

    @contextlib.contextmanager
    def _turn(self, who: str) -> Iterator[None]:
        """A call that decides nothing. Raises: Overloaded when too many of them are under way."""
        if self._asking[who] >= MAX_ASKING // 2 or self._asking.total() >= MAX_ASKING:
            raise Overloaded("too many calls wait for the ledger: ask again later")
        self._asking[who] += 1
        try:
            yield
        finally:
            self._asking[who] -= 1
            self._asking += Counter()  # those who ask nothing now are forgotten

    async def _moving(self, act: Callable[..., Answer], *values: Any) -> Answer:
        """Something that may change who answers; followers hear of it, though its caller has gone or it failed.

        What was refused is no news: a declared experiment that has to wait would have everything looked at for it.
        """
        try:
            found = await self._do(act, *values)
            self._news.set()
        finally:
            await self._publish()
        return found

    async def _publish(self) -> None:
        policies = await self._do(self._trials.policies)
        changed = [self._directory.set_policy(policy) for policy in policies.values()]
        if any(changed):
            await self._tell()

    async def _create(self, request: pb.CreateExperimentRequest, who: str) -> pb.Experiment:
        versions = self._directory.versions(request.model)
        return await self._moving(self._trials.begin, request, who, versions)

    async def _begin_declared(self) -> None:
        """Begin the experiments of the settings whose versions are there by now, each once in a ledger's life."""
        for request in list(self._declared):
            if request.challenger not in self._directory.versions(request.model):
                continue
            try:
                await self._create(request, FILE)
            except (NotPassed, UnknownModel):  # not ready yet
                continue
            except Conflict:
                log.debug("%s was begun before", request.why)
            except Refused as error:
                if isinstance(error, NotServing):
                    raise
                log.warning("%s: %s", request.why, error)
            self._declared.remove(request)

    def _labels(self, experiment_id: str) -> asyncio.Task[None]:
        """The computation of what outcomes say that is under way, or else one that looks whether it is due.

        It never fails, and its end is awaited behind a shield: others wait for the same.
        """
        task = self._labelling.get(experiment_id)
        if task is None:
            renewing = _survived(self._renew_labels(experiment_id))
            task = self._labelling[experiment_id] = asyncio.create_task(renewing, name=f"labels of {experiment_id}")
            task.add_done_callback(lambda _: self._labelling.pop(experiment_id))
        return task

    async def _renew_labels(self, experiment_id: str) -> None:
        """Compute what outcomes say, where that is due: on a thread of its own, for seconds."""
        known = await self._thread.ask(self._trials.labels_of, experiment_id)
        begun_us = self._trials.wall_us()
        if not known.due(begun_us):
            return
        known.begin(begun_us)
        try:
            matured = await self._thread.ask(self._trials.matured, experiment_id)
            figures = None if matured is None else await asyncio.to_thread(matured.figures)
        except BaseException:
            known.fail(self._trials.wall_us())
            raise
        known.settle(figures, begun_us, self._trials.wall_us())

    def _count(self) -> list[tuple[Asked, HeadraceError | None]]:
        """On the ledger's thread: count what waits. Only the event loop adds to it, only this takes from it."""
        group = self._waiting[:GROUP]
        del self._waiting[: len(group)]
        if not group:
            return []
        try:
            errors = self._trials.record([asked.request for asked in group])
        except HeadraceError as error:
            errors = [error] * len(group)
        except Exception:  # whoever waits must hear something
            log.exception("pairs could not be counted")
            errors = [BrokenContract("internal error")] * len(group)
        return list(zip(group, errors, strict=True))


async def _survived(act: Awaitable[object]) -> None:
    """One experiment that can't be judged, or a ledger that can't be written, must not end the watch over others."""
    try:
        await act
    except NotServing:
        log.debug("the ledger has said why", exc_info=True)
    except Exception:  # it is told, and the next round tries again
        log.exception("the experiments could not be looked at")


def _settle(counted: asyncio.Future[list[tuple[Asked, HeadraceError | None]]]) -> None:
    for asked, error in counted.result():
        if asked.done.done():  # its sender has gone
            continue
        if error is None:
            asked.done.set_result(None)
        else:
            asked.done.set_exception(error)


def _base(request: pb.SetTrafficRequest, versions: Versions) -> control_pb2.TrafficPolicy:
    """What is asked for. Raises: InvalidInference naming the field, UnknownModel."""
    if not request.model:
        raise InvalidInference("model: required")
    if not versions:
        raise UnknownModel(f"model '{request.model}' is not there")
    base = control_pb2.TrafficPolicy(model=request.model, primary_version=request.primary_version)
    if request.primary_version:
        drafting.found(versions, request.model, request.primary_version)
    if request.HasField("canary"):
        drafting.found(versions, request.model, request.canary.version)
        if not request.primary_version:
            raise InvalidInference("primary_version: required beside a canary, the highest version would be the canary")
        if not 0 < request.canary.share <= 1:
            raise InvalidInference(f"canary.share: {request.canary.share:g} does not lie in (0, 1]")
        base.canary.CopyFrom(drafting.salted(request.model, request.canary))
    return base
