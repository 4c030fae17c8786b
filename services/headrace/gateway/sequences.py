"""What the sequences of a model carry from request to request, kept by this gateway: Triton's implicit state.

Asked by the servicer, for requests that name a sequence and models whose spec carries state. A state is a cache: it
goes with its gateway, with its version, or when nobody has asked for a while; its caller then begins anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableSequence
from typing import Final
from weakref import WeakKeyDictionary

from headrace.config import BatchingSettings
from headrace.core.clock import Clock
from headrace.core.inference import Answer, Inference, SequenceStep
from headrace.core.tensors import ModelSpec
from headrace.errors import DeadlinePassed, HeadraceError, InvalidInference
from headrace.gateway.lane import Lane

log = logging.getLogger(__name__)

NO_SLOT: Final = "timeout of the corresponding sequence has been expired"
TOO_LATE: Final = "Request timeout expired"

Key = tuple[str, int | str]
"""Whose sequence it is, and what its caller calls it."""
Place = asyncio.Future[None]
"""Of one who waits: done when its turn has come, or never will."""


class Sequence:
    """One sequence, made by the request that begins it: what the last answer has left, and who waits for it."""

    __slots__ = ("busy", "columns", "line", "over", "slotted", "used_at")

    def __init__(self) -> None:
        self.columns: dict[int, bytes] = {}
        """Position among the inputs → what goes in next. Empty: zeros, which a decoded request has there already."""
        self.line: list[Place] = []
        self.busy = True
        """A request of it is at work."""
        self.slotted = False
        self.over = False
        """Nothing can join any more."""
        self.used_at = 0.0


class LaneSequences:
    """The sequences of one model version: so many at a time, others wait for a slot."""

    def __init__(self, spec: ModelSpec, settings: BatchingSettings, clock: Clock) -> None:
        self._spec = spec
        self._most = settings.max_sequences
        self._idle_s = settings.max_sequence_idle_us / 1e6
        self._clock = clock
        self._held: dict[Key, Sequence] = {}
        """By whose they are, and id; those at rest in the order in which they will have rested for too long."""
        self._ending: dict[Key, Sequence] = {}
        """Those whose END has come and not been answered: nobody else joins them, and one that fails ends nothing."""
        self._slots = 0
        self._backlog: deque[Place] = deque()
        self._reaper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: Key) -> bool:
        return self._get(key) is not None

    async def score(
        self, step: SequenceStep, inference: Inference, given: Iterable[str], score: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Answer one request of a sequence when its turn has come, from what the one before has left.

        One that fails leaves the state as it was, and takes those with it that wait behind it: their answers would
        lack what it was to add. `given`: names of the inputs it brings.
        Raises: InvalidInference, DeadlinePassed; whatever `score` raises. Cancellation: a failure.
        """
        self._check(inference, given)
        sequence, place = self._join(step)
        try:
            if place is not None:
                await self._wait(place, inference.deadline, TOO_LATE)
            if step.start:
                await self._take_slot(sequence, inference)
            inference.timeout_s = 0.0  # of the wait for a slot; who holds one waits as long as it takes, as in Triton
            for position, column in sequence.columns.items():
                inference.columns[position] = column
            inference.compared = False  # another version has states of its own: it can't go on from this one's
            answer = await score()
        except BaseException as error:
            self._failed(step, sequence, place, error)
            raise
        sequence.columns = {into: answer.columns[out] for into, out in self._spec.carried}
        self._leave(step.key, sequence)
        return answer

    def _check(self, inference: Inference, given: Iterable[str]) -> None:
        if inference.rows > 1:
            raise InvalidInference(
                f"inference request to model '{self._spec.name}' must specify batch-size 1 due to requirements of "
                "sequence batcher"
            )
        carried = {self._spec.inputs[into].name for into, _ in self._spec.carried}
        if twice := carried.intersection(given):
            raise InvalidInference(
                f"input '{min(twice)}' of model '{self._spec.name}' is kept here within a sequence: leave it out"
            )

    # A sequence's line ----------------------------------------------------------------------------------------------

    def _join(self, step: SequenceStep) -> tuple[Sequence, Place | None]:
        """The sequence of a request that has just come, and its place in the line. None: it is its turn."""
        found, place = self._get(step.key), None
        if step.start:
            if found is not None:
                log.debug("a sequence of model '%s' begins anew before its end", self._spec.name)
                self._forget(step.key, found)
            self._ending.pop(step.key, None)
            found = self._held[step.key] = Sequence()
        elif found is None:
            raise InvalidInference(
                f"inference request for sequence {step.name} to model '{self._spec.name}' must specify the START flag "
                "on the first request of the sequence"
            )
        elif found.busy:
            place = asyncio.get_running_loop().create_future()
            found.line.append(place)
        found.busy = True
        if step.end:
            self._forget(step.key, found)
            self._ending[step.key] = found
        return found, place

    def _leave(self, key: Key, sequence: Sequence) -> None:
        """A request of it is through: the next one's turn, or rest."""
        if _next_of(sequence.line):
            return
        sequence.busy = False
        if sequence.over:
            self._drop_ending(key, sequence)
            self._give_up_slot(sequence)
            return
        self._held[key] = self._held.pop(key)
        sequence.used_at = self._clock.now()
        self._set_reaper(self._idle_s)

    def _failed(self, step: SequenceStep, sequence: Sequence, place: Place | None, error: BaseException) -> None:
        if place is not None and not _granted(place):
            if cut := _cut(sequence.line, place):
                self._turn_away(step, cut, error)
                self._reopen(step.key, sequence)
            return
        self._turn_away(step, _cut(sequence.line), error)
        if not step.start:
            self._reopen(step.key, sequence)
        elif not sequence.over:
            self._forget(step.key, sequence)
        self._leave(step.key, sequence)

    def _reopen(self, key: Key, sequence: Sequence) -> None:
        """Its END, if it had come, has failed, or is behind one that has: whoever tries again goes on."""
        if self._drop_ending(key, sequence):
            sequence.over = False
            self._held[key] = sequence

    def _drop_ending(self, key: Key, sequence: Sequence) -> bool:
        """Whether its END had come, and no other sequence under its name has begun since."""
        if self._ending.get(key) is not sequence:
            return False
        del self._ending[key]
        return True

    def _turn_away(self, step: SequenceStep, places: Iterable[Place], error: BaseException) -> None:
        """Who waits behind one that has failed."""
        for place in places:
            if not place.done():
                place.set_exception(self._told(step, error))
                place.exception()  # its task may be cancelled before it hears of it: that is no error of ours

    def _told(self, step: SequenceStep, error: BaseException) -> HeadraceError:
        if isinstance(error, DeadlinePassed) and str(error) == NO_SLOT:
            return DeadlinePassed(NO_SLOT)
        return InvalidInference(
            f"an earlier request for sequence {step.name} to model '{self._spec.name}' has failed: "
            "its state is what it was before that one"
        )

    async def _wait(self, place: Place, until: float, sentence: str) -> None:
        """Raises: DeadlinePassed; whatever the place is told."""
        try:
            async with asyncio.timeout(max(0.0, until - self._clock.now())):
                await place
        except TimeoutError:
            raise DeadlinePassed(sentence) from None

    # Slots ----------------------------------------------------------------------------------------------------------

    async def _take_slot(self, sequence: Sequence, inference: Inference) -> None:
        """Raises: DeadlinePassed when none has become free in time."""
        if self._slots >= self._most:
            self._reap()
        if self._slots < self._most:
            self._slots += 1
        else:
            place = asyncio.get_running_loop().create_future()
            self._backlog.append(place)
            patience = self._clock.now() + inference.timeout_s if inference.timeout_s > 0 else inference.deadline
            try:
                await self._wait(place, min(patience, inference.deadline), NO_SLOT)
            except BaseException:
                if _granted(place):
                    self._free_slot()
                elif place in self._backlog:
                    self._backlog.remove(place)
                raise
        sequence.slotted = True

    def _give_up_slot(self, sequence: Sequence) -> None:
        if sequence.slotted:
            sequence.slotted = False
            self._free_slot()

    def _free_slot(self) -> None:
        if not _next_of(self._backlog):
            self._slots -= 1

    # Who is held ----------------------------------------------------------------------------------------------------

    def _get(self, key: Key) -> Sequence | None:
        found = self._held.get(key)
        if found is not None and self._rested_s(found) >= self._idle_s:
            self._forget(key, found)
            return None
        return found

    def _rested_s(self, sequence: Sequence) -> float:
        return 0.0 if sequence.busy else self._clock.now() - sequence.used_at

    def _forget(self, key: Key, sequence: Sequence) -> None:
        del self._held[key]
        sequence.over = True
        if not sequence.busy:
            self._give_up_slot(sequence)

    def _set_reaper(self, in_s: float) -> None:
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(in_s, self._reap)

    def _reap(self) -> None:
        """Forget who has rested for too long."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for _ in range(len(self._held)):
            key, sequence = next(iter(self._held.items()))
            left_s = self._idle_s - self._rested_s(sequence)
            if sequence.busy:
                self._held[key] = self._held.pop(key)  # it gets its place when it rests
            elif left_s > 0:
                self._set_reaper(left_s)
                return
            else:
                self._forget(key, sequence)


class Sequences:
    """Those of every lane of a gateway."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lanes: WeakKeyDictionary[Lane, LaneSequences] = WeakKeyDictionary()

    def of(self, lane: Lane) -> LaneSequences:
        found = self._lanes.get(lane)
        if found is None:
            found = self._lanes[lane] = LaneSequences(lane.spec, lane.settings, self._clock)
        return found

    def held(self, lanes: Iterable[Lane]) -> dict[tuple[str, ...], float]:
        """How many each of these lanes has, by model and version: those that carry state. From any thread."""
        found = ((lane, self._lanes.get(lane, ())) for lane in lanes if lane.spec.carried)
        return {(lane.spec.name, lane.spec.version): float(len(held)) for lane, held in found}

    def version_of(self, model: str, step: SequenceStep) -> str:
        """The version that has begun this sequence, whoever answers now; empty = none, or it begins anew."""
        if step.start:
            return ""
        lanes = (lane for lane, found in self._lanes.items() if lane.spec.name == model and step.key in found)
        return next((lane.spec.version for lane in lanes if lane.ready), "")


def _next_of(line: MutableSequence[Place]) -> bool:
    """Call the first who still waits. False: nobody does."""
    while line:
        place = line[0]
        del line[0]
        if not place.done():
            place.set_result(None)
            return True
    return False


def _cut(line: list[Place], place: Place | None = None) -> list[Place]:
    """Take out everybody from this place on; None = all."""
    if place is not None and place not in line:
        return []
    cut: list[Place] = []
    while line and place not in cut:
        cut.append(line.pop())
    return cut


def _granted(place: Place) -> bool:
    return place.done() and not place.cancelled() and place.exception() is None
