"""What is asked of a deployer: an act at a time for each model, whoever leaves, and never one nobody may speak of."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.access import EVERYTHING, Identity
from headrace.control import deploying
from headrace.control.deploying import Deploying
from headrace.control.discovery import Directory
from headrace.errors import Conflict, HeadraceError, InvalidInference, NotLoaded, NotPermitted, NotServing
from headrace.testing.clock import FakeClock
from headrace.v1 import control_pb2 as pb

Run = Callable[..., Any]
ANYBODY = Identity("ours", EVERYTHING)
PHASES = {pb.DEPLOY_KIND_LOAD: pb.MODEL_PHASE_LOADED, pb.DEPLOY_KIND_UNLOAD: pb.MODEL_PHASE_UNLOADED}


async def nobody_follows() -> None:
    """Whoever follows would hear it now."""


class Deployer:
    """A deployer in a test's hands: it takes a turn of the loop for an order, and says that it is done."""

    def __init__(self, to: Deploying, caller: Identity = ANYBODY, deployer_id: str = "d") -> None:
        self._to, self._caller, self._id = to, caller, deployer_id
        self._reports: asyncio.Queue[pb.DeployReport | None] = asyncio.Queue()
        self.phases: dict[str, pb.ModelPhase] = {}
        self.fails: set[str] = set()
        self.waits = asyncio.Event()
        self.waits.set()
        self.orders: list[tuple[str, pb.DeployKind]] = []
        self.at_work: Counter[str] = Counter()
        self.most_at_once = 0

    def say(self, act: int = 0, failure: str = "") -> None:
        versions = [pb.ModelVersion(model=model, version="1", phase=phase) for model, phase in self.phases.items()]
        repository = pb.Repository(versions=versions)
        self._reports.put_nowait(pb.DeployReport(deployer_id=self._id, repository=repository, act=act, failure=failure))

    def leave(self) -> None:
        self._reports.put_nowait(None)

    async def sit(self) -> None:
        """Until it leaves. Raises: what its stream ends with."""
        self.say()
        async with asyncio.TaskGroup() as group:
            async for order in self._to.attach(self._said(), self._caller):
                group.create_task(self._obey(order))

    async def _said(self) -> AsyncIterator[pb.DeployReport]:
        while (report := await self._reports.get()) is not None:
            yield report

    async def _obey(self, order: pb.DeployOrder) -> None:
        self.orders.append((order.model, order.kind))
        self.at_work[order.model] += 1
        self.most_at_once = max(self.most_at_once, *self.at_work.values())
        await asyncio.sleep(0)
        await self.waits.wait()
        self.at_work[order.model] -= 1
        if order.model in self.fails:
            self.say(order.act, "it can't be")
            return
        self.phases[order.model] = PHASES[order.kind]
        self.say(order.act)


async def told(call: Callable[..., Any], model: str) -> str:
    try:
        await call(model)
    except HeadraceError as error:
        return type(error).__name__
    return "done"


ACTS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["load", "unload"]), st.integers(0, 3)), max_size=12)


@settings(deadline=None)
@given(ACTS, st.sets(st.sampled_from("ab")))
def test_acts_on_one_model_never_overlap_and_everybody_is_told(
    acts: list[tuple[str, str, int]], fails: set[str]
) -> None:
    async def main() -> None:
        to = Deploying(Directory(FakeClock(), lease_s=3), nobody_follows)
        seat = Deployer(to)
        seat.fails = fails
        sitting = asyncio.create_task(seat.sit())
        asked = []
        for model, act, turns in acts:
            asked.append((model, asyncio.create_task(told(getattr(to, act), model))))
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns == 0 and len(asked) > 2:
                asked.pop()[1].cancel()  # it goes on without its caller
        found = {(model, await task) for model, task in asked}
        seat.leave()
        await sitting
        await to.close()

        assert seat.most_at_once <= 1
        assert found <= {(model, "NotLoaded" if model in fails else "done") for model in "ab"} | NOBODY_YET
        assert len(seat.orders) <= len(acts)

    asyncio.run(main())


NOBODY_YET = {("a", "NotServing"), ("b", "NotServing")}
"""Those who asked before the deployer had sat down."""


@pytest.fixture
def at_a_seat(run: Run) -> Callable[..., Any]:
    """Run a body beside a deployer that has sat down."""

    def found(body: Callable[[Deploying, Deployer, Directory], Any], **phases: pb.ModelPhase) -> Any:
        async def main() -> Any:
            directory = Directory(FakeClock(), lease_s=3)
            to = Deploying(directory, nobody_follows)
            seat = Deployer(to)
            seat.phases = phases
            sitting = asyncio.create_task(seat.sit())
            while not directory.snapshot("e").HasField("repository"):
                await asyncio.sleep(0)
            try:
                return await body(to, seat, directory)
            finally:
                seat.waits.set()
                seat.leave()
                await sitting
                await to.close()

        return run(main())

    return found


def shown(directory: Directory) -> dict[str, pb.ModelVersion]:
    return {one.model: one for one in directory.snapshot("e").repository.versions}


def test_an_unload_waits_for_each_gateway_and_for_none_that_has_left(
    at_a_seat: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploying, "BACK_S", 0.02)

    async def body(to: Deploying, seat: Deployer, directory: Directory) -> None:
        with ExitStack() as there:
            for gateway in ("stays", "was killed"):
                there.enter_context(to.following(gateway))
            leaving = ExitStack()
            leaving.enter_context(to.following("leaves"))
            unloading = asyncio.create_task(to.unload("m"))
            while shown(directory)["m"].phase != pb.MODEL_PHASE_UNLOADING:
                await asyncio.sleep(0)
            act = shown(directory)["m"].act
            to.drained("stays", act + 1)  # of another time
            to.drained("was killed", act)
            leaving.close()
            await asyncio.sleep(0.05)
            assert not seat.orders
            to.drained("stays", act)
            await unloading
        assert seat.orders == [("m", pb.DEPLOY_KIND_UNLOAD)]
        assert shown(directory)["m"].phase == pb.MODEL_PHASE_UNLOADED

    at_a_seat(body, m=pb.MODEL_PHASE_LOADED)


def test_a_gateway_that_never_says_so_is_not_waited_for_ever(
    at_a_seat: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploying, "DRAIN_S", 0.02)

    async def body(to: Deploying, seat: Deployer, _: Directory) -> None:
        with to.following("an older one"):
            await to.unload("m")
        assert seat.orders == [("m", pb.DEPLOY_KIND_UNLOAD)]

    at_a_seat(body, m=pb.MODEL_PHASE_LOADED)


def test_nobody_is_sent_back_to_a_model_whose_deployer_goes_while_it_unloads(at_a_seat: Callable[..., Any]) -> None:
    async def body(to: Deploying, seat: Deployer, directory: Directory) -> None:
        seat.waits.clear()
        unloading = asyncio.create_task(told(to.unload, "m"))
        while not seat.orders:
            await asyncio.sleep(0)
        seat.leave()
        assert await unloading == NotServing.__name__
        assert shown(directory)["m"].phase == pb.MODEL_PHASE_UNLOADING

    at_a_seat(body, m=pb.MODEL_PHASE_LOADED)


def test_a_deployer_that_is_back_while_it_unloads_says_itself_what_it_has(at_a_seat: Callable[..., Any]) -> None:
    """The order went into a stream that had ended: nothing was unloaded."""

    async def body(to: Deploying, seat: Deployer, directory: Directory) -> None:
        seat.waits.clear()
        unloading = asyncio.create_task(told(to.unload, "m"))
        while not seat.orders:
            await asyncio.sleep(0)
        again = Deployer(to)
        again.phases = {"m": pb.MODEL_PHASE_LOADED}
        sitting = asyncio.create_task(again.sit())
        assert await unloading == NotServing.__name__
        assert shown(directory)["m"].phase == pb.MODEL_PHASE_LOADED
        again.leave()
        await sitting

    at_a_seat(body, m=pb.MODEL_PHASE_LOADED)


def test_what_a_deployer_fails_at_is_told_in_its_words(at_a_seat: Callable[..., Any]) -> None:
    async def body(to: Deploying, seat: Deployer, _: Directory) -> None:
        seat.fails = {"m"}
        with pytest.raises(NotLoaded, match="it can't be"):
            await to.load("m")

    at_a_seat(body)


def test_a_deployer_that_is_back_takes_its_seat_again_and_another_one_does_not(at_a_seat: Callable[..., Any]) -> None:
    async def body(to: Deploying, seat: Deployer, directory: Directory) -> None:
        with pytest.raises(ExceptionGroup) as refused:
            await Deployer(to, deployer_id="another").sit()
        assert isinstance(refused.value.exceptions[0], Conflict)
        with pytest.raises(ExceptionGroup) as refused:
            await Deployer(to, Identity("theirs", EVERYTHING)).sit()
        assert isinstance(refused.value.exceptions[0], Conflict)

        again = Deployer(to)
        again.phases = {"n": pb.MODEL_PHASE_LOADED}
        sitting = asyncio.create_task(again.sit())
        while "n" not in shown(directory):
            await asyncio.sleep(0)
        await to.load("m")
        again.leave()
        await sitting
        assert (seat.orders, again.orders) == ([], [("m", pb.DEPLOY_KIND_LOAD)])

    at_a_seat(body)


def test_a_deployer_speaks_of_no_model_that_its_caller_may_not_serve(run: Run) -> None:
    async def main() -> None:
        seat = Deployer(
            Deploying(Directory(FakeClock(), 3), nobody_follows), Identity("one", EVERYTHING, frozenset({"a"}))
        )
        seat.phases = {"b": pb.MODEL_PHASE_UNLOADED}
        with pytest.raises(ExceptionGroup) as refused:
            await seat.sit()
        assert isinstance(refused.value.exceptions[0], NotPermitted)

    run(main())


@pytest.mark.parametrize(
    ("report", "field"),
    [
        (pb.DeployReport(), "deployer_id"),
        (pb.DeployReport(deployer_id="x" * 257), "deployer_id"),
        (pb.DeployReport(deployer_id="d", failure="x" * 5000), "failure"),
        (pb.DeployReport(deployer_id="d", repository=pb.Repository(versions=[pb.ModelVersion(version="1")])), "model"),
        (
            pb.DeployReport(
                deployer_id="d", repository=pb.Repository(versions=[pb.ModelVersion(model="m", version="01")])
            ),
            "version",
        ),
        (
            pb.DeployReport(
                deployer_id="d",
                repository=pb.Repository(versions=[pb.ModelVersion(model="m", version="1", reason="x" * 5000)]),
            ),
            "reason",
        ),
    ],
)
def test_a_report_that_gateways_could_not_take_over_is_refused_by_its_field(
    run: Run, report: pb.DeployReport, field: str
) -> None:
    async def said() -> AsyncIterator[pb.DeployReport]:
        yield report

    async def main() -> None:
        to = Deploying(Directory(FakeClock(), lease_s=3), nobody_follows)
        with pytest.raises(InvalidInference, match=f"^{field}: "):
            async for _ in to.attach(said(), ANYBODY):
                pass

    run(main())
