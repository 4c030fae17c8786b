"""Histories cut from events: what was known about a card and a merchant when a payment was made, and no more.

The leakage rules live here: strictly earlier events only, the payment itself pending, labels from `label_ts` on.
Training cuts thousands of rows at once (`packed`), the demo one at a time (`columns`): the same code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_models import wire
from headrace_models.events import Events

Index = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]


class Stream:
    """The events of each entity (card or merchant), oldest first."""

    def __init__(self, entity: Index, ts: Index, members: npt.NDArray[np.bool_] | None = None) -> None:
        """`entity` and `ts` have one entry an event; only `members` are in the stream (all, by default)."""
        self._rank = np.unique(entity, return_inverse=True)[1].astype(np.int64)
        self._moments = np.unique(ts)
        inside = np.arange(len(ts)) if members is None else np.flatnonzero(members)
        self.order = inside[np.lexsort((ts[inside], self._rank[inside]))]
        """Its events, entity after entity, oldest first."""
        self._keys = (self._rank * (len(self._moments) + 1) + np.searchsorted(self._moments, ts))[self.order]

    def before(self, events: Index, ts: Index, cap: int) -> tuple[Index, Index]:
        """For each event: its entity's newest `cap` events strictly earlier than `ts`.

        Returns: their indices, row after row, and the length of each row.
        """
        ends = self._place(events, ts)
        begins = np.maximum(self._place(events, np.zeros_like(ts)), ends - cap)
        return self._rows(begins, ends)

    def within(self, events: Index, ts: Index, window_us: int) -> tuple[Index, Index]:
        """As `before`, but all events of the last `window_us`."""
        return self._rows(*self.span(events, ts, window_us))

    def span(self, events: Index, ts: Index, window_us: int) -> tuple[Index, Index]:
        """Where in `order` the events that `within` would find begin and end."""
        return self._place(events, ts - window_us), self._place(events, ts)

    def count(self, events: Index, ts: Index, window_us: int) -> Index:
        """How many events `within` would find."""
        begin, end = self.span(events, ts, window_us)
        return end - begin

    def _place(self, events: Index, ts: Index) -> Index:
        keys = self._rank[events] * (len(self._moments) + 1) + np.searchsorted(self._moments, ts)
        return np.searchsorted(self._keys, keys)

    def _rows(self, begins: Index, ends: Index) -> tuple[Index, Index]:
        lengths = ends - begins
        starts = np.cumsum(lengths) - lengths
        flat = np.arange(lengths.sum()) - np.repeat(starts - begins, lengths)
        return self.order[flat], lengths


class Timeline:
    """Events, and what each of them could have known."""

    def __init__(self, events: Events, *, stale_us: int = 0) -> None:
        """`stale_us`: histories end so long before the payment in hand, as they do when their store lags behind."""
        self.events = events
        self._stale_us = stale_us
        self._cards = Stream(events.card, events.ts)
        self._merchants = Stream(events.merchant, events.ts)
        self._reports = Stream(events.merchant, events.label_ts, events.label == wire.LABEL_FRAUD)

    def packed(self, rows: Index) -> tuple[Columns, dict[str, Index]]:
        """The wire columns of these events as payments in hand, packed, and the lengths of both axes."""
        rows = np.asarray(rows, np.int64)
        ts = self.events.ts[rows]
        known = ts - self._stale_us
        history, counts = self._cards.before(rows, known, wire.CARD_CAP - 1)
        card, in_hand = _append(history, counts, rows)
        merchant, merchant_lengths = self._merchants.before(rows, known, wire.MERCHANT_CAP)
        columns = self._card_columns(card, in_hand)
        columns |= self._merchant_columns(merchant, np.repeat(known, merchant_lengths))
        columns["merchant_stats"] = self._stats(rows, known)
        return columns, {"card": counts + 1, "merchant": merchant_lengths}

    def lengths(self, rows: Index) -> Index:
        """Events of each row's card as `packed` would have them, the payment in hand included."""
        earlier = self._cards.before(rows, self.events.ts[rows] - self._stale_us, wire.CARD_CAP - 1)[1]
        return earlier + 1

    def columns(self, row: int) -> Columns:
        """One event as a payment in hand: the tensors of a request, each [1, …]."""
        columns, _ = self.packed(np.array([row]))
        return {name: values if name == "merchant_stats" else values[None] for name, values in columns.items()}

    def _card_columns(self, index: Index, in_hand: npt.NDArray[np.bool_]) -> Columns:
        events = self.events
        outcome = np.where(in_hand, wire.PENDING, events.outcome[index])
        codes = (events.mcc[index], events.country[index], events.currency[index], events.channel[index], outcome)
        return {
            "card_ts": events.ts[index],
            "card_amount": events.amount[index],
            "card_codes": np.stack(codes, axis=-1).astype(np.int32),
            "card_ids": np.stack((events.merchant[index], events.device[index], events.issuer_bin[index]), axis=-1),
        }

    def _merchant_columns(self, index: Index, now: Index) -> Columns:
        events = self.events
        codes = (
            events.mcc[index],
            events.country[index],
            events.currency[index],
            events.channel[index],
            events.outcome[index],
            self._known_label(index, now),
        )
        return {
            "merchant_ts": events.ts[index],
            "merchant_amount": events.amount[index],
            "merchant_codes": np.stack(codes, axis=-1).astype(np.int32),
            "merchant_ids": np.stack((events.card[index], events.device[index], events.issuer_bin[index]), axis=-1),
        }

    def _stats(self, rows: Index, ts: Index) -> npt.NDArray[np.float32]:
        """`wire.stats_of` every row's merchant, all rows at once."""
        events = self.events
        day, lengths = self._merchants.within(rows, ts, wire.DAY_US)
        row = np.repeat(np.arange(len(rows)), lengths)
        recent = ts[row] - events.ts[day] <= wire.HOUR_US
        outcome = events.outcome[day]
        fortnight, month = (self._reports.count(rows, ts, window) for window in wire.REPORTS_US)

        def count(of: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
            return np.bincount(row[of], minlength=len(rows))

        return wire.stats_of(
            events_1h=count(recent),
            events_1d=lengths,
            events_30d=self._merchants.count(rows, ts, 30 * wire.DAY_US),
            known_1d=count(outcome != wire.PENDING),
            declined_1d=count((outcome != wire.PENDING) & (outcome != wire.APPROVED)),
            cards_1d=_distinct(row, events.card[day], len(rows)),
            reports_14d=fortnight,
            reports_30d=month,
            small_1h=count(recent & (events.amount[day] < wire.SMALL_AMOUNT)),
        )

    def _known_label(self, index: Index, now: Index) -> npt.NDArray[np.int32]:
        return np.where(self.events.label_ts[index] < now, self.events.label[index], wire.LABEL_UNKNOWN).astype(
            np.int32
        )


def _distinct(row: Index, value: Index, rows: int) -> Index:
    """How many different values each row has; `row` is ascending."""
    order = np.lexsort((value, row))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(row[order]) != 0) | (np.diff(value[order]) != 0)
    return np.bincount(row[order][first], minlength=rows)


def _append(history: Index, counts: Index, rows: Index) -> tuple[Index, npt.NDArray[np.bool_]]:
    """Each row's history followed by the row itself; True where an entry is the payment in hand."""
    ends = np.cumsum(counts + 1) - 1
    in_hand = np.zeros(len(history) + len(rows), bool)
    in_hand[ends] = True
    index = np.empty(len(in_hand), np.int64)
    index[in_hand], index[~in_hand] = rows, history
    return index, in_hand
