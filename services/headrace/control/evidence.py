"""What the pairs of one experiment say: sums, a uniform sample, the worst, the timeline, and who has told how much.

Lives in memory and in the ledger; whoever calls opens the transaction, and drops this object when it fails: the ledger
knows what was true before. Used from the ledger's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace.control.ledger import Ledger
from headrace.errors import InvalidInference
from headrace.experiments.comparison import Comparison
from headrace.experiments.report import report
from headrace.v1 import experiments_pb2 as pb

SAMPLE_ROWS: Final = 100_000
"""Pairs that are kept for their outcomes, of each experiment."""
WORST: Final = 50
TIMELINE_US: Final = 10_000_000
TIMELINE_POINTS: Final = 720
"""Twice as many, and every second one goes: the points of the moves stay."""
SILENT_US: Final = 60_000_000
"""A gateway that has been silent for so long has lost what it had under way. A copy lives for seconds at most."""
FORGOTTEN_US: Final = 7 * 86_400_000_000
"""A gateway that has been silent for so long is counted for good."""
AHEAD_US: Final = 86_400_000_000
MAX_ROWS: Final = 50_000
MAX_TEXT: Final = 256
MAX_CAUSES: Final = 32
GATEWAY: Final = "gateway"
"""The cause of rows that were lost with their gateway."""
Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Heard:
    """One gateway, as far as it has told."""

    sequence: int = 0
    heard_us: int = 0
    pending: int = 0
    """Rows chosen that are no pair and no drop yet."""
    noise_pending: int = 0


@dataclass(slots=True)
class Sums:
    """Sums of one kind: before the last move, and since."""

    kind: str
    past: Comparison
    run: Comparison

    def whole(self, lost: int) -> Comparison:
        """All of it; `lost` rows went with their gateways."""
        return _joined((self.past, self.run), lost)

    def stage(self, lost: int) -> Comparison:
        """What has come since the last move."""
        return _joined((self.run,), lost)


@dataclass(slots=True)
class Told:
    """What one message says, checked and counted apart: a wrong one changes nothing."""

    request: pb.RecordPairsRequest
    pairs: Comparison
    noise: Comparison

    @classmethod
    def read(cls, request: pb.RecordPairsRequest, thresholds: Iterable[float], now_us: int) -> Told:
        """Check a message and count it. Raises: InvalidInference naming the field."""
        if not request.gateway_id or len(request.gateway_id) > MAX_TEXT:
            raise InvalidInference(f"gateway_id: 1 to {MAX_TEXT} characters")
        if not request.sequence:
            raise InvalidInference("sequence: counted from 1")
        cuts = tuple(thresholds)
        told = cls(request, Comparison(cuts), Comparison(cuts))
        for name, counts_name, comparison in (("pairs", "counts", told.pairs), ("noise", "noise_counts", told.noise)):
            columns, counts = getattr(request, name), getattr(request, counts_name)
            _check(columns, counts, name, counts_name, now_us)
            try:
                comparison.add(columns, counts)
            except ValueError as error:
                raise InvalidInference(f"{name}: {error}") from error
        return told


@dataclass(slots=True)
class Evidence:
    """Everything that is known of one experiment's pairs. `run`: moves made so far."""

    ledger: Ledger
    experiment: str
    run: int
    thresholds: tuple[float, ...]
    random: np.random.Generator
    begun_us: int
    """When this control began to hear: nobody is silent for longer than that."""
    sample_rows: int = SAMPLE_ROWS
    changes: int = 0
    """Rises with everything that is told."""
    _sums: tuple[Sums, ...] = ()
    _gateways: dict[str, Heard] = field(default_factory=dict)
    _worst: list[pb.Disagreement] = field(default_factory=list)
    _drawn: int = 0
    _last_point_us: int = 0

    def __post_init__(self) -> None:
        self._sums = tuple(Sums(kind, *self._load(kind)) for kind in ("challenger", "noise"))
        of_this = (self.experiment,)
        found = self.ledger.rows(
            "SELECT gateway, sequence, heard_us, pending, noise_pending FROM gateways WHERE experiment = ?", of_this
        )
        self._gateways = {name: Heard(*values) for name, *values in found}
        ((self._drawn,),) = self.ledger.rows("SELECT drawn FROM experiments WHERE id = ?", of_this)
        ((last,),) = self.ledger.rows("SELECT MAX(at_us) FROM timeline WHERE experiment = ?", of_this)
        self._last_point_us = last or 0
        self._worst = list(_worst(self.ledger, self.experiment))

    def take(self, told: Told, now_us: int) -> bool:
        """Count a message, in the caller's transaction. False: it was counted before."""
        request = told.request
        heard = self._gateways.setdefault(request.gateway_id, Heard())
        heard.heard_us = now_us
        if new := request.sequence > heard.sequence:
            heard.sequence = request.sequence
            heard.pending += _pending(request.pairs, request.counts)
            heard.noise_pending += _pending(request.noise, request.noise_counts)
            pairs, noise = self._sums
            pairs.run.merge(told.pairs)
            noise.run.merge(told.noise)
            self._keep(request.pairs)
            self.changes += 1
        self.ledger.execute(
            "INSERT OR REPLACE INTO gateways VALUES (?, ?, ?, ?, ?, ?)",
            (self.experiment, request.gateway_id, heard.sequence, now_us, heard.pending, heard.noise_pending),
        )
        return new

    def write_sums(self) -> None:
        """Enter the sums as they are, in the caller's transaction: once for all the messages that it took."""
        for sums in self._sums:
            self.ledger.execute(
                "INSERT OR REPLACE INTO comparisons VALUES (?, ?, ?, ?)",
                (self.experiment, self.run, sums.kind, sums.run.dump()),
            )
        self.ledger.execute("UPDATE experiments SET drawn = ? WHERE id = ?", (self._drawn, self.experiment))

    def turn(self) -> None:
        """A move was made: what comes now is counted apart."""
        self.run += 1
        for sums in self._sums:
            sums.past.merge(sums.run)
            sums.run = Comparison(self.thresholds)
        self.changes += 1

    def report(
        self, experiment: pb.Experiment, labelled: pb.LabelledFigures | None, begun_us: int, now_us: int
    ) -> pb.Report:
        """Figures, gates and the worst, now; the stage began at `begun_us`."""
        pairs, noise = self._sums
        lost, noise_lost = self._lost(now_us, begun_us=0)
        return report(
            experiment,
            pairs.whole(lost),
            noise.whole(noise_lost),
            timeline=self.timeline(),
            worst=self._worst,
            labelled=labelled,
            hours_in_stage=max(0, now_us - begun_us) / 3.6e9,
            now_us=now_us,
            stage_comparison=pairs.stage(self._lost(now_us, begun_us)[0]),
        )

    def timeline(self) -> list[pb.Point]:
        found = self.ledger.rows(
            "SELECT at_us, stage, events, trials, lower, upper FROM timeline WHERE experiment = ? ORDER BY at_us",
            (self.experiment,),
        )
        return [_point(*values) for values in found]

    def due(self, now_us: int) -> bool:
        """The timeline lacks a point."""
        return now_us - self._last_point_us >= TIMELINE_US

    def mark(self, figures: pb.Figures, stage: pb.Stage, now_us: int, *, moved: bool = False) -> None:
        """Enter a point of the timeline, in the caller's transaction."""
        if not figures.flips:
            return
        rate = max((flips.rate for flips in figures.flips), key=lambda rate: rate.events)
        ends = rate.interval.lower, rate.interval.upper
        self.ledger.execute(
            "INSERT OR REPLACE INTO timeline VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (self.experiment, now_us, pb.Stage.Name(stage), moved, rate.events, rate.trials, *ends),
        )
        self._last_point_us = now_us
        self._thin()

    def forget(self, now_us: int) -> None:
        """Count the rows of gateways that are gone for good as lost, in the caller's transaction."""
        gone = [name for name, heard in self._gateways.items() if now_us - heard.heard_us > FORGOTTEN_US]
        for name in gone:
            heard = self._gateways.pop(name)
            for sums, pending in zip(self._sums, (heard.pending, heard.noise_pending), strict=True):
                _lose(sums.run, pending)
            self.ledger.execute("DELETE FROM gateways WHERE experiment = ? AND gateway = ?", (self.experiment, name))
        if gone:
            self.write_sums()

    def _load(self, kind: str) -> tuple[Comparison, Comparison]:
        past, run = Comparison(self.thresholds), Comparison(self.thresholds)
        found = self.ledger.rows(
            "SELECT run, sums FROM comparisons WHERE experiment = ? AND kind = ?", (self.experiment, kind)
        )
        for number, sums in found:
            (run if number == self.run else past).merge(Comparison.load(sums))
        return past, run

    def _lost(self, now_us: int, begun_us: int) -> tuple[int, int]:
        """Rows of gateways that are silent. Looked at anew each time: a gateway that comes back takes its rows back."""
        if now_us - self.begun_us <= SILENT_US:
            return 0, 0
        silent = [heard for heard in self._gateways.values() if begun_us <= heard.heard_us < now_us - SILENT_US]
        return sum(max(0, heard.pending) for heard in silent), sum(max(0, heard.noise_pending) for heard in silent)

    def _keep(self, columns: pb.PairColumns) -> None:
        """Draw the sample (Vitter's algorithm R: each pair stays with the same chance) and remember the worst."""
        rows = _Rows(columns)
        places = self._drawn + np.arange(len(rows.index))
        slots = np.where(places < self.sample_rows, places, self.random.integers(0, places + 1))
        kept = np.flatnonzero(slots < self.sample_rows)
        self._drawn += len(rows.index)
        self.ledger.execute_each(
            "INSERT OR REPLACE INTO pairs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((self.experiment, int(slots[i]), *rows.of_sample(int(rows.index[i]))) for i in kept),
        )
        self._remember(rows)

    def _remember(self, rows: _Rows) -> None:
        flips = np.zeros(len(rows.index), bool)
        for cut in self.thresholds:
            flips |= (rows.incumbent >= cut) != (rows.challenger >= cut)
        size = np.abs(rows.challenger - rows.incumbent)
        floor = _badness(self._worst[-1]) if len(self._worst) == WORST else (False, 0.0)
        order = np.lexsort((size, flips))[::-1][:WORST]
        found = [
            rows.disagreement(int(rows.index[i]), flips=bool(flips[i]))
            for i in order
            if (bool(flips[i]), float(size[i])) > floor
        ]
        if not found:
            return
        self._worst = sorted((*self._worst, *found), key=_badness, reverse=True)[:WORST]
        self.ledger.execute_each(
            "INSERT OR REPLACE INTO worst VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((self.experiment, place, *_row(one)) for place, one in enumerate(self._worst)),
        )

    def _thin(self) -> None:
        of_this = (self.experiment,)
        ((count,),) = self.ledger.rows("SELECT COUNT(*) FROM timeline WHERE experiment = ? AND NOT moved", of_this)
        if count < 2 * TIMELINE_POINTS:
            return
        self.ledger.execute(
            "DELETE FROM timeline WHERE experiment = ? AND at_us IN (SELECT at_us FROM (SELECT at_us, ROW_NUMBER() OVER"
            " (ORDER BY at_us) AS number FROM timeline WHERE experiment = ? AND NOT moved) WHERE number % 2 = 0)",
            (self.experiment, self.experiment),
        )


class _Rows:
    """The pairs of a message that have both values."""

    def __init__(self, columns: pb.PairColumns) -> None:
        self._columns = columns
        incumbent, challenger = np.asarray(columns.incumbent, float), np.asarray(columns.challenger, float)
        self.index = np.flatnonzero(np.isfinite(incumbent) & np.isfinite(challenger))
        self.incumbent, self.challenger = incumbent[self.index], challenger[self.index]

    def of_sample(self, i: int) -> tuple[Any, ...]:
        """As the table `pairs` has it, from `at_us` on."""
        columns = self._columns
        return (
            columns.at_us[i],
            _at(columns.event_id, i, ""),
            int(np.uint64(_at(columns.entity, i, 0)).astype(np.int64)),
            columns.incumbent[i],
            columns.challenger[i],
            _at(columns.incumbent_p, i, None),
            _at(columns.challenger_p, i, None),
            _at(columns.amount, i, None),
            _at(columns.currency, i, ""),
            self._trace(i),
        )

    def disagreement(self, i: int, *, flips: bool) -> pb.Disagreement:
        columns = self._columns
        found = pb.Disagreement(
            incumbent=columns.incumbent[i],
            challenger=columns.challenger[i],
            trace_id=self._trace(i).hex(),
            currency=_at(columns.currency, i, ""),
            flips=flips,
        )
        found.at.FromMicroseconds(columns.at_us[i])
        if np.isfinite(amount := _at(columns.amount, i, np.nan)):
            found.amount = amount
        return found

    def _trace(self, i: int) -> bytes:
        return self._columns.trace_ids[16 * i : 16 * i + 16]


def _at(column: Any, i: int, otherwise: Any) -> Any:
    return column[i] if column else otherwise


def _check(columns: pb.PairColumns, counts: pb.SampleCounts, name: str, counts_name: str, now_us: int) -> None:
    """What the ledger needs beyond what a comparison asks for. Raises: InvalidInference naming the field."""
    rows = len(columns.at_us)
    if rows > MAX_ROWS:
        raise InvalidInference(f"{name}: {rows} rows, {MAX_ROWS} at most")
    if len(columns.incumbent) != rows or len(columns.challenger) != rows:
        raise InvalidInference(f"{name}.incumbent, {name}.challenger: an entry for each of {rows} rows is asked for")
    if any(not 0 < at <= now_us + AHEAD_US for at in columns.at_us):
        raise InvalidInference(f"{name}.at_us: lies before 1970 or more than a day ahead")
    if any(len(text) > MAX_TEXT for text in columns.event_id):
        raise InvalidInference(f"{name}.event_id: {MAX_TEXT} characters at most")
    if any(text and not (len(text) == 3 and text.isascii() and text.isalpha()) for text in columns.currency):
        raise InvalidInference(f"{name}.currency: an ISO code of 3 letters, or nothing")
    if len(counts.drops) > MAX_CAUSES or any(not 0 < len(cause) <= MAX_TEXT for cause in counts.drops):
        raise InvalidInference(f"{counts_name}.drops: {MAX_CAUSES} causes of {MAX_TEXT} characters at most")
    if GATEWAY in counts.drops:
        raise InvalidInference(f"{counts_name}.drops: '{GATEWAY}' is counted by control")


def _pending(columns: pb.PairColumns, counts: pb.SampleCounts) -> int:
    return int(counts.sampled - len(columns.at_us) - sum(counts.drops.values()))


def _joined(parts: Iterable[Comparison], lost: int) -> Comparison:
    parts = tuple(parts)
    found = Comparison(parts[0].thresholds)
    for part in parts:
        found.merge(part)
    _lose(found, lost)
    return found


def _lose(comparison: Comparison, rows: int) -> None:
    if rows > 0:
        comparison.add(pb.PairColumns(), pb.SampleCounts(drops={GATEWAY: rows}))


def _badness(one: pb.Disagreement) -> tuple[bool, float]:
    return one.flips, abs(one.challenger - one.incumbent)


def _row(one: pb.Disagreement) -> tuple[Any, ...]:
    """As the table `worst` has it, from `at_us` on."""
    amount = one.amount if one.HasField("amount") else None
    return (
        one.at.ToMicroseconds(), one.incumbent, one.challenger, one.flips, amount, one.currency, one.trace_id
    )  # fmt: skip


def _worst(ledger: Ledger, experiment: str) -> Iterator[pb.Disagreement]:
    found = ledger.rows(
        "SELECT at_us, incumbent, challenger, flips, amount, currency, trace_id FROM worst"
        " WHERE experiment = ? ORDER BY place",
        (experiment,),
    )
    for at_us, incumbent, challenger, flips, amount, currency, trace_id in found:
        one = pb.Disagreement(
            incumbent=incumbent, challenger=challenger, flips=flips, amount=amount, currency=currency, trace_id=trace_id
        )
        one.at.FromMicroseconds(at_us)
        yield one


def _point(at_us: int, stage: str, events: int, trials: int, lower: float, upper: float) -> pb.Point:
    rate = pb.Rate(events=events, trials=trials, interval=pb.Interval(lower=lower, upper=upper))
    point = pb.Point(flips=rate, stage=stage)
    point.at.FromMicroseconds(at_us)
    return point
