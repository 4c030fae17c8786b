"""Everything that is known of an experiment, as one message."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.experiments.comparison import Comparison
from headrace.v1 import experiments_pb2 as pb


def report(
    experiment: pb.Experiment,
    comparison: Comparison,
    noise: Comparison,
    *,
    timeline: Iterable[pb.Point],
    worst: Iterable[pb.Disagreement],
    labelled: pb.LabelledFigures | None,
    hours_in_stage: float,
    now_us: int,
    stage_comparison: Comparison | None = None,
) -> pb.Report:
    """One report. `stage_comparison`: of the pairs since the last move; `experiment.plan` has its defaults."""
    raise NotImplementedError
