"""Sequences of one lane: each request goes on from what the one before has left, and from nothing else."""

from __future__ import annotations

import asyncio
import gc
import itertools
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.config import BatchingSettings
from headrace.core.clock import MonotonicClock
from headrace.core.inference import Answer, Inference, SequenceStep
from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.errors import DeadlinePassed, InvalidInference, ModelFailed
from headrace.gateway.sequences import LaneSequences

SPEC = ModelSpec(
    name="adder",
    version="1",
    digest="",
    inputs=(
        TensorSpec("x", "INT64", (1,)),
        TensorSpec("other", "INT64", (1,), optional=True),
        TensorSpec("total", "INT64", (1,), optional=True),
    ),
    outputs=(TensorSpec("total", "INT64", (1,)), TensorSpec("other", "INT64", (2,))),
)
START = "must specify the START flag on the first request of the sequence"
BEHIND = "an earlier request for sequence 7 to model 'adder' has failed: its state is what it was before that one"
NO_SLOT = "timeout of the corresponding sequence has been expired"
CLOCK = MonotonicClock()


def pack(number: int) -> bytes:
    return struct.pack("<q", number)


def inference(x: int, rows: int = 1, wait_s: float = 5.0, timeout_s: float = 0.0) -> Inference:
    columns = [pack(x), pack(0), pack(0)]
    return Inference(SPEC, columns, rows, (), rows, CLOCK.now() + wait_s, timeout_s=timeout_s, compared=True)


class Adder:
    """The lane's model in a test's hands: adds x to the total, when it may."""

    def __init__(self, **changes: Any) -> None:
        self.sequences = LaneSequences(SPEC, BatchingSettings(**changes), CLOCK)
        self.at_work = 0
        self.most_at_work = 0
        self.go = asyncio.Event()
        self.go.set()
        self.fail_on: set[int] = set()

    async def ask(
        self, name: int | str, x: int, *, start: bool = False, end: bool = False, caller: str = "", **more: Any
    ) -> int:
        question = inference(x, **more)

        async def score() -> Answer:
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
            try:
                await self.go.wait()
                await asyncio.sleep(0)
                if x in self.fail_on:
                    raise ModelFailed("as told")
            finally:
                self.at_work -= 1
            total = struct.unpack("<q", question.columns[2])[0] + x
            assert not question.compared
            return Answer([pack(total), bytes(16)], 1, 1, 0)

        answer = await self.sequences.score(SequenceStep(name, start, end, caller), question, ["x"], score)
        return int(struct.unpack("<q", answer.columns[0])[0])

    def later(self, *args: Any, **kwargs: Any) -> asyncio.Task[int]:
        return asyncio.get_running_loop().create_task(self.ask(*args, **kwargs))


def with_adder(body: Callable[[Adder], Awaitable[Any]], **changes: Any) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(20):
            return await body(Adder(**changes))

    return asyncio.run(main())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_state_is_what_an_optional_input_and_an_output_share() -> None:
    assert SPEC.carried == ((2, 0),)


def test_two_callers_who_use_one_name_have_two_sequences() -> None:
    async def body(adder: Adder) -> Any:
        await adder.ask(7, 1, start=True, caller="checkout")
        await adder.ask(7, 10, start=True, caller="terminals")
        going_on = await adder.ask(7, 2, caller="checkout"), await adder.ask(7, 20, caller="terminals")
        with pytest.raises(InvalidInference, match=START):
            await adder.ask(7, 3, caller="somebody else")
        return going_on

    assert with_adder(body) == (3, 30)


steps = st.lists(st.tuples(st.sampled_from([1, 2, "1", "b"]), st.integers(-9, 9), st.booleans()), max_size=40)


@given(steps=steps)
@settings(max_examples=80, deadline=None)
def test_however_sequences_are_mixed_each_is_the_fold_of_its_own_requests(
    steps: list[tuple[int | str, int, bool]],
) -> None:
    """All are said at once: a name that is new, or whose sequence has ended, begins."""

    async def body(adder: Adder) -> None:
        totals: dict[int | str, list[int]] = {}
        asked, expected = [], []
        for name, x, end in steps:
            start = name not in totals
            asked.append(adder.later(name, x, start=start, end=end))
            totals.setdefault(name, []).append(x)
            expected.append(sum(totals[name]))
            if end:
                del totals[name]

        assert await asyncio.gather(*asked) == expected
        assert len(adder.sequences) == len(totals)

    with_adder(body)


def test_requests_of_one_sequence_run_one_after_the_other_and_those_of_others_beside_them() -> None:
    async def body(adder: Adder) -> tuple[int, int]:
        adder.go.clear()
        one = [adder.later(7, 1, start=not place) for place in range(5)]
        await turns()
        alone = adder.at_work
        other = [adder.later(8, 1, start=True)]
        await turns()
        both = adder.at_work
        adder.go.set()
        await asyncio.gather(*one, *other)
        return alone, both

    assert with_adder(body) == (1, 2)


def test_a_start_begins_from_zeros_and_an_end_forgets() -> None:
    async def body(adder: Adder) -> Any:
        totals = [await adder.ask(7, 1, start=True), await adder.ask(7, 2), await adder.ask(7, 5, start=True)]
        totals.append(await adder.ask(7, 1, end=True))
        with pytest.raises(InvalidInference, match=START):
            await adder.ask(7, 1)
        return totals, len(adder.sequences)

    assert with_adder(body) == ([1, 3, 5, 6], 0)


def test_a_start_leaves_alone_what_waits_of_the_sequence_before() -> None:
    async def body(adder: Adder) -> Any:
        adder.go.clear()
        asked = [adder.later(7, 1, start=True), adder.later(7, 1), adder.later(7, 10, start=True), adder.later(7, 10)]
        await turns()
        adder.go.set()
        return await asyncio.gather(*asked)

    assert with_adder(body) == [1, 2, 10, 20]


@pytest.mark.parametrize("name", [7, "7", "a card"])
def test_a_sequence_that_nobody_has_begun_is_told_so(name: int | str) -> None:
    async def body(adder: Adder) -> None:
        sentence = f"inference request for sequence {name} to model 'adder' {START}"
        with pytest.raises(InvalidInference, match=f"^{sentence}$"):
            await adder.ask(name, 1)

    with_adder(body)


def test_a_batch_is_refused() -> None:
    async def body(adder: Adder) -> None:
        with pytest.raises(InvalidInference) as caught:
            await adder.ask(7, 1, start=True, rows=2)
        assert str(caught.value) == (
            "inference request to model 'adder' must specify batch-size 1 due to requirements of sequence batcher"
        )
        assert len(adder.sequences) == 0

    with_adder(body)


def test_a_state_cannot_be_brought_into_a_sequence() -> None:
    async def body(adder: Adder) -> None:
        step, nothing = SequenceStep(7, start=True), asyncio.Event()
        with pytest.raises(InvalidInference, match="input 'total' of model 'adder' is kept here within a sequence"):
            await adder.sequences.score(step, inference(1), ["x", "total"], nothing.wait)  # type: ignore[arg-type]

    with_adder(body)


def test_who_rests_for_too_long_is_forgotten_by_itself() -> None:
    async def body(adder: Adder) -> int:
        await adder.ask(7, 1, start=True)
        await adder.ask(8, 1, start=True)
        assert len(adder.sequences) == 2
        while len(adder.sequences):
            await asyncio.sleep(0.01)
        with pytest.raises(InvalidInference, match=START):
            await adder.ask(7, 1)
        return len(adder.sequences)

    assert with_adder(body, max_sequence_idle_us=30_000) == 0


def test_who_is_asked_about_in_time_stays_and_one_at_work_is_not_idle() -> None:
    async def body(adder: Adder) -> list[int]:
        totals = [await adder.ask(7, 1, start=True)]
        for _ in range(6):
            await asyncio.sleep(0.02)
            totals.append(await adder.ask(7, 1))
        adder.go.clear()
        slow = adder.later(7, 1)
        await asyncio.sleep(0.15)  # longer than it may rest
        adder.go.set()
        totals.append(await slow)
        return [*totals, await adder.ask(7, 1)]

    assert with_adder(body, max_sequence_idle_us=100_000) == list(range(1, 10))


def test_a_request_that_fails_leaves_the_state_as_it_was() -> None:
    async def body(adder: Adder) -> list[int]:
        adder.fail_on = {100}
        totals = [await adder.ask(7, 1, start=True)]
        with pytest.raises(ModelFailed):
            await adder.ask(7, 100)
        return [*totals, await adder.ask(7, 2)]

    assert with_adder(body) == [1, 3]


def test_who_waits_behind_one_that_fails_is_told_and_who_comes_later_goes_on() -> None:
    async def body(adder: Adder) -> Any:
        adder.fail_on = {100}
        await adder.ask(7, 1, start=True)
        adder.go.clear()
        asked = [adder.later(7, 100), adder.later(7, 2), adder.later(7, 3)]
        await turns()
        adder.go.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        return [(type(outcome), str(outcome)) for outcome in outcomes], await adder.ask(7, 5)

    outcomes, total = with_adder(body)

    assert outcomes == [(ModelFailed, "as told"), (InvalidInference, BEHIND), (InvalidInference, BEHIND)]
    assert total == 6


@pytest.mark.parametrize("which", ["it fails", "it leaves", "one before it fails", "one before it leaves"])
def test_an_end_that_fails_or_is_behind_one_that_does_ends_nothing(which: str) -> None:
    async def body(adder: Adder) -> Any:
        adder.fail_on = {100}
        await adder.ask(7, 1, start=True)
        adder.go.clear()
        before = adder.later(7, 100 if which == "one before it fails" else 2)
        end = adder.later(7, 100 if which == "it fails" else 3, end=True)
        await turns()
        if "leaves" in which:
            (end if which == "it leaves" else before).cancel()
        await turns()
        adder.go.set()
        outcomes = await asyncio.gather(before, end, return_exceptions=True)
        ended = [await adder.ask(7, 10, end=True)]
        with pytest.raises(InvalidInference, match=START):
            await adder.ask(7, 1)
        assert len(adder.sequences) == 0
        return [isinstance(outcome, BaseException) for outcome in outcomes], ended

    failed, ended = with_adder(body, max_sequences=1)

    alone = which in ("it fails", "it leaves")
    assert failed == [not alone, True]
    assert ended == [13 if alone else 11]


def test_an_end_that_fails_brings_nothing_back_of_what_a_new_beginning_has_replaced() -> None:
    async def body(adder: Adder) -> Any:
        adder.fail_on = {100}
        await adder.ask(7, 1, start=True)
        adder.go.clear()
        end, anew = adder.later(7, 100, end=True), adder.later(7, 50, start=True)
        await turns()
        adder.go.set()
        await asyncio.gather(end, return_exceptions=True)
        return await anew, await adder.ask(7, 1)

    assert with_adder(body) == (50, 51)


def test_who_gave_up_waiting_for_a_slot_is_not_kept() -> None:
    def futures() -> int:
        gc.collect()
        return sum(isinstance(one, asyncio.Future) for one in gc.get_objects())

    async def body(adder: Adder) -> int:
        await adder.ask(0, 1, start=True)
        before = futures()
        for name in range(1, 50):
            with pytest.raises(DeadlinePassed):
                await adder.ask(name, 1, start=True, wait_s=0.001)
        return futures() - before

    assert with_adder(body, max_sequences=1, max_sequence_idle_us=10_000_000) < 10


def test_a_beginning_that_fails_is_none() -> None:
    async def body(adder: Adder) -> None:
        adder.fail_on = {100}
        adder.go.clear()
        asked = [adder.later(7, 100, start=True), adder.later(7, 1)]
        await turns()
        adder.go.set()
        first, second = await asyncio.gather(*asked, return_exceptions=True)
        assert (type(first), str(second)) == (ModelFailed, BEHIND)
        with pytest.raises(InvalidInference, match=START):
            await adder.ask(7, 1)

    with_adder(body)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_caller_that_leaves_takes_along_who_waits_behind_it_and_nobody_else(which: int) -> None:
    async def body(adder: Adder) -> Any:
        await adder.ask(7, 1, start=True)
        adder.go.clear()
        asked = [adder.later(7, 10 ** (place + 1)) for place in range(3)]
        await turns()
        asked[which].cancel()
        await turns()
        adder.go.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        return outcomes, await adder.ask(7, 5)

    outcomes, total = with_adder(body)

    through = list(itertools.accumulate([10, 100, 1000][:which], initial=1))
    assert outcomes[:which] == through[1:]
    assert isinstance(outcomes[which], asyncio.CancelledError)
    assert all(isinstance(outcome, InvalidInference) for outcome in outcomes[which + 1 :])
    assert total == through[-1] + 5


def test_who_waits_for_the_one_before_waits_until_its_deadline() -> None:
    async def body(adder: Adder) -> int:
        await adder.ask(7, 1, start=True)
        adder.go.clear()
        running = adder.later(7, 2)
        await turns()
        with pytest.raises(DeadlinePassed, match="Request timeout expired"):
            await adder.ask(7, 3, wait_s=0.02)
        adder.go.set()
        return await running

    assert with_adder(body) == 3


def test_there_are_as_many_sequences_as_slots_and_the_next_one_waits_for_an_end() -> None:
    async def body(adder: Adder) -> Any:
        for name in (1, 2):
            await adder.ask(name, 1, start=True)
        third, behind = adder.later(3, 5, start=True), adder.later(3, 6)
        await turns()
        assert not third.done()
        await adder.ask(1, 1, end=True)
        return await third, await behind, await adder.ask(2, 1)

    assert with_adder(body, max_sequences=2, max_sequence_idle_us=10_000_000) == (5, 11, 2)


def test_a_slot_is_free_when_its_sequence_has_rested_for_too_long() -> None:
    async def body(adder: Adder) -> int:
        await adder.ask(1, 1, start=True)
        return await adder.ask(2, 5, start=True)

    assert with_adder(body, max_sequences=1, max_sequence_idle_us=30_000) == 5


@pytest.mark.parametrize("patience", [{"timeout_s": 0.02}, {"wait_s": 0.02}])
def test_a_beginning_that_finds_no_slot_in_time_ends_the_whole_sequence(patience: dict[str, float]) -> None:
    async def body(adder: Adder) -> Any:
        await adder.ask(1, 1, start=True)
        asked = [adder.later(2, 5, start=True, **patience), adder.later(2, 6)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [(type(outcome), str(outcome)) for outcome in outcomes] == [(DeadlinePassed, NO_SLOT)] * 2
        with pytest.raises(InvalidInference, match=START):
            await adder.ask(2, 7)
        await adder.ask(1, 1, end=True)
        return await adder.ask(2, 8, start=True)

    assert with_adder(body, max_sequences=1, max_sequence_idle_us=10_000_000) == 8


@given(
    script=st.lists(
        st.tuples(st.sampled_from([1, 2, 3]), st.booleans(), st.booleans(), st.sampled_from(["", "fail", "leave"])),
        max_size=30,
    )
)
@settings(max_examples=80, deadline=None)
def test_whatever_fails_or_leaves_no_slot_is_lost_and_nobody_waits_for_ever(
    script: list[tuple[int, bool, bool, str]],
) -> None:
    async def body(adder: Adder) -> None:
        adder.fail_on = {100}
        adder.go.clear()
        asked = []
        by_name: dict[int, int] = defaultdict(int)
        for name, start, end, fate in script:
            x = 100 if fate == "fail" else 1
            asked.append(adder.later(name, x, start=start or not by_name[name], end=end, wait_s=5.0))
            by_name[name] += 1
            if fate == "leave":
                await turns(1)
                asked[-1].cancel()
        await turns()
        adder.go.set()
        await asyncio.gather(*asked, return_exceptions=True)
        for name in (1, 2, 3):
            with_start = adder.later(name, 1, start=True, end=True)
            assert await with_start == 1
        assert adder.at_work == 0

    # A sequence of each may be left, and each begins anew: as many slots as there are names must do.
    with_adder(body, max_sequences=3, max_sequence_idle_us=10_000_000)
