"""Pairs as they came over the wire, looked at once and turned into arrays: the only place that reads `PairColumns`.

Whatever is wrong with a message is said here, by the field's name, before anything is counted. A value that is no
number and has no error of its own is an error: nothing that is counted later can be NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace.v1 import experiments_pb2 as pb

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

TRACE_ID_BYTES: Final = 16
KINDS: Final = len(pb.PairError.values())
"""How a side may end; 0 is a value."""
MOST_THOUSANDTHS: Final = 1e14
"""Of a currency's unit in one payment. More is no amount, and a batch of them would leave 64 bits."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Pairs, an entry each in every array."""

    incumbent: Floats
    challenger: Floats
    incumbent_error: Ints
    challenger_error: Ints
    incumbent_us: Ints
    challenger_us: Ints
    canary: Mask
    thousandths: Ints
    """Of the payment's currency; 0 where its amount is unknown."""
    currency: list[str]
    keys: npt.NDArray[np.uint64]
    """A hash of each pair, from what tells it from the others."""

    @property
    def whole(self) -> Mask:
        """Both sides have a value."""
        whole: Mask = (self.incumbent_error == 0) & (self.challenger_error == 0)
        return whole

    def __len__(self) -> int:
        return len(self.incumbent)


def read(columns: pb.PairColumns) -> Rows:
    """The pairs of one message. **Raises** ValueError: a field that is longer or shorter than the values."""
    n = len(columns.incumbent)
    incumbent, challenger = (
        _column(columns, side, n, np.float64, optional=False) for side in ("incumbent", "challenger")
    )
    for unread in ("at_us", "event_id", "entity", "incumbent_p", "challenger_p"):
        _check(unread, len(getattr(columns, unread)), n)
    return Rows(
        incumbent=incumbent,
        challenger=challenger,
        incumbent_error=_errors(columns, "incumbent", incumbent),
        challenger_error=_errors(columns, "challenger", challenger),
        incumbent_us=_column(columns, "incumbent_us", n, np.int64),
        challenger_us=_column(columns, "challenger_us", n, np.int64),
        canary=_column(columns, "canary", n, np.bool_),
        thousandths=_thousandths(_column(columns, "amount", n, np.float64)),
        currency=_currencies(columns, n),
        keys=_keys(columns, incumbent, challenger),
    )


def _check(field: str, length: int, n: int, *, optional: bool = True) -> None:
    if length != n and (length or not optional):
        raise ValueError(f"pairs.{field}: {length} entries for {n} pairs")


def _column(columns: pb.PairColumns, field: str, n: int, dtype: Any, *, optional: bool = True) -> npt.NDArray[Any]:
    values = getattr(columns, field)
    _check(field, len(values), n, optional=optional)
    return np.fromiter(values, dtype, n) if values else np.zeros(n, dtype)


def _errors(columns: pb.PairColumns, side: str, values: Floats) -> Ints:
    field = f"{side}_error"
    errors: Ints = _column(columns, field, len(values), np.int64)
    if len(errors) and not 0 <= errors.min() <= errors.max() < KINDS:
        raise ValueError(f"pairs.{field}: an error that is not known")
    return np.where((errors == 0) & ~np.isfinite(values), pb.PAIR_ERROR_GARBAGE, errors)


def _thousandths(amounts: Floats) -> Ints:
    """Whole numbers: their sums don't depend on the order."""
    known = np.abs(amounts) * 1000 <= MOST_THOUSANDTHS  # NaN is not
    found: Ints = np.rint(np.where(known, amounts, 0.0) * 1000).astype(np.int64)
    return found


def _currencies(columns: pb.PairColumns, n: int) -> list[str]:
    _check("currency", len(columns.currency), n)
    return list(columns.currency) or [""] * n


def _keys(columns: pb.PairColumns, incumbent: Floats, challenger: Floats) -> npt.NDArray[np.uint64]:
    n = len(incumbent)
    if columns.trace_ids and len(columns.trace_ids) != TRACE_ID_BYTES * n:
        raise ValueError(f"pairs.trace_ids: {len(columns.trace_ids)} bytes for {n} pairs")
    key = _mixed(incumbent.view(np.uint64)) ^ challenger.view(np.uint64)
    if columns.at_us:
        key = _mixed(key) ^ np.fromiter(columns.at_us, np.uint64, n)
    if columns.trace_ids:
        for half in np.frombuffer(columns.trace_ids, np.uint64).reshape(n, 2).T:
            key = _mixed(key) ^ half
    return _mixed(key)


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """**Source** the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed
