"""Pairs that a gateway tells, at control: refused by a field's name, or counted; and those beside them always are."""

from __future__ import annotations

from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from tests import experiments
from tests.fuzz.targets.target import Target

from headrace.control import telling
from headrace.control.discovery import Version
from headrace.control.ledger import Ledger
from headrace.control.trials import Trials
from headrace.errors import HeadraceError, InvalidInference
from headrace.v1 import experiments_pb2 as pb

VERSIONS: Final = {version: Version(experiments.spec(version), ready=True) for version in ("1", "2")}


def begun() -> Trials:
    """A control of one experiment, in memory."""
    found = Trials(Ledger(":memory:"), lambda: experiments.NOW_US, (75,), np.random.default_rng(0), 100)
    asked = pb.CreateExperimentRequest(id="e", model="m", incumbent="1", challenger="2", start=True, why="new")
    found.begin(asked, "ann", VERSIONS)
    return found


def check(data: bytes) -> None:
    """A good message rides in the same transaction: it is counted, whatever becomes of the other one."""
    try:
        message = pb.RecordPairsRequest.FromString(data)
        telling.check_bounds(message)
    except (DecodeError, InvalidInference):
        return
    trials = begun()
    error, fine = trials.record([message, experiments.message(1, 2, gateway="beside")])
    assert fine is None
    assert error is None or isinstance(error, HeadraceError)
    figures = trials.report("e").figures
    assert figures.pairs == 2 + (len(message.pairs.at_us) if error is None else 0)
    assert all(0 <= rate.events <= rate.trials for rate in (figures.incumbent_failures, figures.challenger_failures))


TARGET: Final = Target(
    [
        experiments.message(1, 3).SerializeToString(),
        experiments.message(2, 2, flips=1, errors=1, lost=1).SerializeToString(),
    ],
    check,
    ("headrace.control.telling", "headrace.control.evidence", "headrace.experiments.rows"),
    pb.RecordPairsRequest,
)
