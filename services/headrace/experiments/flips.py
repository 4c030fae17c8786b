"""Decisions that differ: at each threshold, by direction, by currency and its money.

A value of a threshold or more is blocked. Money is counted in whole thousandths of a currency's unit: sums come out the
same in whichever order they are added. Currencies are the caller's words, so their number is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from headrace.experiments.agreement import delta
from headrace.experiments.confidence import rate_interval
from headrace.experiments.rows import Ints, Mask, Rows
from headrace.v1 import experiments_pb2 as pb

MOST_CURRENCIES: Final = 200
"""More than there are in ISO 4217; what comes after them counts as `other`, and so does what is no code."""
OTHER: Final = "other"
CODE: Final = re.compile("[A-Z]{3}")


class Currency:
    """The pairs of one currency: counts and money a threshold, `to_block` first and `to_allow` second."""

    def __init__(self, thresholds: int) -> None:
        self.pairs = 0
        self.thousandths = 0
        self.delta = self.absolute_delta = 0.0
        self.flips = np.zeros((thresholds, 2), np.int64)
        self.money = [[0, 0] for _ in range(thresholds)]  # without an end: years of payments are more than 64 bits

    def merge(self, other: Currency) -> None:
        self.pairs += other.pairs
        self.thousandths += other.thousandths
        self.delta += other.delta
        self.absolute_delta += other.absolute_delta
        self.flips += other.flips
        for mine, theirs in zip(self.money, other.money, strict=True):
            mine[0] += theirs[0]
            mine[1] += theirs[1]

    def dump(self) -> list[Any]:
        return [self.pairs, self.thousandths, self.delta, self.absolute_delta, self.flips.tolist(), self.money]

    @classmethod
    def load(cls, dumped: list[Any], thresholds: int) -> Currency:
        self = cls(thresholds)
        self.pairs, self.thousandths, self.delta, self.absolute_delta, flips, self.money = dumped
        self.flips = np.array(flips, np.int64).reshape(thresholds, 2)
        return self


class FlipCounts:
    """Flips of the pairs whose both sides have a value."""

    def __init__(self, thresholds: Sequence[float]) -> None:
        self._thresholds = tuple(thresholds)
        self._currencies: dict[str, Currency] = {}

    def add(self, rows: Rows) -> None:
        whole = np.flatnonzero(rows.whole)
        incumbent, challenger = rows.incumbent[whole], rows.challenger[whole]
        deltas = delta(incumbent, challenger)
        flips = self._flips(rows)[:, :, whole]
        thousandths = rows.thousandths[whole]
        currencies = [rows.currency[i] for i in whole]
        place = {name: at for at, name in enumerate(sorted(set(currencies)))}
        places = np.array([place[currency] for currency in currencies])
        for name, each in place.items():
            of = places == each
            at = self._currency(name)
            at.pairs += int(of.sum())
            at.thousandths += int(thousandths[of].sum())
            at.delta += float(deltas[of].sum())
            at.absolute_delta += float(np.abs(deltas[of]).sum())
            at.flips += (flips & of).sum(2)
            for sums, money in zip(at.money, ((flips & of) * thousandths).sum(2).tolist(), strict=True):
                sums[0] += money[0]
                sums[1] += money[1]

    def merge(self, other: FlipCounts) -> None:
        for name, currency in other._currencies.items():
            self._currency(name).merge(currency)

    def dump(self) -> dict[str, Any]:
        return {name: self._currencies[name].dump() for name in sorted(self._currencies)}

    @classmethod
    def load(cls, dumped: dict[str, Any], thresholds: Sequence[float]) -> FlipCounts:
        self = cls(thresholds)
        self._currencies = {name: Currency.load(currency, len(thresholds)) for name, currency in dumped.items()}
        return self

    def figures(self, alpha: float) -> list[pb.Flips]:
        """One entry a threshold, ascending."""
        pairs = sum(currency.pairs for currency in self._currencies.values())
        counts = self._totals()
        return [
            pb.Flips(
                threshold=threshold,
                rate=rate(int(counts[at].sum()), pairs, alpha),
                to_block=int(counts[at, 0]),
                to_allow=int(counts[at, 1]),
                money=self._money(at),
            )
            for at, threshold in enumerate(self._thresholds)
        ]

    def segments(self, alpha: float) -> list[pb.Segment]:
        """One a currency, those that flip most at the worst threshold of the whole first."""
        worst = int(np.argmax(self._totals().sum(1)))
        found = [_segment(name, currency, worst, alpha) for name, currency in self._currencies.items()]
        return sorted(found, key=_difference, reverse=True)

    def _flips(self, rows: Rows) -> Mask:
        """[thresholds, 2, rows]: to block, to allow."""
        thresholds = np.array(self._thresholds)[:, None]
        with np.errstate(invalid="ignore"):
            incumbent, challenger = rows.incumbent >= thresholds, rows.challenger >= thresholds
        return np.stack([challenger & ~incumbent, incumbent & ~challenger], 1)

    def _totals(self) -> Ints:
        return sum((of.flips for of in self._currencies.values()), np.zeros((len(self._thresholds), 2), np.int64))

    def _money(self, at: int) -> Iterable[pb.FlippedMoney]:
        for name, of in sorted(self._currencies.items()):
            to_block, to_allow = (thousandths / 1000 for thousandths in of.money[at])
            yield pb.FlippedMoney(currency=name, to_block=to_block, to_allow=to_allow, total=of.thousandths / 1000)

    def _currency(self, name: str) -> Currency:
        if name and not CODE.fullmatch(name):
            name = OTHER
        if name not in self._currencies and name and len(self._currencies) >= MOST_CURRENCIES:
            name = OTHER
        return self._currencies.setdefault(name, Currency(len(self._thresholds)))


def rate(events: int, trials: int, alpha: float) -> pb.Rate:
    lower, upper = rate_interval(events, trials, alpha)
    return pb.Rate(events=events, trials=trials, interval=pb.Interval(lower=lower, upper=upper))


def _segment(name: str, of: Currency, worst: int, alpha: float) -> pb.Segment:
    return pb.Segment(
        name="currency",
        value=name,
        pairs=of.pairs,
        flips=rate(int(of.flips[worst].sum()), of.pairs, alpha),
        mean_delta=of.delta / of.pairs,
        mean_absolute_delta=of.absolute_delta / of.pairs,
    )


def _difference(segment: pb.Segment) -> tuple[float, float, str]:
    return segment.flips.events / segment.flips.trials, segment.mean_absolute_delta, segment.value
