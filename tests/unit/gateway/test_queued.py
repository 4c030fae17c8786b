"""How much waits because of a gateway: a mean that one burst hardly moves, and that says in full what lasts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.queued import GAIN, Queued


@dataclass
class Link:
    choosable: bool = True
    flights: tuple[int, ...] = ()


@dataclass
class Lane:
    """One with this much work waiting, over these replicas."""

    waiting_s: float
    links: tuple[Link, ...] = (Link(),)

    @property
    def dispatcher(self) -> Any:
        return self

    def backlog_s(self) -> float:
        return self.waiting_s


@dataclass
class Models:
    known: list[Lane] = field(default_factory=list)

    def lanes(self) -> list[Lane]:
        return self.known


def queued(*lanes: Lane) -> tuple[Queued, Models]:
    models: Any = Models(list(lanes))
    return Queued(models), models


BUSY, AWAY = Link(flights=(1,)), Link(choosable=False)


def test_only_lanes_with_an_idle_replica_count_and_all_of_them_do() -> None:
    late = Lane(1.0), Lane(2.0, (BUSY, Link()))
    others = Lane(4.0, (BUSY,)), Lane(8.0, (AWAY, BUSY)), Lane(16.0, ())
    found, _ = queued(*late, *others)

    found.look()

    assert found.mean_s == GAIN * 3.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_the_mean_is_never_beyond_what_was_seen(seen: list[float]) -> None:
    found, models = queued()
    for seconds in seen:
        models.known = [Lane(seconds)]
        found.look()
        assert -1e-9 <= found.mean_s <= max(seen) + 1e-9


def test_what_lasts_is_told_in_full_and_what_is_over_is_forgotten() -> None:
    found, models = queued(Lane(2.0))
    for _ in range(1000):
        found.look()
    lasting = found.mean_s
    models.known = []
    for _ in range(1000):
        found.look()

    assert 1.99 < lasting <= 2.0
    assert found.mean_s < 0.01
