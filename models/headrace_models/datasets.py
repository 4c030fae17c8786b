"""A user's own events from CSV or Parquet, as `Events`, and back. Rows that cannot be true are set aside and counted.

The columns are documented in models/README.md. What is missing is named in one sentence. Work is done once a distinct
value of a column, not once a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from headrace_models import wire
from headrace_models.events import Events

if TYPE_CHECKING:
    import pyarrow as pa

NEEDED: Final = ("event_id", "ts", "card_id", "merchant_id", "amount", "currency", "mcc", "country", "channel", "label")
OPTIONAL: Final = (
    "device_id", "issuer_bin", "outcome", "label_ts", "attempt_group", "attempt_no", "action", "propensity", "three_ds",
    "network_token", "advice_code",
)  # fmt: skip
EARLIEST_US: Final = 946_684_800_000_000
LATEST_US: Final = 4_102_444_800_000_000
"""2000-01-01 and 2100-01-01: moments outside are a unit gone wrong."""

Column = npt.NDArray[Any]


class DatasetError(ValueError):
    """What is wrong with a file of events, in one sentence."""


def read_events(
    path: Path, rename: Mapping[str, str] | None = None, *, strict: bool = False
) -> tuple[Events, Counter[str]]:
    """All usable events, sorted by time and then by `event_id`, and how many rows were set aside, by cause.

    `rename` maps a user's column names to ours. Raises: DatasetError; with `strict` for any row that would be set
    aside and any column that is not ours, too.
    """
    table = _read(path, rename or {})
    _check_columns(path, table, strict=strict)
    reader = _Reader(table)
    columns = reader.columns()
    causes = Counter({cause: int(rows.sum()) for cause, rows in reader.causes().items() if rows.any()})
    if strict and causes:
        raise DatasetError(f"{path}: {', '.join(f'{count} rows: {cause}' for cause, count in causes.items())}")
    good = ~reader.bad
    if not good.any():
        raise DatasetError(f"{path}: no usable events ({dict(causes)})")
    order = np.flatnonzero(good)[np.lexsort((reader.rank[good], columns["ts"][good]))]
    return Events(**{name: values[order] for name, values in columns.items()}), causes


def _read(path: Path, rename: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415  only a user's own file needs it
    from pyarrow import csv, parquet  # noqa: PLC0415

    try:
        if path.suffix == ".parquet":
            table = _in_microseconds(parquet.read_table(path))
        else:  # everything is text: a reader that guesses makes 4123 of 004123, and two cards one
            with path.open(encoding="utf-8-sig") as file:
                header = file.readline().strip().split(",")
            text = csv.ConvertOptions(column_types={name.strip('"'): pa.string() for name in header})
            table = csv.read_csv(path, convert_options=text)
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if absent := [name for name in rename if name not in table.column_names]:
        raise DatasetError(f"{path}: has no column {absent[0]} to rename")
    return table.rename_columns([rename.get(name, name) for name in table.column_names])


def _in_microseconds(table: pa.Table) -> pa.Table:
    """Moments of a finer unit cut to ours."""
    import pyarrow as pa  # noqa: PLC0415  as above

    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            column = table.column(place).cast(pa.timestamp("us", field.type.tz), safe=False)
            table = table.set_column(place, field.name, column)
    return table


def _check_columns(path: Path, table: pa.Table, *, strict: bool) -> None:
    names = table.column_names
    if missing := [name for name in NEEDED if name not in names]:
        raise DatasetError(f"{path}: has no column {', '.join(missing)} (needed: {', '.join(NEEDED)})")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DatasetError(f"{path}: column {twice[0]} is there twice")
    if strict and (unknown := [name for name in names if name not in (*NEEDED, *OPTIONAL)]):
        raise DatasetError(f"{path}: column {unknown[0]} is none of ours (--strict)")


class _Reader:
    """The columns of one table, encoded; remembers which rows cannot be."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._unreadable: dict[str, npt.NDArray[np.bool_]] = {}
        self.bad = np.zeros(len(table), bool)
        self._ids = self._encode("event_id", wire.hash_id, 0)
        self.rank = _ranks(table.column("event_id"))
        """The place of each row's event_id among all of them, in the order of text."""

    def columns(self) -> dict[str, Column]:
        """The fields of `Events`, in the order of the file."""
        number = partial(self._encode, default=0)
        ts = number("ts", _moment)
        label_ts = number("label_ts", lambda value: _moment(value) if value != "" else 0)
        columns = {
            "ts": ts,
            "card": number("card_id", _needed_id),
            "merchant": number("merchant_id", _needed_id),
            "device": number("device_id", wire.hash_id),
            "issuer_bin": number("issuer_bin", wire.hash_id),
            "amount": self._encode("amount", float, np.nan, np.float32),
            "label": number("label", wire.label_code).astype(np.int8),
            "label_ts": np.where(label_ts == 0, ts + wire.LABEL_DELAY_US, label_ts),
            "attempt_group": number("attempt_group", wire.hash_id),
            "attempt_no": number("attempt_no", _whole).astype(np.int32),
            "action": self._encode("action", wire.action_code, -1).astype(np.int32),
            "propensity": self._encode("propensity", lambda value: float(value or "nan"), np.nan, np.float32),
            "three_ds": number("three_ds", wire.flag_code).astype(np.int8),
            "network_token": number("network_token", wire.flag_code).astype(np.int8),
            "advice": number("advice_code", partial(wire.field_code, name="advice_code")).astype(np.int32),
        }
        columns["mcc"] = number("mcc", lambda value: wire.mcc_code(_whole(value))).astype(np.int32)
        for name in ("country", "currency", "channel", "outcome"):
            columns[name] = number(name, partial(wire.field_code, name=name)).astype(np.int32)
        self._judge(columns)
        return columns

    def causes(self) -> dict[str, npt.NDArray[np.bool_]]:
        return self._unreadable

    def _judge(self, columns: Mapping[str, Column]) -> None:
        """Set aside what can be read but cannot be true. A row counts under its first cause."""
        amount = columns["amount"]
        self._set_aside("event_id is empty", self._ids == 0)
        self._set_aside("amount is not a positive number", ~(np.isfinite(amount) & (amount > 0)))
        self._set_aside("label_ts before ts", columns["label_ts"] < columns["ts"])
        self._set_aside("duplicate event_id", _repeated(self._ids, ~self.bad))

    def _set_aside(self, cause: str, rows: npt.NDArray[np.bool_]) -> None:
        self._unreadable[cause] = rows & ~self.bad
        self.bad |= rows

    def _encode(self, name: str, encode: Callable[[Any], Any], default: Any, dtype: Any = np.int64) -> Column:
        """A column as numbers, each distinct value encoded once; what cannot be is set aside."""
        if name not in self._table.column_names:
            return np.full(len(self._table), _absent(encode, default), dtype)
        column = self._table.column(name).combine_chunks().dictionary_encode()
        codes = np.full(len(column.dictionary) + 1, _absent(encode, default), dtype)  # the last stands for null
        wrong = np.zeros(len(codes), bool)
        for place, value in enumerate(column.dictionary.to_pylist()):
            try:
                codes[place] = encode(_text(value))
            except (ValueError, TypeError, OverflowError):
                wrong[place] = True
        wrong[-1] = name in ("ts", "amount", "card_id", "merchant_id")
        index = column.indices.fill_null(len(column.dictionary)).to_numpy(zero_copy_only=False)
        self._set_aside(f"{name} cannot be read", wrong[index])
        found: Column = codes[index]
        return found


def _ranks(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    distinct = ids.combine_chunks().dictionary_encode()
    names = [_text(name) for name in distinct.dictionary.to_pylist()]
    rank = np.empty(len(names) + 1, np.int64)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    rank[-1] = -1
    found: npt.NDArray[np.int64] = rank[distinct.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)]
    return found


def _absent(encode: Callable[[Any], Any], default: Any) -> Any:
    """What a missing value becomes: what the empty text does, where that can be encoded."""
    try:
        return encode("")
    except (ValueError, TypeError, OverflowError):
        return default


def _text(value: Any) -> Any:
    """A value as the encoders take it: text, or a number where the file has numbers."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, float) and value != value:  # noqa: PLR0124  NaN: a gap
        return ""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return str(value).strip()


def _needed_id(value: str) -> int:
    if not value:
        raise ValueError("empty")
    return wire.hash_id(value)


def _moment(value: Any) -> int:
    moment = wire.timestamp_us(value)
    if not EARLIEST_US <= moment < LATEST_US:
        raise ValueError(f"'{value}' is not a moment between 2000 and 2100")
    return moment


def _whole(value: str) -> int:
    """An integer, also where a table with gaps has made it 5411.0; empty is 0."""
    number = float(value or 0)
    if not number.is_integer():
        raise ValueError(f"'{value}' is not a whole number")
    return int(number)


def _repeated(ids: npt.NDArray[np.int64], good: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """True from the second good row of an id on."""
    rows = np.flatnonzero(good)
    again = np.zeros(len(ids), bool)
    again[rows] = True
    again[rows[np.unique(ids[rows], return_index=True)[1]]] = False
    return again
