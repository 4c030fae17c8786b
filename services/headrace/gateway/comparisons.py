"""The comparisons of this gateway: which shadow lanes the policies want, and whose answers each of them copies.

Follows the same snapshots as `models`, which calls it; a shadow lane lives as long as its comparison is in the policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from headrace.core.routing import Policy, Shadow
from headrace.gateway.lane import Lane
from headrace.gateway.pairs import Notes
from headrace.gateway.shadow import ShadowLane, Surroundings
from headrace.gateway.shedding import Shedding
from headrace.v1 import control_pb2

Replicas = Mapping[tuple[str, str], Sequence[control_pb2.Registration]]
"""(model, version) → those that a snapshot names."""


class MakeNotes(Protocol):
    """Whoever gives comparisons the notes that they fill."""

    def __call__(self, experiment_id: str, incumbent: str, *, noise: bool) -> Notes: ...


class Key(NamedTuple):
    """What a shadow lane is there for."""

    model: str
    shadow: Shadow
    asked: str
    """The version that computes the copies."""


class Comparisons:
    """Every shadow lane of a gateway."""

    def __init__(self, around: Surroundings, strained: Callable[[], bool], notes: MakeNotes) -> None:
        self._around = around
        self._shedding = Shedding(around.clock, lambda: around.pressure.high or strained())
        self._notes = notes
        self._lanes: dict[Key, ShadowLane] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[tuple[Key, ShadowLane]]:
        """Of a copy: a scraper's thread walks here too."""
        return iter(list(self._lanes.items()))

    def follow(self, model: str, policy: Policy, lanes: Mapping[str, Lane], replicas: Replicas) -> None:
        """Have a shadow lane for every version that is asked about another one's answers; close the others."""
        wanted: dict[Key, ShadowLane] = {}
        for version, lane in lanes.items():
            copying: list[ShadowLane] = []
            for shadow in policy.shadows if lane.answers else ():
                asked = lanes.get(shadow.other(version) or "")
                if asked is not None:
                    key = Key(model, shadow, asked.spec.version)
                    wanted[key] = self._lanes.get(key) or self._make(shadow, asked)
                    copying.append(wanted[key])
            lane.copying = _of_requests(copying, policy)
        for key in [key for key in self._lanes if key.model == model and key not in wanted]:
            self._close(key)
        self._lanes.update(wanted)
        for key, shadow_lane in wanted.items():
            shadow_lane.dispatcher.update(replicas.get((model, key.asked), ()))

    def without(self, lane: Lane) -> None:
        """A lane is about to be closed: nobody asks its version any more."""
        for key in [key for key, shadow_lane in self._lanes.items() if shadow_lane.lane is lane]:
            self._close(key)

    async def close(self) -> None:
        """End all: what is under way counts as dropped."""
        for key in list(self._lanes):
            self._close(key)
        await asyncio.gather(*self._closing)

    def _make(self, shadow: Shadow, asked: Lane) -> ShadowLane:
        notes = self._notes(shadow.experiment_id, shadow.incumbent, noise=shadow.noise)
        return ShadowLane(shadow, asked, self._around, self._shedding, notes)

    def _close(self, key: Key) -> None:
        task = asyncio.get_running_loop().create_task(self._lanes.pop(key).close(), name="close-shadow")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _of_requests(copying: Sequence[ShadowLane], policy: Policy) -> list[ShadowLane]:
    """Those that copy what a version answers. The noise floor of a comparison copies its pairs instead.

    So it is known as well as the pairs need it, and where the challenger answers little the incumbent is not asked
    again for nothing.
    """
    noise = {each.shadow.experiment_id: each for each in copying if each.shadow.noise}
    pairs = [each for each in copying if not each.shadow.noise]
    for each in pairs:
        each.noise = noise.get(each.shadow.experiment_id)
    compared = {shadow.experiment_id for shadow in policy.shadows if not shadow.noise}
    return [*pairs, *(each for experiment, each in noise.items() if experiment not in compared)]
