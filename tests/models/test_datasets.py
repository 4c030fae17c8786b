"""A user's own file: what can't be true is set aside and counted, what is missing is named."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from headrace_models import wire
from headrace_models.datasets import LABEL_DELAY_US, DatasetError, read_events

HEADER = "event_id,ts,card_id,merchant_id,amount,currency,mcc,country,channel,issuer_bin,label,label_ts\n"


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "events.csv"
    path.write_text(HEADER + "\n".join(lines))
    return path


def test_rows_that_cannot_be_true_are_set_aside_and_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "a,1000,c,m,5,EUR,5411,FR,chip,,0,2000",
        "a,1000,c,m,5,EUR,5411,FR,chip,,0,2000",
        "b,1000,c,m,-5,EUR,5411,FR,chip,,0,2000",
        "c,1000,c,m,nan,EUR,5411,FR,chip,,0,2000",
        "d,1000,c,m,5,EUR,5411,FR,chip,,1,500",
        "e,1000,c,m,5,EUR,5411,FR,pigeon,,1,",
        "f,1000,c,m,5,EUR,5411,FR,owl,,1,",
        "g,1000,c,m,5,EUR,5411,FR,chip,,0.7,",
        "h,soon,c,m,5,EUR,5411,FR,chip,,1,",
        "i,1000,c,m,much,EUR,5411,FR,chip,,1,",
        "k,900,c,m,5,EUR,5411,FR,chip,,,",
    )

    events, causes = read_events(path)

    assert events.ts.tolist() == [900, 1000]
    assert events.label.tolist() == [wire.LABEL_UNKNOWN, wire.LABEL_LEGITIMATE]
    assert causes == {
        "duplicate event_id": 1,
        "amount is not a positive number": 2,
        "label_ts before ts": 1,
        "channel cannot be read": 2,
        "label cannot be read": 1,
        "ts cannot be read": 1,
        "amount cannot be read": 1,
    }


def test_events_are_sorted_by_time_and_then_by_id_whatever_the_files_order(tmp_path: Path) -> None:
    lines = [f"{name},{ts},c,m,{amount},EUR,5411,FR,chip,,," for name, ts, amount in
             (("b", 10, 2), ("c", 5, 1), ("a", 10, 3))]  # fmt: skip

    forward, _ = read_events(write(tmp_path, *lines))
    backward, _ = read_events(write(tmp_path, *lines[::-1]))

    assert forward.amount.tolist() == backward.amount.tolist() == [1, 3, 2]


def test_an_id_of_digits_keeps_its_zeros_and_a_label_without_a_moment_waits(tmp_path: Path) -> None:
    events, _ = read_events(write(tmp_path, "a,1000,c,m,5,EUR,5411,FR,chip,004123,1,"))

    assert events.issuer_bin[0] == wire.hash_id("004123")
    assert events.label_ts[0] == 1000 + LABEL_DELAY_US


def test_parquet_reads_as_csv_does_with_columns_renamed(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    columns = {
        "id": ["a", "b"],
        "ts": [datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)],
        "card_id": ["c", "c"],
        "merchant_id": ["m", "m"],
        "amount": [5.0, 6.0],
        "currency": ["EUR", "EUR"],
        "mcc": [5411, 5411],
        "country": ["FR", "FR"],
        "channel": ["chip", "chip"],
        "label": [1.0, None],
    }
    parquet.write_table(pa.table(columns), path)

    events, causes = read_events(path, {"id": "event_id"})

    assert not causes
    assert events.ts[0] == wire.timestamp_us("2026-03-01T00:00:00Z")
    assert np.array_equal(events.label, [wire.LABEL_FRAUD, wire.LABEL_UNKNOWN])


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("event_id,ts\na,1\n")

    with pytest.raises(DatasetError, match="has no column card_id, merchant_id, amount"):
        read_events(path)
    with pytest.raises(DatasetError, match="has no column when to rename"):
        read_events(path, {"when": "ts"})
    with pytest.raises(DatasetError, match=r"none\.csv: cannot be read"):
        read_events(tmp_path / "none.csv")
    with pytest.raises(DatasetError, match="no usable events"):
        read_events(write(tmp_path, "a,soon,c,m,5,EUR,5411,FR,chip,,,"))
