"""The deployer's seat, and what is asked of who sits there: an act at a time for each model. Owned by control's server.

A load or an unload, once begun, goes on whoever leaves; who asks for the same before it has begun waits for the same.
Knows no replica by itself: what is loaded is what the deployer says.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from headrace.access import Identity
from headrace.control.discovery import Directory
from headrace.control.seat import Seat, check
from headrace.errors import Conflict, HeadraceError, NotExplicit, NotLoaded, NotServing
from headrace.tasks import end
from headrace.v1 import control_pb2 as pb

log = logging.getLogger(__name__)

DRAIN_S: Final = 30.0
"""What gateways may take to answer what they hold of a model; then its replicas stop all the same."""
BACK_S: Final = 5.0
"""A gateway whose stream has ended is waited for so long: it comes back by itself if it lives."""
NOBODY: Final = "no deployer is attached to control: there is nobody who could start or stop replicas"
RUNNING: Final = frozenset({pb.MODEL_PHASE_LOADING, pb.MODEL_PHASE_LOADED})


class Act:
    """Something that is done, or will be, to a model."""

    def __init__(self, kind: pb.DeployKind) -> None:
        self.kind = kind
        self.begun = False
        self.task: asyncio.Task[list[str]]


@dataclass(eq=False, slots=True)
class Drain:
    """An unloading, and the gateways that still hold something of the model."""

    act: int
    holding: set[str]
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def without(self, gateway_id: str) -> None:
        self.holding.discard(gateway_id)
        if not self.holding:
            self.over.set()


class Deploying:
    """What is loaded of each model, and how that changes. `tell` is awaited when followers must hear of something."""

    def __init__(self, directory: Directory, tell: Callable[[], Awaitable[None]], *, explicit: bool = True) -> None:
        self._explicit = explicit
        self._directory = directory
        self._tell = tell
        self._seat: Seat | None = None
        self._said: pb.Repository | None = None
        """By the deployer that is or was attached."""
        self._acts: dict[str, Act] = {}
        """The last one of each model."""
        self._tasks: set[asyncio.Task[list[str]]] = set()
        self._drains: dict[str, Drain] = {}
        self._following: Counter[str] = Counter()
        self._numbers = itertools.count(time.time_ns())  # no two lives of control give one number twice

    async def close(self) -> None:
        """Leave what is under way to the deployer."""
        await end(*self._tasks)

    def assert_explicit(self) -> None:
        """Raises: NotExplicit."""
        if not self._explicit:
            raise NotExplicit

    # Acts -----------------------------------------------------------------------------------------------------------

    async def load(self, model: str) -> list[str]:
        """Have every version of a model loaded that there is; all that are.

        Raises: NotServing without a deployer, NotLoaded in the deployer's words. Cancellation: it goes on.
        """
        return await self._act(model, pb.DEPLOY_KIND_LOAD)

    async def unload(self, model: str) -> None:
        """Have gateways finish with a model, then its replicas stopped. As `load`."""
        await self._act(model, pb.DEPLOY_KIND_UNLOAD)

    async def _act(self, model: str, kind: pb.DeployKind) -> list[str]:
        act = self._acts.get(model)
        if act is None or act.begun or act.kind != kind:
            act = self._plan(model, kind, act)
        return await asyncio.shield(act.task)

    def _plan(self, model: str, kind: pb.DeployKind, before: Act | None) -> Act:
        act = self._acts[model] = Act(kind)
        name = f"{pb.DeployKind.Name(kind)} {model}"
        act.task = asyncio.get_running_loop().create_task(self._run(model, act, before), name=name)
        self._tasks.add(act.task)
        act.task.add_done_callback(lambda task: self._over(model, act, task))
        return act

    async def _run(self, model: str, act: Act, before: Act | None) -> list[str]:
        if before is not None:
            await asyncio.wait({before.task})
        act.begun = True
        if act.kind == pb.DEPLOY_KIND_UNLOAD:
            await self._unload(model)
        else:
            await self._order(model, act.kind, next(self._numbers))
        return [one.version for one in self._versions(model) if one.phase == pb.MODEL_PHASE_LOADED]

    def _over(self, model: str, act: Act, task: asyncio.Task[list[str]]) -> None:
        self._tasks.discard(task)
        if self._acts.get(model) is act:
            del self._acts[model]
        if task.cancelled():
            return
        kind, error = pb.DeployKind.Name(act.kind).removeprefix("DEPLOY_KIND_"), task.exception()
        if error is None:
            log.info("%s of '%.256s' is done", kind, model)
        else:
            log.warning("%s of '%.256s' has failed: %s", kind, model, error)

    async def _unload(self, model: str) -> None:
        if self._seat is None:
            raise NotServing(NOBODY)
        number = next(self._numbers)
        self._drains[model] = drain = Drain(number, set(self._following))
        try:
            if any(one.phase in RUNNING for one in self._versions(model)):
                await self._publish()
                await self._drained(model, drain)
            await self._order(model, pb.DEPLOY_KIND_UNLOAD, number)
        except NotServing:  # the deployer has gone and may be at it: nobody is sent there until it says what it has
            if self._seat is None:
                self._said = self._shown()
            raise
        finally:
            del self._drains[model]
            await self._publish()

    async def _drained(self, model: str, drain: Drain) -> None:
        drain.without("")  # where nobody follows, nobody holds anything
        try:
            async with asyncio.timeout(DRAIN_S):
                await drain.over.wait()
        except TimeoutError:
            log.warning("'%.256s' is unloaded while %d gateways hold something of it", model, len(drain.holding))

    async def _order(self, model: str, kind: pb.DeployKind, number: int) -> None:
        if self._seat is None:
            raise NotServing(NOBODY)
        report = await self._seat.ask(pb.DeployOrder(act=number, model=model, kind=kind))
        if report.failure:
            raise NotLoaded(report.failure)

    # Gateways -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def following(self, gateway_id: str) -> Iterator[None]:
        """A gateway hears what is loaded. One that hears it no more is soon not waited for either."""
        if not gateway_id:
            yield
            return
        self._following[gateway_id] += 1
        try:
            yield
        finally:
            self._following[gateway_id] -= 1
            self._following += Counter()
            asyncio.get_running_loop().call_later(BACK_S, self._miss, gateway_id)

    def drained(self, gateway_id: str, act: int) -> None:
        """Take it from a gateway that it holds nothing more of what is unloaded."""
        for drain in self._drains.values():
            if drain.act == act:
                drain.without(gateway_id)

    def _miss(self, gateway_id: str) -> None:
        if gateway_id not in self._following:
            for drain in self._drains.values():
                drain.without(gateway_id)

    # The deployer ---------------------------------------------------------------------------------------------------

    async def attach(
        self, reports: AsyncIterator[pb.DeployReport], caller: Identity
    ) -> AsyncGenerator[pb.DeployOrder, None]:
        """Orders for who says these reports, while it says them.

        Raises: NotExplicit, Conflict when another deployer is attached, NotPermitted, InvalidInference.
        """
        seat = Seat(caller.name)
        reading = asyncio.get_running_loop().create_task(self._read(reports, seat, caller), name="read-deployer")
        try:
            while (order := await seat.next_order()) is not None:
                yield order
        finally:
            await end(reading)
            seat.leave()
            if self._seat is seat:
                self._seat = None
                log.warning("the deployer '%s' has gone", seat.deployer_id)

    async def _read(self, reports: AsyncIterator[pb.DeployReport], seat: Seat, caller: Identity) -> None:
        try:
            async for report in reports:  # not before: a refusal that overtakes its first word is lost on some clients
                self.assert_explicit()
                check(report)
                for model in {one.model for one in report.repository.versions}:
                    caller.assert_serves(model)
                self._sit(seat, report.deployer_id)
                self._said = report.repository
                await self._publish()
                seat.hear(report)
        except HeadraceError as error:
            seat.end(error)
        finally:
            seat.end(None)

    def _sit(self, seat: Seat, deployer_id: str) -> None:
        """Raises: Conflict."""
        other = self._seat
        if other is seat:
            return
        if other is not None and (other.deployer_id, other.who) != (deployer_id, seat.who):
            raise Conflict("another deployer is attached")
        if other is not None:  # it is back before its old stream was seen to have ended
            other.end(None)
            other.leave()
        seat.deployer_id, self._seat = deployer_id, seat
        log.info("the deployer '%s' is attached", deployer_id)

    # What is loaded -------------------------------------------------------------------------------------------------

    def _versions(self, model: str) -> list[pb.ModelVersion]:
        return [one for one in (self._said.versions if self._said else ()) if one.model == model]

    def _shown(self) -> pb.Repository | None:
        """As followers see it: what is being unloaded is so from the moment it was asked for."""
        if self._said is None:
            return None
        shown = pb.Repository()
        shown.CopyFrom(self._said)
        for one in shown.versions:
            drain = self._drains.get(one.model)
            if drain is not None and one.phase in (*RUNNING, pb.MODEL_PHASE_UNLOADING):
                one.phase, one.act = pb.MODEL_PHASE_UNLOADING, drain.act
        return shown

    async def _publish(self) -> None:
        shown = self._shown()
        if shown is not None and self._directory.set_repository(shown):
            await self._tell()
