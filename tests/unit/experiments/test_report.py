from __future__ import annotations

import numpy as np
from tests.pairs import columns, counts, experiment, jittered

from headrace.experiments.comparison import Comparison
from headrace.experiments.gates import DEMO
from headrace.experiments.report import report
from headrace.v1 import experiments_pb2 as pb


def compared(pairs: int, seed: int = 0) -> Comparison:
    comparison = Comparison([75.0])
    comparison.add(columns(*jittered(np.random.default_rng(seed), pairs)), counts(pairs))
    return comparison


def made(of: pb.Experiment, noise: Comparison, since: Comparison | None = None) -> pb.Report:
    return report(
        of,
        compared(6_000),
        noise,
        timeline=[pb.Point(stage=pb.STAGE_SHADOW)],
        worst=[pb.Disagreement(incumbent=80, challenger=10)],
        failures=[pb.Failure(error=pb.PAIR_ERROR_LOST)] * 2,
        labelled=pb.LabelledFigures(labels=3),
        hours_in_stage=0.5,
        now_us=1_700_000_000_000_000,
        stage_comparison=since,
    )


def test_a_report_holds_figures_gates_and_what_they_say_together() -> None:
    found = made(experiment(gates=DEMO), compared(600, 1))

    assert found.verdict == pb.VERDICT_PASS
    assert [gate.verdict for gate in found.gates] == [pb.VERDICT_PASS] * 5
    assert (found.figures.pairs, found.noise.pairs) == (6_000, 600)
    assert (len(found.timeline), len(found.worst), len(found.failures), found.labelled.labels) == (1, 1, 2, 3)
    assert found.at.seconds == 1_700_000_000
    assert found.experiment.id == "a"


def test_without_pairs_of_noise_there_is_no_noise() -> None:
    assert not made(experiment(), Comparison([75.0])).HasField("noise")


def test_a_step_of_the_canary_is_judged_by_the_pairs_since_the_last_move() -> None:
    found = made(experiment(pb.STAGE_CANARY), compared(600, 1), since=compared(100))

    assert found.gates[0].measured == "0 answers of the challenger in 0.5 h"
    assert found.verdict == pb.VERDICT_WAIT
