"""Retries with one key: computed at most once at a time, given to everybody who asks the same, lost with nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.records import rider

from headrace.config import GatewaySettings
from headrace.core.records import Detour
from headrace.errors import BrokenContract, DeadlinePassed, HeadraceError, InvalidInference, Overloaded
from headrace.gateway.idempotency import COMPUTED, CONFLICT, JOINED, REPLAYED, Question, Repeats, Scope
from headrace.testing.clock import FakeClock

Run = Callable[..., Any]
WINDOW_S = 10.0
LONG_S = 1e6


def question(key: str = "k", digest: bytes = b"d", deadline: float = LONG_S, **scope: str) -> Question:
    named = {"caller": "c", "model": "m", "version": ""} | scope
    return Question(Scope(**named, key=key), digest, deadline, rider(code="OK"))


def repeats(clock: FakeClock, **more: Any) -> Repeats:
    return Repeats(GatewaySettings(idempotency_window_s=WINDOW_S, **more), clock=clock)


async def settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


class Computation:
    """A model in a test's hands: it answers when it is told to."""

    def __init__(self, answer: str = "answer") -> None:
        self.answer = answer
        self.begun = self.cancelled = 0
        self.over: asyncio.Future[HeadraceError | Exception | None] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> StringValue:
        self.begun += 1
        try:
            error = await self.over
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if error is not None:
            raise error
        return StringValue(value=self.answer)


def ask(table: Repeats, asked: Question, compute: Computation) -> asyncio.Task[tuple[StringValue, bool]]:
    return asyncio.get_running_loop().create_task(table.answer(asked, StringValue, compute))


def test_those_who_ask_at_the_same_time_are_computed_once(run: Run) -> None:
    async def main() -> Any:
        table, compute = repeats(FakeClock()), Computation()
        questions = [question() for _ in range(5)]
        asking = [ask(table, one, compute) for one in questions]
        await settled()
        compute.over.set_result(None)
        answers = await asyncio.gather(*asking)
        return compute.begun, answers, [one.record.detour for one in questions]

    begun, answers, detours = run(main())

    assert begun == 1
    assert [(answer.value, repeated) for answer, repeated in answers] == [("answer", n > 0) for n in range(5)]
    assert [detour.idempotency for detour in detours] == [COMPUTED, *[JOINED] * 4]
    assert [detour.original is None for detour in detours] == [True, *[False] * 4]


def test_a_later_try_gets_the_same_answer_until_the_window_is_over(run: Run) -> None:
    async def main() -> list[str]:
        clock = FakeClock()
        table, found = repeats(clock), []
        for number, wait_s in enumerate((0.0, WINDOW_S - 1, 1.0)):
            clock.advance(wait_s)
            compute = Computation(str(number))
            compute.over.set_result(None)
            answer, _ = await ask(table, question(), compute)
            found.append(answer.value)
        return found

    assert run(main()) == ["0", "0", "2"]


@pytest.mark.parametrize("other", [{"caller": "d"}, {"model": "n"}, {"version": "1"}, {"key": "l"}])
def test_a_key_means_something_to_one_caller_and_one_model_alone(run: Run, other: dict[str, str]) -> None:
    async def main() -> list[str]:
        table, found = repeats(FakeClock()), []
        for number, asked in enumerate((question(), question(digest=b"e", **other))):
            compute = Computation(str(number))
            compute.over.set_result(None)
            found.append((await ask(table, asked, compute))[0].value)
        return found

    assert run(main()) == ["0", "1"]


@pytest.mark.parametrize("finished", [False, True])
def test_a_key_that_comes_with_other_inputs_is_refused_and_named_nowhere(run: Run, finished: bool) -> None:  # noqa: FBT001
    async def main() -> tuple[str, Detour | None, str]:
        table, compute = repeats(FakeClock()), Computation()
        first = ask(table, question("secret"), compute)
        await settled()
        if finished:
            compute.over.set_result(None)
            await first
        other = question("secret", b"other")
        with pytest.raises(InvalidInference) as caught:
            await table.answer(other, StringValue, compute)
        if not finished:
            compute.over.set_result(None)
        return str(caught.value), other.record.detour, (await first)[0].value

    sentence, detour, value = run(main())

    assert "secret" not in sentence
    assert detour is not None
    assert detour.idempotency == CONFLICT
    assert value == "answer"


def test_a_first_caller_that_leaves_takes_nothing_from_those_who_wait(run: Run) -> None:
    async def main() -> tuple[bool, bool, str]:
        table, compute = repeats(FakeClock()), Computation()
        first, second = ask(table, question(), compute), ask(table, question(), compute)
        await settled()
        first.cancel()
        await settled()
        first.cancel()  # a connection that is lost cancels again
        await settled()
        stays = not first.done()  # its record rides along
        compute.over.set_result(None)
        answer, _ = await second
        await settled()
        return stays, first.cancelled(), answer.value

    assert run(main()) == (True, True, "answer")


def test_the_last_who_leaves_takes_the_computation_along(run: Run) -> None:
    async def main() -> tuple[int, int, bool]:
        table, compute = repeats(FakeClock()), Computation()
        first, second = ask(table, question(), compute), ask(table, question(), compute)
        await settled()
        first.cancel()
        await settled()
        second.cancel()
        await settled()
        assert first.cancelled()
        assert second.cancelled()
        again = Computation("again")
        again.over.set_result(None)
        answer, repeated = await ask(table, question(), again)
        return compute.cancelled, table.running, answer.value == "again" and not repeated

    assert run(main()) == (1, 0, True)


@pytest.mark.parametrize("error", [Overloaded("full"), ValueError("a bug")])
def test_a_failure_is_shared_by_those_who_waited_and_remembered_for_nobody(run: Run, error: Exception) -> None:
    async def main() -> tuple[list[Any], str]:
        table, compute = repeats(FakeClock()), Computation()
        asking = [ask(table, question(), compute) for _ in range(3)]
        await settled()
        compute.over.set_result(error)
        failures = await asyncio.gather(*asking, return_exceptions=True)
        again = Computation("again")
        again.over.set_result(None)
        return failures, (await ask(table, question(), again))[0].value

    failures, value = run(main())

    expected = type(error) if isinstance(error, HeadraceError) else BrokenContract
    assert failures[0] is error
    assert [type(failure) for failure in failures[1:]] == [expected] * 2
    assert len({id(failure) for failure in failures}) == 3
    assert all("a bug" not in str(failure) for failure in failures[1:])
    assert value == "again"


def test_when_the_first_has_run_out_of_its_time_the_next_one_computes(run: Run) -> None:
    async def main() -> tuple[int, Any, tuple[str, bool]]:
        table, first, second = repeats(FakeClock()), Computation(), Computation("second")
        asking = [ask(table, question(), compute) for compute in (first, second, second)]
        await settled()
        first.over.set_result(DeadlinePassed("Request timeout expired"))
        await settled()
        second.over.set_result(None)
        failure, computed, joined = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(computed, tuple)
        assert isinstance(joined, tuple)
        return second.begun, failure, (joined[0].value, joined[1])

    begun, failure, joined = run(main())

    assert begun == 1
    assert isinstance(failure, DeadlinePassed)
    assert joined == ("second", True)


def test_one_that_waits_is_told_when_its_own_time_is_over(run: Run) -> None:
    async def main() -> str:
        clock = FakeClock()
        table, compute = repeats(clock), Computation()
        first = ask(table, question(), compute)
        await settled()
        with pytest.raises(DeadlinePassed):
            await table.answer(question(deadline=clock.now() + 0.01), StringValue, compute)
        compute.over.set_result(None)
        return (await first)[0].value

    assert run(main()) == "answer"


def test_what_a_fallback_has_answered_is_given_to_those_who_wait_and_not_remembered(run: Run) -> None:
    async def main() -> tuple[Detour | None, str]:
        table, compute = repeats(FakeClock()), Computation("prior")
        first, second = question(), question()
        asking = [ask(table, one, compute) for one in (first, second)]
        await settled()
        detour = first.record.on_detour()
        detour.reason, detour.by, detour.error = "overload", "prior", "Overloaded"
        compute.over.set_result(None)
        await asyncio.gather(*asking)
        better = Computation("model")
        better.over.set_result(None)
        return second.record.detour, (await ask(table, question(), better))[0].value

    detour, later = run(main())

    assert detour is not None
    assert (detour.reason, detour.by, detour.error, detour.idempotency) == ("overload", "prior", "Overloaded", JOINED)
    assert later == "model"


# The law --------------------------------------------------------------------------------------------------------------


class Asked:
    def __init__(self, key: str, digest: bytes, task: asyncio.Task[tuple[StringValue, bool]]) -> None:
        self.key, self.digest, self.task = key, digest, task


class Retrying(RuleBasedStateMachine):
    """Callers who come, leave and come again, and a model that answers or fails: in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.table = repeats(self.clock, idempotency_max_entries=3)
        self.computing: dict[str, list[asyncio.Future[Exception | None]]] = {"a": [], "b": []}
        self.numbers = 0
        self.asked: list[Asked] = []
        self.given: dict[str, tuple[bytes, float]] = {}
        """Answer → its digest, and when it was computed."""

    def go_on(self) -> None:
        self.loop.run_until_complete(settled())

    @rule(key=st.sampled_from("ab"), digest=st.sampled_from([b"x", b"y"]))
    def ask(self, key: str, digest: bytes) -> None:
        async def compute() -> StringValue:
            over: asyncio.Future[Exception | None] = self.loop.create_future()
            self.computing[key].append(over)
            try:
                if (error := await over) is not None:
                    raise error
            finally:
                self.computing[key].remove(over)
            self.numbers += 1
            value = f"{key}{self.numbers}"
            self.given[value] = digest, self.clock.now()
            return StringValue(value=value)

        task = self.loop.create_task(self.table.answer(question(key, digest), StringValue, compute))
        self.asked.append(Asked(key, digest, task))
        self.go_on()
        if task.done() and task.exception() is None:
            answer, repeated = task.result()
            assert repeated  # nothing is computed without our doing
            assert self.clock.now() < self.given[answer.value][1] + WINDOW_S

    @precondition(lambda self: any(self.computing.values()))
    @rule(key=st.sampled_from("ab"), error=st.sampled_from([None, Overloaded, DeadlinePassed, ValueError]))
    def finish(self, key: str, error: type[Exception] | None) -> None:
        for over in list(self.computing[key]):
            over.set_result(None if error is None else error("as told"))
        self.go_on()

    @precondition(lambda self: any(not asked.task.done() for asked in self.asked))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiting = [asked for asked in self.asked if not asked.task.done()]
        data.draw(st.sampled_from(waiting)).task.cancel()
        self.go_on()

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def at_most_one_computation_runs_for_a_key(self) -> None:
        assert all(len(running) <= 1 for running in self.computing.values())
        assert self.table.running == sum(map(len, self.computing.values()))

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        for asked in self.asked:
            assert asked.task.done() or self.computing[asked.key]

    @invariant()
    def nothing_is_computed_for_nobody(self) -> None:
        for key, running in self.computing.items():
            assert not running or any(a.key == key and not a.task.done() for a in self.asked)

    @invariant()
    def every_answer_is_to_the_callers_own_question(self) -> None:
        for asked in self.asked:
            if asked.task.done() and not asked.task.cancelled() and asked.task.exception() is None:
                value = asked.task.result()[0].value
                assert (value[0], self.given[value][0]) == (asked.key, asked.digest)

    @invariant()
    def no_more_is_remembered_than_may_be(self) -> None:
        assert self.table.statistics().entries <= 3

    def teardown(self) -> None:
        for asked in self.asked:
            asked.task.cancel()
        self.go_on()
        assert all(asked.task.done() for asked in self.asked)
        self.loop.close()


TestRetrying = Retrying.TestCase
TestRetrying.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_replay_says_whose_answer_it_is(run: Run) -> None:
    async def main() -> tuple[Any, Any]:
        table, compute = repeats(FakeClock()), Computation()
        compute.over.set_result(None)
        first, second = question(), question()
        await ask(table, first, compute)
        await ask(table, second, compute)
        return first.record, second.record.detour

    record, detour = run(main())

    assert detour.idempotency == REPLAYED
    assert detour.original == (record.trace_id, record.span_id)
