"""Everything that is known of an experiment, as one message: figures, gates, verdict. It fetches nothing."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.experiments import gates
from headrace.experiments.comparison import Comparison
from headrace.v1 import experiments_pb2 as pb


def report(  # noqa: PLR0913 - everything there is
    experiment: pb.Experiment,
    comparison: Comparison,
    noise: Comparison,
    *,
    timeline: Iterable[pb.Point],
    worst: Iterable[pb.Disagreement],
    failures: Iterable[pb.Failure],
    labelled: pb.LabelledFigures | None,
    hours_in_stage: float,
    now_us: int,
    stage_comparison: Comparison | None = None,
) -> pb.Report:
    """One report. `stage_comparison`: of the pairs since the last move. Intervals are those of the plan's alpha."""
    alpha = gates.filled(experiment.plan.gates).alpha
    figures, noise_figures = comparison.figures(alpha), noise.figures(alpha)
    stage_figures = stage_comparison.figures(alpha) if stage_comparison is not None else None
    judged = gates.judge(experiment, figures, noise_figures, labelled, hours_in_stage, stage_figures)
    found = pb.Report(
        experiment=experiment,
        figures=figures,
        noise=noise_figures if noise_figures.pairs else None,
        gates=judged,
        verdict=gates.verdict(judged),
        timeline=timeline,
        worst=worst,
        failures=failures,
        labelled=labelled,
    )
    found.at.FromMicroseconds(now_us)
    return found
