"""What a gateway says of itself by grpc.health.v1, and whether callers should be sent to it at all.

The empty name, a service's and a model's follow what could be answered now. `readiness` is for whoever sends callers:
it waits at the start and then stays until the end, because a gateway that lost its models still says so to everybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from headrace.core.clock import Clock
from headrace.gateway.admission import Admission
from headrace.gateway.models import Models
from headrace.permissions import INFERENCE, RISK
from headrace.rpc.health import LIVENESS, READINESS, Health

log = logging.getLogger(__name__)

PERIOD_S: Final = 0.1
"""How often what could be answered is compared with what is said: an eviction shows up within this."""


class Served:
    """Whether callers would be served what they are served elsewhere: not before, and from then on for ever.

    `required`: the models whose version in charge must have been ready; none = any model's, once `settling_s` have
    passed since the first snapshot. Of a control that has just started the first one lists hardly anybody.
    """

    def __init__(self, models: Models, clock: Clock, required: Collection[str], settling_s: float) -> None:
        self._models = models
        self._clock = clock
        self._required = frozenset(required)
        self._settling_s = settling_s
        self._heard_at: float | None = None
        self._latched = False

    def look(self) -> bool:
        self._latched = self._latched or self._begins()
        return self._latched

    def _begins(self) -> bool:
        if not self._models.informed:
            return False
        if self._heard_at is None:
            self._heard_at = self._clock.now()
        opened = {model.name for model in self._models if model.in_charge() in model.opened}
        if self._required:
            return self._required <= opened
        return bool(opened) and self._clock.now() - self._heard_at >= self._settling_s


class Readiness:
    """Keeps a process's health true. `follow` it; `close` when the door closes."""

    def __init__(
        self, health: Health, models: Models, admission: Admission, served: Served, risk: Callable[[], bool]
    ) -> None:
        self._health = health
        self._models = models
        self._admission = admission
        self._served = served
        self._risk = risk
        self._shown: dict[str, bool] = {}
        self._closed = False

    def open(self) -> None:
        """Nothing is ready yet, and that is said; the process is there."""
        self._health.say(LIVENESS, serving=True)
        self._show(dict.fromkeys((READINESS, "", INFERENCE, RISK), False))

    def close(self) -> None:
        """Nobody should come any more."""
        self._closed = True
        self._show(dict.fromkeys((READINESS, *self._shown), False))

    async def follow(self) -> None:
        """Until cancelled."""
        failing = False
        while True:
            try:
                self._show(self._now())
                await self._models.retire()
                failing = False
            except Exception:  # health that stands still would lie, about every model, for ever
                if not failing:
                    log.exception("readiness could not be followed")
                failing = True
            await asyncio.sleep(PERIOD_S)

    def _now(self) -> dict[str, bool]:
        ready = self._models.all_ready()
        could = {model.name: bool(model.ready_versions()) for model in self._models if model.name != LIVENESS}
        could |= {READINESS: self._served.look(), "": ready, INFERENCE: ready, RISK: self._risk()}
        return {name: can and self._admission.open and not self._closed for name, can in could.items()}

    def _show(self, now: dict[str, bool]) -> None:
        for name, serving in now.items():
            if self._shown.get(name) != serving:
                self._health.say(name, serving=serving)
        self._shown = now
