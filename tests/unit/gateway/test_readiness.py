"""When a gateway may be sent callers: not before it serves what others serve, and from then on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.readiness import Served
from headrace.testing.clock import FakeClock

SETTLING_S = 3.0


@dataclass
class Model:
    name: str
    opened: set[str]
    primary: str = "1"

    def in_charge(self) -> str:
        return self.primary


@dataclass
class Models:
    """What a gateway knows, as far as readiness asks."""

    informed: bool = False
    known: list[Model] = field(default_factory=list)

    def __iter__(self) -> Any:
        return iter(self.known)


def model(name: str, *opened: str) -> Model:
    return Model(name, set(opened))


def served(models: Any, clock: FakeClock, *required: str) -> Served:
    return Served(models, clock, required, SETTLING_S)


def test_a_gateway_that_has_heard_nothing_is_not_ready_however_long_it_waits() -> None:
    models, clock = Models(known=[model("a", "1")]), FakeClock()
    ready = served(models, clock)

    for _ in range(3):
        assert not ready.look()
        clock.advance(60)


def test_some_model_is_enough_once_every_living_replica_could_have_come_back() -> None:
    """A control that has just started names hardly anybody: callers of the others would hear that there is no such."""
    models, clock = Models(informed=True, known=[model("a", "1"), model("late")]), FakeClock()
    ready = served(models, clock)

    assert not ready.look()
    clock.advance(SETTLING_S - 0.001)
    assert not ready.look()
    clock.advance(0.001)
    assert ready.look()


def test_no_model_at_all_is_no_reason_to_be_ready() -> None:
    models, clock = Models(informed=True), FakeClock()
    ready = served(models, clock)
    ready.look()
    clock.advance(2 * SETTLING_S)

    assert not ready.look()
    models.known = [model("a")]
    assert not ready.look()
    models.known = [model("a", "1")]
    assert ready.look()


def test_required_models_are_waited_for_and_nothing_else_is() -> None:
    models = Models(informed=True, known=[model("a", "1"), model("other")])
    ready = served(models, FakeClock(), "a", "b")

    assert not ready.look()
    models.known.append(model("b"))
    assert not ready.look()
    models.known[-1].opened.add("3")
    assert not ready.look(), "the version in charge is another one: its callers would hear that it is not ready"
    models.known[-1].opened.add("1")
    assert ready.look()


STATES = st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from("abc")), st.floats(0, 2 * SETTLING_S)), max_size=20)


@given(STATES, st.sets(st.sampled_from("ab")))
def test_once_ready_it_stays_whatever_becomes_of_the_models(states: Any, required: set[str]) -> None:
    models, clock = Models(), FakeClock()
    ready = served(models, clock, *required)
    seen = []
    for informed, opened, seconds in states:
        models.informed, models.known = informed, [model(name, "1") for name in opened]
        clock.advance(seconds)
        seen.append(ready.look())

    assert seen == sorted(seen)
