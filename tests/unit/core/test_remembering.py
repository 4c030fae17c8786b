"""Answers are remembered as long as they should be, and never more of them than there is room for."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.core.remembering import Memory

WINDOW_S, ENTRIES, SIZE = 10.0, 4, 100


class Remembering(RuleBasedStateMachine):
    """Beside a list of what should be there, oldest first: name, value, size, and when it came."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: Memory[int] = Memory(WINDOW_S, ENTRIES, SIZE)
        self.now = 0.0
        self.values = 0
        self.forgotten = 0
        self.expected: list[tuple[str, int, int, float]] = []

    @rule(name=st.sampled_from("abcdef"), size=st.integers(1, 120))
    def remember(self, name: str, size: int) -> None:
        self.values += 1
        self.memory.put(name, self.values, size, self.now)
        self.expected = [one for one in self.expected if one[0] != name]
        if size > SIZE:
            self.forgotten += 1
            return
        self.expected.append((name, self.values, size, self.now))
        while len(self.expected) > ENTRIES or sum(one[2] for one in self.expected) > SIZE:
            self.expected.pop(0)
            self.forgotten += 1

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.expected = [one for one in self.expected if self.now < one[3] + WINDOW_S]

    @invariant()
    def what_should_be_there_is_and_nothing_else(self) -> None:
        found = {name: value for name in "abcdef" if (value := self.memory.get(name, self.now)) is not None}

        assert found == {name: value for name, value, _, _ in self.expected}
        assert self.memory.statistics().forgotten == self.forgotten

    @invariant()
    def the_bounds_hold(self) -> None:
        kept = self.memory.statistics()
        assert kept.entries <= ENTRIES
        assert kept.size <= SIZE


TestRemembering = Remembering.TestCase
TestRemembering.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_what_had_to_go_before_its_time_is_counted() -> None:
    memory: Memory[str] = Memory(WINDOW_S, 2, SIZE)
    for name in "abc":
        memory.put(name, name, 10, 0.0)
    memory.put("large", "large", SIZE + 1, 0.0)

    assert memory.get("a", 0.0) is None
    assert memory.statistics().forgotten == 2
    assert (memory.statistics().entries, memory.statistics().size) == (2, 20)


def test_what_goes_at_its_time_is_not() -> None:
    memory: Memory[Any] = Memory(WINDOW_S, 2, SIZE)
    memory.put("a", 1, 10, 0.0)

    assert memory.get("a", WINDOW_S - 0.001) == 1
    assert memory.get("a", WINDOW_S) is None
    assert memory.statistics().forgotten == 0


def test_without_a_window_nothing_is_remembered() -> None:
    memory: Memory[Any] = Memory(0.0, 2, SIZE)
    memory.put("a", 1, 10, 0.0)

    assert memory.get("a", 0.0) is None
