"""The pairs of an experiment that are kept one by one: a sample for their outcomes, the worst and failed for people.

Written in the transaction of whoever calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from headrace.control.ledger import Ledger
from headrace.control.telling import at
from headrace.v1 import experiments_pb2 as pb

SAMPLE_ROWS: Final = 100_000
"""Pairs that are kept for their outcomes, of each experiment, at most."""
CHANCES: Final = 1 << 32
WORST: Final = 50
FAILURES: Final = 5
"""Of each kind, of callers and of copies."""


class Sample:
    """A uniform sample of the pairs that have both values: half of `rows` at least, once there were so many.

    Each pair draws a number, and stays while that is below a bound; the bound is halved when too many stay. A reservoir
    of slots would write to random pages of the file, with every pair. Raises: NotServing, from every method.
    """

    def __init__(self, ledger: Ledger, experiment: str, random: np.random.Generator, rows: int = SAMPLE_ROWS) -> None:
        self._ledger = ledger
        self._experiment = experiment
        self._random = random
        self._rows = rows
        ((self._drawn, self._halvings),) = ledger.rows(
            "SELECT drawn, halvings FROM experiments WHERE id = ?", (experiment,)
        )
        self.recount()

    def recount(self) -> None:
        """Somebody else has deleted pairs: those that are gone must make no others go."""
        ((self._kept,),) = self._ledger.rows("SELECT COUNT(*) FROM pairs WHERE experiment = ?", (self._experiment,))

    def draw(self, pairs: Whole) -> None:
        """Let pairs in by chance, and others go when they are too many."""
        chances = self._random.integers(0, CHANCES, len(pairs.index))
        stay = np.flatnonzero(chances < CHANCES >> self._halvings)
        self._ledger.execute_each(
            "INSERT INTO pairs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (self._experiment, self._drawn + i, int(chances[i]), *pairs.row(int(pairs.index[i])))
                for i in stay.tolist()
            ),
        )
        self._drawn += len(pairs.index)
        self._kept += len(stay)
        while self._kept > self._rows:
            self._halve()
        self._ledger.execute(
            "UPDATE experiments SET drawn = ?, halvings = ? WHERE id = ?",
            (self._drawn, self._halvings, self._experiment),
        )

    def _halve(self) -> None:
        self._halvings += 1
        self._kept -= self._ledger.execute(
            "DELETE FROM pairs WHERE experiment = ? AND chance >= ?", (self._experiment, CHANCES >> self._halvings)
        )


class Worst:
    """The pairs that differ most: those first that change a decision. Raises: NotServing, from every method."""

    def __init__(self, ledger: Ledger, experiment: str, thresholds: tuple[float, ...]) -> None:
        self._ledger = ledger
        self._experiment = experiment
        self._thresholds = thresholds
        self.found = list(_worst(ledger, experiment))

    def take(self, pairs: Whole) -> None:
        """Keep those that are worse than what is kept."""
        flips = np.zeros(len(pairs.index), bool)
        for cut in self._thresholds:
            flips |= (pairs.incumbent >= cut) != (pairs.challenger >= cut)
        size = np.abs(pairs.challenger - pairs.incumbent)
        floor = _badness(self.found[-1]) if len(self.found) == WORST else (False, 0.0)
        order = np.lexsort((size, flips))[::-1][:WORST]
        new = [
            pairs.disagreement(int(pairs.index[i]), flips=bool(flips[i]))
            for i in order
            if (bool(flips[i]), float(size[i])) > floor
        ]
        if not new:
            return
        self.found = sorted((*self.found, *new), key=_badness, reverse=True)[:WORST]
        self._ledger.execute_each(
            "INSERT OR REPLACE INTO worst VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((self._experiment, place, *_row(one)) for place, one in enumerate(self.found)),
        )


class Failures:
    """Pairs that the challenger failed of late, a few of each kind. Raises: NotServing, from every method."""

    def __init__(self, ledger: Ledger, experiment: str) -> None:
        self._ledger = ledger
        self._experiment = experiment
        self.found = list(_failures(ledger, experiment))

    def take(self, columns: pb.PairColumns) -> None:
        """Keep the newest, and let as many others go."""
        new = _failed(columns)
        if not new:
            return
        kept: Counter[tuple[int, bool]] = Counter()
        before, self.found = self.found, []
        for one in (*new, *before):
            kind = one.error, one.canary
            kept[kind] += 1
            if kept[kind] <= FAILURES:
                self.found.append(one)
        self._ledger.execute_each(
            "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    self._experiment,
                    place,
                    one.at.ToMicroseconds(),
                    pb.PairError.Name(one.error),
                    one.canary,
                    one.both,
                    one.trace_id,
                )
                for place, one in enumerate(self.found)
            ),
        )


class Whole:
    """The pairs of a message that have both values."""

    def __init__(self, columns: pb.PairColumns) -> None:
        self._columns = columns
        n = len(columns.incumbent)
        incumbent, challenger = np.fromiter(columns.incumbent, float, n), np.fromiter(columns.challenger, float, n)
        valued = np.isfinite(incumbent) & np.isfinite(challenger)
        for errors in (columns.incumbent_error, columns.challenger_error):
            if errors:
                valued &= np.fromiter(errors, int, n) == pb.PAIR_ERROR_UNSPECIFIED
        self.index = np.flatnonzero(valued)
        self.incumbent, self.challenger = incumbent[self.index], challenger[self.index]

    def row(self, i: int) -> tuple[Any, ...]:
        """As the table `pairs` has it, from `at_us` on."""
        columns = self._columns
        entity = at(columns.entity, i, 0)
        return (
            columns.at_us[i],
            at(columns.event_id, i, ""),
            entity - (1 << 64) if entity >> 63 else entity,  # SQLite's integers have a sign
            columns.incumbent[i],
            columns.challenger[i],
            at(columns.incumbent_p, i, None),
            at(columns.challenger_p, i, None),
            at(columns.amount, i, None),
            at(columns.currency, i, ""),
            _trace_id(columns, i),
        )

    def disagreement(self, i: int, *, flips: bool) -> pb.Disagreement:
        columns = self._columns
        found = pb.Disagreement(
            incumbent=columns.incumbent[i],
            challenger=columns.challenger[i],
            trace_id=_trace_id(columns, i).hex(),
            currency=at(columns.currency, i, ""),
            flips=flips,
        )
        found.at.FromMicroseconds(columns.at_us[i])
        if np.isfinite(amount := at(columns.amount, i, np.nan)):
            found.amount = amount
        return found


def _failed(columns: pb.PairColumns) -> list[pb.Failure]:
    """Of one message, the newest first: rows of one request fail together, and are one."""
    seen: Counter[tuple[int, bool]] = Counter()
    traces: set[bytes | int] = set()
    found = []
    for i in np.flatnonzero(np.fromiter(columns.challenger_error, int))[::-1].tolist():
        kind, trace = (columns.challenger_error[i], at(columns.canary, i, False)), _trace_id(columns, i) or i
        if seen[kind] == FAILURES or trace in traces:
            continue
        seen[kind] += 1
        traces.add(trace)
        found.append(_failure(columns, i))
    return found


def _failure(columns: pb.PairColumns, i: int) -> pb.Failure:
    found = pb.Failure(
        error=columns.challenger_error[i],
        canary=at(columns.canary, i, False),
        both=at(columns.incumbent_error, i, 0) != pb.PAIR_ERROR_UNSPECIFIED,
        trace_id=_trace_id(columns, i).hex(),
    )
    found.at.FromMicroseconds(columns.at_us[i])
    return found


def _failures(ledger: Ledger, experiment: str) -> Iterator[pb.Failure]:
    found = ledger.rows(
        "SELECT at_us, error, canary, both, trace_id FROM failures WHERE experiment = ? ORDER BY place", (experiment,)
    )
    for at_us, error, canary, both, trace_id in found:
        one = pb.Failure(error=error, canary=canary, both=both, trace_id=trace_id)
        one.at.FromMicroseconds(at_us)
        yield one


def _trace_id(columns: pb.PairColumns, i: int) -> bytes:
    return columns.trace_ids[16 * i : 16 * i + 16]


def _badness(one: pb.Disagreement) -> tuple[bool, float]:
    return one.flips, abs(one.challenger - one.incumbent)


def _row(one: pb.Disagreement) -> tuple[Any, ...]:
    """As the table `worst` has it, from `at_us` on."""
    amount = one.amount if one.HasField("amount") else None
    return one.at.ToMicroseconds(), one.incumbent, one.challenger, one.flips, amount, one.currency, one.trace_id


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
