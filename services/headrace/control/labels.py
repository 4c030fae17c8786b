"""Outcomes, and the sampled pairs they belong to. They come weeks later, before their pairs, twice, or never.

Rows in, arrays out; what they say is computed elsewhere (`experiments.outcomes`), on no thread that anybody waits for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.control.ledger import Ledger
from headrace.errors import InvalidInference
from headrace.experiments import outcomes as outcomes_
from headrace.v1 import experiments_pb2 as pb

KEPT_US: Final = 180 * 86_400_000_000
"""Outcomes and sampled pairs are kept so long: chargebacks are over by then."""
MAX_KEPT: Final = 2_000_000
"""Outcomes that are kept; the oldest make room."""
MAX_OUTCOMES: Final = 10_000
MAX_ID: Final = 256
RENEWED_US: Final = 600_000_000
"""Labels mature by time alone: they are computed anew this often, if nothing else asks for it."""
REST: Final = 10
"""A computation rests for so many times what it took."""
FAILED_US: Final = 60_000_000
"""One that has failed is tried again after this time."""
Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Labels:
    """What outcomes said when they were looked at last."""

    figures: pb.LabelledFigures | None = None
    stale: bool = True
    """An outcome has come since."""
    computed_us: int = 0
    took_us: int = 0
    known: bool = False
    """They were computed, and the last time did not fail. Until then `figures` is None because nobody knows."""

    def due(self, now_us: int) -> bool:
        age_us = now_us - self.computed_us
        return age_us >= RENEWED_US or (self.stale and age_us >= REST * self.took_us)

    def begin(self, now_us: int) -> None:
        """They are being computed; nobody else needs to."""
        self.stale, self.computed_us = False, now_us

    def settle(self, figures: pb.LabelledFigures | None, begun_us: int, now_us: int) -> None:
        """Keep what was computed."""
        self.figures, self.computed_us, self.took_us, self.known = figures, now_us, now_us - begun_us, True

    def fail(self, now_us: int) -> None:
        """Nothing was computed: what was said before need not hold any more."""
        self.figures, self.computed_us, self.took_us, self.known = None, now_us, FAILED_US // REST, False
        self.stale = True


class Matured(NamedTuple):
    """Pairs whose time to have an outcome is over: an entry a pair."""

    incumbent: Floats
    challenger: Floats
    fraud: npt.NDArray[np.bool_]
    entity: npt.NDArray[np.uint64]
    p: tuple[Floats, Floats] | None
    alpha: float

    def figures(self) -> pb.LabelledFigures:
        """What they say. Takes seconds for a full sample."""
        p_incumbent, p_challenger = self.p or (None, None)
        values = self.incumbent, self.challenger, self.fraud, self.entity, p_incumbent, p_challenger
        return outcomes_.labelled(*values, alpha=self.alpha)


def record(ledger: Ledger, outcomes: Iterable[pb.Outcome], now_us: int) -> int:
    """Keep outcomes, in the caller's transaction; how many belong to a sampled pair. The latest word counts.

    Raises: InvalidInference naming the field, and nothing is kept; NotServing.
    """
    outcomes = list(outcomes)
    if len(outcomes) > MAX_OUTCOMES:
        raise InvalidInference(f"outcomes: {len(outcomes)}, {MAX_OUTCOMES} at most")
    for i, outcome in enumerate(outcomes):
        if not 0 < len(outcome.event_id) <= MAX_ID:
            raise InvalidInference(f"outcomes[{i}].event_id: 1 to {MAX_ID} characters")
    ledger.execute_each(
        "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)",
        ((one.event_id, one.fraud, _at_us(one, i, now_us), now_us) for i, one in enumerate(outcomes)),
    )
    known = "SELECT EXISTS (SELECT 1 FROM pairs WHERE event_id = ? AND event_id <> '')"
    return sum(ledger.rows(known, (event_id,))[0][0] for event_id in {outcome.event_id for outcome in outcomes})


def matured(ledger: Ledger, experiment: pb.Experiment, now_us: int) -> Matured | None:
    """The sampled pairs that are old enough to have a label. None: not one has an outcome, so absence says nothing.

    Those with an early outcome wait as well: fraud is told first, and taken as it comes it would be most of the labels.

    Raises: NotServing.
    """
    ripe_us = now_us - round(experiment.plan.label_delay_s * 1e6)
    rows = ledger.rows(
        "SELECT incumbent, challenger, fraud, entity, incumbent_p, challenger_p FROM pairs"
        " LEFT JOIN outcomes USING (event_id) WHERE experiment = ? AND event_id <> ''"
        " AND pairs.at_us < ?",
        (experiment.id, ripe_us),
    )
    if not any(row[2] is not None for row in rows):
        return None
    incumbent, challenger, fraud, entity, *p = zip(*rows, strict=True)
    values = np.array(incumbent, float), np.array(challenger, float)
    chances = values if experiment.plan.output == "p" else (np.array(p[0], float), np.array(p[1], float))
    return Matured(
        *values,
        np.array([bool(label) for label in fraud]),
        np.array(entity, np.int64).view(np.uint64),
        chances if np.isfinite(chances).all() else None,
        experiment.plan.gates.alpha,
    )


def awaited(ledger: Ledger) -> pb.Gate | None:
    """The gate of an experiment whose labels are not known: closed, unless there is no outcome at all.

    Raises: NotServing.
    """
    ((any_is_there,),) = ledger.rows("SELECT EXISTS (SELECT 1 FROM outcomes)")
    if not any_is_there:
        return None
    return pb.Gate(
        name="labels",
        verdict=pb.VERDICT_WAIT,
        measured="not computed yet",
        limit="what outcomes say",
        remark="it is computed within a minute",
    )


def forget(ledger: Ledger, now_us: int) -> None:
    """Delete what is too old or too much, in the caller's transaction. Raises: NotServing."""
    ledger.execute("DELETE FROM outcomes WHERE heard_us < ?", (now_us - KEPT_US,))
    ledger.execute("DELETE FROM pairs WHERE at_us < ?", (now_us - KEPT_US,))
    ((count,),) = ledger.rows("SELECT COUNT(*) FROM outcomes")
    if count > MAX_KEPT:
        ledger.execute(
            "DELETE FROM outcomes WHERE event_id IN (SELECT event_id FROM outcomes ORDER BY heard_us LIMIT ?)",
            (count - MAX_KEPT,),
        )


def _at_us(outcome: pb.Outcome, i: int, now_us: int) -> int:
    if not outcome.HasField("at"):
        return now_us
    try:
        return int(outcome.at.ToMicroseconds())
    except ValueError as error:
        raise InvalidInference(f"outcomes[{i}].at: {error}") from error
