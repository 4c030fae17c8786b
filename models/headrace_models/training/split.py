"""Which events teach, choose and judge: by time, with room for labels to mature in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from headrace_models import wire
from headrace_models.events import Events

Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

PARTS: Final = 12
"""Of the time span: two fill histories, the last two choose and judge, what lies between teaches and waits."""
MATURE: Final = 0.99
"""Share of the targets that are known after one target delay."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows, and how many each stands for: legitimate rows are thinned where all of them would only cost time."""

    rows: Index
    weight: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of each block of time."""

    train: Index
    kept: float
    """Share of the negative rows that training kept; the calibration undoes the thinning."""
    validation: Block
    """Chooses the epoch."""
    reference: Block
    """The same block of time, thinned less: calibrates, and says where a probability stands in traffic."""
    test: Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How many negative rows each block keeps."""

    train: int = 40_000
    validation: int = 30_000
    reference: int = 100_000
    test: int = 60_000


def split_by_time(events: Events, eligible: Mask, positive: Mask, known_ts: Index, keep: Keep, seed: int) -> Split:
    """Divide the `eligible` events.

    `known_ts`: when each event's target became known. Training ends one target delay before the validation block
    begins, for positives and negatives alike, and what was not known by then does not count: unknown is not negative.
    """
    begin, end = int(events.ts[0]), int(events.ts[-1]) + 1
    edge = [begin + (end - begin) * part // PARTS for part in range(PARTS + 1)]
    delay = int(np.quantile((known_ts - events.ts)[eligible], MATURE)) if eligible.any() else 0
    rng = np.random.default_rng(seed)

    def within(first: int, last: int) -> Mask:
        return eligible & (events.ts >= first) & (events.ts < last)

    train, kept = _thin(rng, within(edge[2], edge[10] - delay) & (known_ts < edge[10]), positive, keep.train)
    return Split(
        train,
        kept,
        _block(rng, within(edge[10], edge[11]), positive, keep.validation),
        _block(rng, within(edge[10], edge[11]), positive, keep.reference),
        _block(rng, within(edge[11], end), positive, keep.test),
    )


def labelled(events: Events) -> tuple[Mask, Mask, Index]:
    """For fraud: which events have a label, which are fraud, and when that became known."""
    return events.label != wire.LABEL_UNKNOWN, events.label == wire.LABEL_FRAUD, events.label_ts


def answered(events: Events, seed: int) -> tuple[Mask, Mask, Index]:
    """For acceptance: attempts with a logged action and an answer, which were approved; known at once.

    All retries, and one first attempt in sixteen: most of those are approved, and they are many. The two are judged
    and calibrated apart.
    """
    asked = (events.outcome != wire.PENDING) & (events.action >= 0)
    drawn = np.random.default_rng(seed).random(len(events)) < 1 / 16
    return asked & (is_retry(events) | drawn), events.outcome == wire.APPROVED, events.ts


def is_retry(events: Events) -> Mask:
    """Attempts that are not the first of their group."""
    again: Mask = events.attempt_group != 0
    again[np.unique(events.attempt_group, return_index=True)[1]] = False
    return again


def _block(rng: np.random.Generator, inside: Mask, positive: Mask, keep: int) -> Block:
    rows, share = _thin(rng, inside, positive, keep)
    return Block(rows, np.where(positive[rows], 1.0, 1 / share))


def _thin(rng: np.random.Generator, inside: Mask, positive: Mask, keep: int) -> tuple[Index, float]:
    """All positives and `keep` of the negatives, in order of time, and the share of negatives that is."""
    positives, negatives = np.flatnonzero(inside & positive), np.flatnonzero(inside & ~positive)
    share = min(1.0, keep / max(1, len(negatives)))
    sample = rng.choice(negatives, round(len(negatives) * share), replace=False)
    return np.sort(np.concatenate([positives, sample])), share
