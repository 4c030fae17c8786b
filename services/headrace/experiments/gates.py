"""What must hold before an experiment goes one step on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from headrace.v1 import experiments_pb2 as pb

DEFAULTS: Final = pb.Gates()
DEMO: Final = pb.Gates()


def filled(gates: pb.Gates) -> pb.Gates:
    """Every limit set, defaults where there was none. ValueError names the field."""
    raise NotImplementedError


def judge(
    experiment: pb.Experiment,
    figures: pb.Figures,
    noise: pb.Figures | None,
    labelled: pb.LabelledFigures | None,
    hours_in_stage: float,
    stage_figures: pb.Figures | None = None,
) -> list[pb.Gate]:
    """The gates of the next step."""
    raise NotImplementedError


def verdict(gates: Iterable[pb.Gate]) -> pb.Verdict:
    """What they say together: FAIL before CONSENT before WAIT before PASS."""
    raise NotImplementedError


def breached(gates: Iterable[pb.Gate]) -> list[pb.Gate]:
    """The guardrails that fail."""
    raise NotImplementedError
