"""What the pairs of one experiment say: sums, the pairs that are kept, the timeline, and what each gateway told.

Lives in memory and in the ledger; whoever calls opens the transaction, and drops this object when it fails: the ledger
knows what was true before. Used from the ledger's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from headrace.control import telling
from headrace.control.keeping import SAMPLE_ROWS, Failures, Sample, Whole, Worst
from headrace.control.ledger import Ledger
from headrace.control.timeline import Timeline
from headrace.errors import InvalidInference, Overloaded
from headrace.experiments.comparison import Comparison
from headrace.experiments.report import report
from headrace.v1 import experiments_pb2 as pb

ALL: Final = -1
"""The run that is all of them."""
CHALLENGER: Final = "challenger"
NOISE: Final = "noise"
SILENT_US: Final = 60_000_000
"""A gateway that has been silent for so long has lost what it had under way. A copy lives for seconds at most."""
MAX_GATEWAYS: Final = 1024
"""Gateways of one caller that are remembered: every start of one is another."""
FORGOTTEN_US: Final = 7 * 86_400_000_000
"""A gateway that has been silent for so long is counted for good."""


@dataclass(slots=True)
class Heard:
    """One gateway, as far as it has told."""

    sequence: int = 0
    heard_us: int = 0
    pending: int = 0
    """Rows chosen that are no pair and no drop yet."""
    noise_pending: int = 0


class Means(NamedTuple):
    """What evidence is made with."""

    ledger: Ledger
    random: np.random.Generator
    begun_us: int
    """When this control began to listen: before it, nobody was silent."""
    sample_rows: int = SAMPLE_ROWS


class Evidence:
    """Everything that is known of one experiment's pairs. Raises: NotServing, from every method."""

    def __init__(self, means: Means, experiment: pb.Experiment) -> None:
        self._ledger = means.ledger
        self._begun_us = means.begun_us
        self._id = experiment.id
        self._thresholds = tuple(experiment.plan.thresholds)
        self._run = len(experiment.moves)
        self._whole, self._stage = self._load(CHALLENGER, ALL), self._load(CHALLENGER, self._run)
        self._noise = self._load(NOISE, ALL)
        self._sample = Sample(means.ledger, experiment.id, means.random, means.sample_rows)
        self._worst = Worst(means.ledger, experiment.id, self._thresholds)
        self._failures = Failures(means.ledger, experiment.id)
        self.timeline = Timeline(means.ledger, experiment.id)
        self._gateways = {
            name: Heard(*values)
            for name, *values in means.ledger.rows(
                "SELECT gateway, sequence, heard_us, pending, noise_pending FROM gateways WHERE experiment = ?",
                (experiment.id,),
            )
        }
        self.changes = 0
        """Rises with everything that is told."""

    def assert_next(self, gateway: str, sequence: int) -> None:
        """Raises: InvalidInference for a number that its gateway has left behind; Overloaded for one gateway too many.

        A gateway tells one message at a time, so that it repeats its last one only: whoever is behind that is not the
        only one with its id, and must hear of it. A jump ahead is taken: what was between was refused, or a ledger has
        lost its end, or came from a backup; and how far a gateway was that nobody remembers, nobody knows.
        """
        heard = self._gateways.get(gateway)
        if heard is not None and sequence < heard.sequence:
            raise InvalidInference(f"sequence: {heard.sequence + 1} is expected, or the last once more; got {sequence}")
        who = telling.caller(gateway)
        if heard is None and sum(telling.caller(known) == who for known in self._gateways) >= MAX_GATEWAYS:
            raise Overloaded(f"{MAX_GATEWAYS} gateways of this caller are remembered: they are forgotten after a week")

    def take(self, request: pb.RecordPairsRequest, now_us: int) -> int:
        """Count a checked message, in the caller's transaction, unless it was counted before. Returns its new pairs."""
        heard = self._gateways.setdefault(request.gateway_id, Heard())
        heard.heard_us = now_us
        new = request.sequence > heard.sequence
        if new:
            heard.sequence = request.sequence
            heard.pending += telling.pending(request.pairs, request.counts)
            heard.noise_pending += telling.pending(request.noise, request.noise_counts)
            self._count(request)
        self._ledger.execute(
            "INSERT OR REPLACE INTO gateways VALUES (?, ?, ?, ?, ?, ?)",
            (self._id, request.gateway_id, heard.sequence, now_us, heard.pending, heard.noise_pending),
        )
        return len(request.pairs.at_us) + len(request.noise.at_us) if new else 0

    def write_sums(self) -> None:
        """Enter the sums as they are, in the caller's transaction: once for all the messages that it took."""
        sums = ((CHALLENGER, ALL, self._whole), (CHALLENGER, self._run, self._stage), (NOISE, ALL, self._noise))
        self._ledger.execute_each(
            "INSERT OR REPLACE INTO comparisons VALUES (?, ?, ?, ?)",
            ((self._id, run, kind, comparison.dump()) for kind, run, comparison in sums),
        )

    def turn(self) -> None:
        """A move was made: what comes now is counted as the next stage's."""
        self._run += 1
        self._stage = Comparison(self._thresholds)
        self.changes += 1

    def report(self, experiment: pb.Experiment, labelled: pb.LabelledFigures | None, now_us: int) -> pb.Report:
        """Figures, gates, the worst and the failed, now."""
        begun_us = experiment.moves[-1].at.ToMicroseconds()
        lost, noise_lost = self._lost(now_us)
        stage_lost, _ = self._lost(now_us, since_us=begun_us)
        return report(
            experiment,
            self._less(self._whole, lost),
            self._less(self._noise, noise_lost),
            timeline=self.timeline.points(),
            worst=self._worst.found,
            failures=self._failures.found,
            labelled=labelled,
            hours_in_stage=max(0, now_us - begun_us) / 3.6e9,
            now_us=now_us,
            stage_comparison=self._less(self._stage, stage_lost),
        )

    def forget(self, now_us: int) -> None:
        """Count the rows of gateways that are gone for good as lost, in the caller's transaction.

        Called behind whoever deletes old pairs.
        """
        self._sample.recount()
        gone = [name for name, heard in self._gateways.items() if now_us - heard.heard_us > FORGOTTEN_US]
        for name in gone:
            heard = self._gateways.pop(name)
            _lose(self._whole, heard.pending)
            _lose(self._noise, heard.noise_pending)
            self._ledger.execute("DELETE FROM gateways WHERE experiment = ? AND gateway = ?", (self._id, name))
        if gone:
            self.write_sums()

    def _count(self, request: pb.RecordPairsRequest) -> None:
        self._whole.add(request.pairs, request.counts)
        self._stage.add(request.pairs, request.counts)
        self._noise.add(request.noise, request.noise_counts)
        whole = Whole(request.pairs)
        self._sample.draw(whole)
        self._worst.take(whole)
        self._failures.take(request.pairs)
        self.changes += 1

    def _load(self, kind: str, run: int) -> Comparison:
        found = self._ledger.rows(
            "SELECT sums FROM comparisons WHERE experiment = ? AND kind = ? AND run = ?", (self._id, kind, run)
        )
        return Comparison.load(found[0][0]) if found else Comparison(self._thresholds)

    def _lost(self, now_us: int, since_us: int = 0) -> tuple[int, int]:
        """Rows of gateways that are silent. Looked at anew each time: one that comes back takes its rows back."""
        if now_us - self._begun_us <= SILENT_US:
            return 0, 0
        silent = [heard for heard in self._gateways.values() if since_us <= heard.heard_us < now_us - SILENT_US]
        return sum(max(0, heard.pending) for heard in silent), sum(max(0, heard.noise_pending) for heard in silent)

    def _less(self, comparison: Comparison, lost: int) -> Comparison:
        """The same with rows that were lost with their gateways."""
        if not lost:
            return comparison
        found = Comparison(self._thresholds)
        found.merge(comparison)
        _lose(found, lost)
        return found


def _lose(comparison: Comparison, rows: int) -> None:
    if rows > 0:
        comparison.add(pb.PairColumns(), pb.SampleCounts(drops={telling.GATEWAY: rows}))
