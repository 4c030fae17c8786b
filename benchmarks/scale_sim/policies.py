"""Who is compared: each policy with its one knob, and the settings of that knob that make its curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from scale_sim.hpa import SYNC_S, CpuUtilisation
from scale_sim.seen import Policy
from scale_sim.serve import AS_IT_COMES, PROMPT, OngoingRequests, Reported
from scale_sim.world import World

OURS: Final = "headrace"


@dataclass(frozen=True)
class Contender:
    name: str
    knob: str
    settings: tuple[float, ...]
    make: Callable[[World, float, int, float], Policy]
    """Of the world, a setting, how many replicas there are at first, and a number in [0, 1) that is the seed's."""


def headrace(world: World, busy: float, begin_with: int, _: float) -> Policy:
    return Reported(world, PROMPT, begin_with, {"BUSY": busy})


def prompt(world: World, target: float, begin_with: int, _: float) -> Policy:
    return OngoingRequests(world, PROMPT, target, begin_with)


def damped(world: World, target: float, begin_with: int, _: float) -> Policy:
    """A third of each step: without it, replicas that are on their way are ordered again and again."""
    return OngoingRequests(world, PROMPT, target, begin_with, upscaling_factor=0.3)


def as_it_comes(world: World, target: float, begin_with: int, _: float) -> Policy:
    return OngoingRequests(world, AS_IT_COMES, target, begin_with)


def hpa(world: World, target: float, _: int, phase: float) -> Policy:
    return CpuUtilisation(world, target, phase * SYNC_S)


BUSY: Final = (0.95, 0.9, 0.8, 0.7, 0.6, 0.45, 0.3)
ONGOING: Final = (60.0, 25.0, 12.0, 7.0, 4.0, 2.2, 1.2)
CPU: Final = (90.0, 85.0, 80.0, 70.0, 60.0, 50.0, 35.0)
CONTENDERS: Final = (
    Contender(OURS, "BUSY", BUSY, headrace),
    Contender("Serve, prompt", "target_ongoing_requests", ONGOING, prompt),
    Contender("Serve, prompt and damped", "target_ongoing_requests", ONGOING, damped),
    Contender("Serve, as it comes", "target_ongoing_requests", ONGOING, as_it_comes),
    Contender("HPA on CPU", "averageUtilization", CPU, hpa),
)
