"""A user's own events from CSV or Parquet, as `Events`. Rows that cannot be true are set aside and counted.

The columns are documented in models/README.md. What is missing is named in one sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from headrace_models import wire
from headrace_models.events import Events

NEEDED: Final = ("event_id", "ts", "card_id", "merchant_id", "amount", "currency", "mcc", "country", "channel", "label")
OPTIONAL: Final = ("device_id", "issuer_bin", "outcome", "label_ts")
IDS: Final = ("event_id", "card_id", "merchant_id", "device_id", "issuer_bin")
LABEL_DELAY_US: Final = 30 * wire.DAY_US
"""When a label without `label_ts` counts as known."""


class DatasetError(ValueError):
    """What is wrong with a file of events, in one sentence."""


def read_events(path: Path, rename: Mapping[str, str] | None = None) -> tuple[Events, Counter[str]]:
    """All usable events, sorted by time, and how many rows were set aside, by cause.

    `rename` maps a user's column names to ours. Raises: DatasetError.
    """
    table = _read(path, rename)
    table = {(rename or {}).get(name, name): values for name, values in table.items()}
    if missing := [name for name in NEEDED if name not in table]:
        raise DatasetError(f"{path}: has no column {', '.join(missing)} (needed: {', '.join(NEEDED)})")
    causes: Counter[str] = Counter()
    rows: list[tuple[Any, ...]] = []
    seen: set[str] = set()
    for i in range(len(table["event_id"])):
        event: dict[str, Any] = {name: table[name][i] for name in (*NEEDED, *OPTIONAL) if name in table}
        try:
            row = _row(event)
        except (ValueError, TypeError) as error:
            causes[f"unreadable: {error}"[:80]] += 1
            continue
        cause = _cause(event, row, seen)
        if cause:
            causes[cause] += 1
        else:
            rows.append(row)
    if not rows:
        raise DatasetError(f"{path}: no usable events ({dict(causes)})")
    return _events(rows), causes


def _read(path: Path, rename: Mapping[str, str] | None) -> dict[str, list[Any]]:
    import pyarrow as pa  # noqa: PLC0415  only a user's own file needs it
    from pyarrow import csv, parquet  # noqa: PLC0415

    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        else:  # ids are text: a reader that guesses makes 4123 of 004123, and two cards one
            text = csv.ConvertOptions(column_types=dict.fromkeys([*IDS, *(rename or {})], pa.string()))
            table = csv.read_csv(path, convert_options=text)
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns


def _row(event: dict[str, Any]) -> tuple[Any, ...]:
    """One event in the order of `Events`' fields."""

    def text(name: str) -> str:
        value = event.get(name)
        return "" if value is None else str(value)

    ts = _moment(event["ts"])
    label = text("label")
    label_ts = _moment(event["label_ts"]) if text("label_ts") else ts + LABEL_DELAY_US
    return (
        ts,
        wire.hash_id(text("card_id")),
        wire.hash_id(text("merchant_id")),
        wire.hash_id(text("device_id")),
        wire.hash_id(text("issuer_bin")),
        float(event["amount"]),
        int(text("mcc") or 0),
        wire.letters_code(text("country")),
        wire.letters_code(text("currency")),
        wire.name_code(text("channel"), wire.CHANNELS, "channel"),
        wire.name_code(text("outcome"), wire.OUTCOMES, "outcome"),
        wire.LABEL_UNKNOWN if label == "" else wire.LABEL_LEGITIMATE + int(float(label)),
        label_ts,
    )


def _moment(value: Any) -> int:
    return wire.timestamp_us(value.isoformat() if hasattr(value, "isoformat") else value)


def _cause(event: dict[str, Any], row: tuple[Any, ...], seen: set[str]) -> str:
    """Why a readable row can't be true; empty when it can."""
    event_id = str(event["event_id"])
    if event_id in seen:
        return "duplicate event_id"
    seen.add(event_id)
    if not 0 < row[5] < float("inf"):
        return "amount is not a positive number"
    if row[11] not in (wire.LABEL_UNKNOWN, wire.LABEL_LEGITIMATE, wire.LABEL_FRAUD):
        return "label is not 0, 1 or empty"
    return "label_ts before ts" if row[12] < row[0] else ""


def _events(rows: list[tuple[Any, ...]]) -> Events:
    kinds = (
        np.int64, np.int64, np.int64, np.int64, np.int64, np.float32,
        np.int32, np.int32, np.int32, np.int32, np.int32, np.int8, np.int64,
    )  # fmt: skip
    columns = [np.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    return Events(*columns).take(np.argsort(columns[0], kind="stable"))
