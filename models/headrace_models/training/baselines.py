"""What a network has to beat: a logistic regression and gradient-boosted trees on honest aggregates of the same past.

Counts, sums and means of the card's and the merchant's payments over 1 hour, 1 day and 30 days, what was reported of
the merchant, what is new to the card, and the payment's own columns. Needs scikit-learn, a development dependency.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace_models import wire
from headrace_models.attempts import AttemptTimeline
from headrace_models.events import Events
from headrace_models.history import Index, Stream
from headrace_models.training.split import Split
from headrace_models.training.tasks import AcceptanceTask, Task

Table = npt.NDArray[np.float64]
WINDOWS_US: Final = (wire.HOUR_US, wire.DAY_US, 30 * wire.DAY_US)


def answers(task: Task, split: Split) -> dict[str, Table]:
    """How each baseline, having learnt from the same rows, ranks the test block: name → a value a row."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: PLC0415

    aggregates = attempt_aggregates if isinstance(task, AcceptanceTask) else payment_aggregates
    numbers, codes = aggregates(task.events, np.concatenate([split.train, split.test.rows]))
    teach = len(split.train)
    target = task.target(split.train)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, min_frequency=20).fit(codes[:teach])
    wide = np.concatenate([numbers, encoder.transform(codes)], 1)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    trees = HistGradientBoostingClassifier(max_iter=400, learning_rate=0.06, early_stopping=True, random_state=0)
    return {
        "logistic regression": linear.fit(wide[:teach], target).decision_function(wide[teach:]),
        "gradient-boosted trees": trees.fit(wide[:teach], target).decision_function(wide[teach:]),
    }


def payment_aggregates(events: Events, rows: Index) -> tuple[Table, npt.NDArray[np.int64]]:
    """(numbers, codes) of payments: [rows, …] each."""
    ts = events.ts[rows]
    log_amount = np.log1p(events.amount.astype(float))
    columns = [log_amount[rows], *_clock(ts)]
    for entity in (events.card, events.merchant):
        stream = Stream(entity, events.ts)
        totals = np.concatenate([[0.0], np.cumsum(log_amount[stream.order])])
        declined = np.concatenate([[0], np.cumsum(events.outcome[stream.order] > wire.APPROVED)])
        for window in WINDOWS_US:
            begin, end = stream.span(rows, ts, window)
            count = end - begin
            total = totals[end] - totals[begin]
            columns += [np.log1p(count), np.log1p(np.maximum(total, 0)), total / np.maximum(count, 1)]
            columns += [(declined[end] - declined[begin]) / np.maximum(count, 1)]
        columns.append(log_amount[rows] - columns[-2])
        last = np.where(count > 0, events.ts[stream.order[np.maximum(end - 1, 0)]], ts - 90 * wire.DAY_US)
        columns.append(np.log1p((ts - last) / 1e6))
    reports = Stream(events.merchant, events.label_ts, events.label == wire.LABEL_FRAUD)
    for window in wire.REPORTS_US:
        reported = reports.count(rows, ts + 1, window)
        columns += [np.log1p(reported), (reported + 0.02) / (count + 10)]  # `count`: the merchant's last 30 days
    for other in (events.device, events.country, events.merchant):
        columns.append(_new(events.card, other, events.ts)[rows])
    codes = np.stack([events.mcc, events.country, events.channel, events.currency], 1)[rows]
    return np.stack(columns, 1).astype(float), codes.astype(np.int64)


def attempt_aggregates(events: Events, rows: Index) -> tuple[Table, npt.NDArray[np.int64]]:
    """(numbers, codes) of attempts: what was tried, when, and how the attempts before it ended."""
    columns, lengths = AttemptTimeline(events).packed(rows)
    tried = lengths["attempt"]
    ends = np.cumsum(tried)
    padded = np.concatenate([columns["attempt_codes"], np.zeros((1, 3), np.int32)])
    last = padded[np.where(tried > 0, ends - 1, -1)]
    first = padded[np.where(tried > 0, ends - tried, -1)]
    decided = columns["payment_ts"][:, 0]
    delay_h = np.array(wire.DELAY_H)[events.action[rows]]
    then = decided + (delay_h * wire.HOUR_US).astype(np.int64)
    day = (then // wire.DAY_US).astype("datetime64[D]")
    month = (day - day.astype("datetime64[M]").astype("datetime64[D]")).astype(float)
    started = np.concatenate([columns["attempt_ts"], [0]])[np.where(tried > 0, ends - tried, -1)]
    age_h = np.where(tried > 0, (decided - started) / wire.HOUR_US, 0.0)
    numbers = [
        np.log1p(events.amount[rows].astype(float)), *_clock(then), month, columns["attempt_no"][:, 0], tried,
        np.log1p(age_h), np.log1p(delay_h),
    ]  # fmt: skip
    codes = [events.action[rows], last[:, 0], last[:, 1], last[:, 2], first[:, 0], events.issuer_bin[rows]]
    return np.stack(numbers, 1).astype(float), np.concatenate([np.stack(codes, 1), columns["payment_codes"]], 1)


def _clock(ts: Index) -> list[npt.NDArray[Any]]:
    hour = ts % wire.DAY_US / wire.DAY_US * 2 * np.pi
    return [np.sin(hour), np.cos(hour), (ts // wire.DAY_US + 3) % 7]


def _new(entity: Index, value: npt.NDArray[Any], ts: Index) -> npt.NDArray[np.float64]:
    """1.0 where an entity meets a value for the first time."""
    order = np.lexsort((ts, value, entity))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(entity[order]) != 0) | (np.diff(value[order]) != 0)
    found = np.empty(len(order))
    found[order] = first
    return found
