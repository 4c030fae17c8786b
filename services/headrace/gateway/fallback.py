"""Somebody else's answer, where a model has a fallback and the version in charge has none in time.

Called by the servicers instead of `lane.score`, for lanes that have one. Never silent: whatever is answered here is in
the record's detour, and from there in the response, the trace, the metrics and the log. Never for a request that is
wrong, that its caller has left, or that names its version. docs/decisions/0021 says why it is like this.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from headrace.config import FallbackSettings
from headrace.core.batch import bad_rows
from headrace.core.clock import Clock
from headrace.core.inference import Answer, Inference
from headrace.core.instead import only_outputs, prior_row, restated
from headrace.core.records import FALLBACK, RpcRecord
from headrace.errors import (
    BackendLost,
    Cancelled,
    DeadlinePassed,
    HeadraceError,
    InvalidInference,
    NotServing,
    Overloaded,
)
from headrace.gateway.lane import Lane
from headrace.gateway.observer import Observer

log = logging.getLogger(__name__)

DEADLINE, OVERLOAD, REPLICA_LOSS = "deadline", "overload", "replica_loss"
REASONS: Final[dict[type[HeadraceError], str]] = {
    DeadlinePassed: DEADLINE,
    Overloaded: OVERLOAD,
    NotServing: REPLICA_LOSS,
    BackendLost: REPLICA_LOSS,
}
"""What may be answered otherwise. Not the rest: who is wrong must hear it, and so must who has a model that fails."""
PRIOR: Final = "prior"
MOST_RESERVE: Final = 0.5
"""Of the time there is: a caller in a hurry still asks the version in charge."""
LAST_S: Final = 0.005
"""Kept for the prior and its way to the caller, where somebody else is asked before it."""

Make = Callable[[float], Awaitable[Inference]]
"""Decodes the request, to be answered until then. Called once. Raises: InvalidInference, Unsupported."""


@dataclass(slots=True)
class Ask:
    """One request as a servicer has it: not decoded yet."""

    lane: Lane
    make: Make
    priority: int
    deadline: float
    record: RpcRecord
    named: bool
    """It names its version: that one answers it, or nobody."""


class Scored(NamedTuple):
    """An answer, and the question to it as whoever answered was asked."""

    inference: Inference
    answer: Answer


async def score(ask: Ask, observer: Observer) -> Scored:
    """Have a request answered: by its lane, or by whoever stands in for it. Raises: what `Lane.score` raises."""
    fallback = ask.lane.fallback
    if fallback is not None and not ask.named:
        return await fallback.score(ask, observer)
    ahead_s = ask.lane.foresee(ask.deadline, ask.priority, compared=not ask.named)
    inference = await ask.make(ask.deadline)
    return Scored(inference, await ask.lane.score(inference, ask.record, ahead_s))


class Fallback:
    """What stands in for one lane. `stand_in` names the lane that is asked now, if one is ready."""

    def __init__(
        self, settings: FallbackSettings, lane: Lane, stand_in: Callable[[], Lane | None], clock: Clock
    ) -> None:
        self._settings = settings
        self._lane = lane
        self._stand_in = stand_in
        self._clock = clock
        self._prior = _prior(settings, lane)
        self.rows = 0
        """Of ours, at whoever stands in."""

    async def score(self, ask: Ask, observer: Observer) -> Scored:
        """Ask the version in charge, and somebody else when that ends in one of the reasons to.

        Raises: what the version in charge ended with, where nobody else has an answer either; InvalidInference first.
        Cancellation: whoever is asked at that moment drops the request.
        """
        able = bool(self._prior) or self._free_lane(1) is not None
        until = self._given_up_at(ask.deadline) if able else ask.deadline
        inference: Inference | None = None
        try:
            if able and REPLICA_LOSS in self._settings.reasons:
                self._lane.assert_ready()
            ahead_s = self._lane.foresee(until, ask.priority)
            inference = await ask.make(until)
            return Scored(inference, await self._lane.score(inference, ask.record, ahead_s))
        except (DeadlinePassed, Overloaded, NotServing, BackendLost) as error:
            first = error.with_traceback(None)  # it outlives its frames, which would hold it, and it them
        reason = self._reason(first)
        if reason not in self._settings.reasons:
            raise first
        if inference is None:
            inference = await ask.make(until)
        _check_values(inference)
        return await self._instead(ask, inference, reason, first, observer)

    def _given_up_at(self, deadline: float) -> float:
        """When the version in charge has had its time: somebody else needs some too."""
        if DEADLINE not in self._settings.reasons:
            return deadline
        return deadline - min(self._settings.reserve_s, MOST_RESERVE * (deadline - self._clock.now()))

    def _reason(self, error: HeadraceError) -> str:
        """Time runs out as well for those who wait until a lost replica is there again."""
        reason = REASONS[type(error)]
        return REPLICA_LOSS if reason == DEADLINE and not self._lane.ready else reason

    async def _instead(
        self, ask: Ask, inference: Inference, reason: str, first: HeadraceError, observer: Observer
    ) -> Scored:
        lane = self._free_lane(inference.rows)
        by = "" if lane is None else self._name(lane)
        found = None if lane is None else await self._asked(lane, ask, inference, observer)
        if found is None:
            found, by = self._constant(inference, ask.deadline), PRIOR
        if found is None:
            raise first
        ask.record.rows, ask.record.tokens = inference.rows, inference.tokens  # it may never have got a place
        detour = ask.record.on_detour()
        detour.reason, detour.by, detour.error = reason, by, type(first).__name__
        return found

    # Another version, or another model ------------------------------------------------------------------------------

    def _free_lane(self, rows: int) -> Lane | None:
        """Who would be asked now; None = nobody is ready, or it has as much of ours as it may."""
        if self.rows + rows > self._settings.max_in_flight_rows:
            return None
        return self._stand_in()

    def _name(self, lane: Lane) -> str:
        return f"model:{lane.spec.name}" if self._settings.model else f"version:{lane.spec.version}"

    async def _asked(self, lane: Lane, ask: Ask, inference: Inference, observer: Observer) -> Scored | None:
        """What `lane` says; None = it can't be asked this, or has no answer in time either."""
        until = ask.deadline - (LAST_S if self._prior else 0.0)
        question = restated(inference, lane.spec, until)
        if question is None:
            return None
        aside = observer.aside(ask.record, lane.spec)
        error: HeadraceError | None = Cancelled("the caller went away")
        self.rows += question.rows
        try:
            ahead_s = lane.foresee(until, question.priority, compared=False)
            answer = await lane.score(question, aside, ahead_s)
            error = None
        except HeadraceError as failure:
            error = failure
            return None
        finally:
            self.rows -= question.rows
            observer.aside_over(aside, error)
        return Scored(question, answer)

    # Nobody at all --------------------------------------------------------------------------------------------------

    def _constant(self, inference: Inference, deadline: float) -> Scored | None:
        """The prior, while its caller waits."""
        if not self._prior or not only_outputs(inference) or self._clock.now() >= deadline:
            return None
        columns = [value * inference.rows for value in self._prior]
        return Scored(inference, Answer(columns, batch_id=0, batch_rows=0, queue_us=0, path=FALLBACK))


def _prior(settings: FallbackSettings, lane: Lane) -> Sequence[bytes]:
    """One row of it; empty where there is none, or none that fits this version."""
    if not settings.prior:
        return ()
    try:
        return prior_row(lane.spec, settings.prior)
    except ValueError as error:
        log.error("models.%s.fallback: %s; without it, this version has no prior", lane.spec.name, error)  # noqa: TRY400
        return ()


def _check_values(inference: Inference) -> None:
    """What `core.batch.pack` would have found, had it come to a batch. Raises: InvalidInference."""
    for complaint in bad_rows(inference).values():
        raise InvalidInference(f"{complaint} for model '{inference.spec.name}'")
