"""A user's own file: what can't be true is set aside and counted, what is missing is named."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from headrace_models import simulator, wire
from headrace_models.datasets import DatasetError, read_events
from headrace_models.events import Events
from headrace_models.simulator.files import write_csv

HEADER = "event_id,ts,card_id,merchant_id,amount,currency,mcc,country,channel,issuer_bin,label,label_ts\n"
DAY = 1_767_225_600_000_000


def write(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    path = tmp_path / "events.csv"
    path.write_text(header + "\n".join(lines))
    return path


def line(name: str, ts: object = DAY, **changes: object) -> str:
    fields = {"amount": 5, "mcc": "5411", "channel": "chip", "bin": "", "label": "0", "label_ts": DAY + 1000} | changes
    return (
        f"{name},{ts},c,m,{fields['amount']},EUR,{fields['mcc']},FR,{fields['channel']},{fields['bin']},"
        f"{fields['label']},{fields['label_ts']}"
    )


def table(**changes: Any) -> pa.Table:
    columns = {
        "event_id": ["a", "b"],
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
    return pa.table(columns | changes)


def test_rows_that_cannot_be_true_are_set_aside_and_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        line("a"),
        line("a"),
        line("b", amount=-5),
        line("c", amount="nan"),
        line("d", label=1, label_ts=DAY - 1),
        line("e", channel="pigeon"),
        line("f", channel="owl"),
        line("g", label="0.7"),
        line("h", ts="soon"),
        line("i", amount="much"),
        line("", amount=5),
        line("k", ts=DAY - 100, label="", label_ts=""),
    )

    events, causes = read_events(path)

    assert events.ts.tolist() == [DAY - 100, DAY]
    assert events.label.tolist() == [wire.LABEL_UNKNOWN, wire.LABEL_LEGITIMATE]
    assert causes == {
        "duplicate event_id": 1,
        "event_id is empty": 1,
        "amount is not a positive number": 2,
        "label_ts before ts": 1,
        "channel cannot be read": 2,
        "label cannot be read": 1,
        "ts cannot be read": 1,
        "amount cannot be read": 1,
    }


def test_strict_stops_at_the_first_of_them_and_at_a_column_that_is_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="1 rows: amount is not a positive number"):
        read_events(write(tmp_path, line("a"), line("b", amount=0)), strict=True)
    with pytest.raises(DatasetError, match=r"column colour is none of ours"):
        read_events(write(tmp_path, line("a") + ",red", header=HEADER.strip() + ",colour\n"), strict=True)


@pytest.mark.parametrize("ts", [1_767_225_600, 1_767_225_600_000, 20_260_101, 1_767_225_600_000_000_000])
def test_a_moment_in_another_unit_is_not_a_moment_of_1970_or_of_57970(tmp_path: Path, ts: int) -> None:
    with pytest.raises(DatasetError, match="ts cannot be read"):
        read_events(write(tmp_path, line("a", ts=ts, label_ts="")))


def test_a_bad_copy_does_not_take_the_good_one_with_it(tmp_path: Path) -> None:
    events, causes = read_events(write(tmp_path, line("a", amount=-1), line("a", amount=7)))

    assert events.amount.tolist() == [7]
    assert causes == {"amount is not a positive number": 1}


def test_events_are_sorted_by_time_and_then_by_id_whatever_the_files_order(tmp_path: Path) -> None:
    lines = [line("b", DAY, amount=2), line("c", DAY - 5, amount=1), line("a", DAY, amount=3)]

    forward, _ = read_events(write(tmp_path, *lines))
    backward, _ = read_events(write(tmp_path, *lines[::-1]))

    assert forward.amount.tolist() == backward.amount.tolist() == [1, 3, 2]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_an_id_of_digits_keeps_its_zeros(tmp_path: Path, encoding: str) -> None:
    """Whoever exports from a spreadsheet writes a byte order mark, and that must not make two cards one."""
    path = tmp_path / "events.csv"
    header = "card_id,event_id,ts,merchant_id,amount,currency,mcc,country,channel,label\n"
    rows = "".join(f"{card},0{i},{DAY},m,5,EUR,5411,FR,chip,0\n" for i, card in enumerate(("004123", "4123")))
    path.write_text(header + rows, encoding=encoding)

    events, causes = read_events(path)

    assert not causes
    assert sorted(events.card.tolist()) == sorted([wire.hash_id("004123"), wire.hash_id("4123")])


def test_a_label_without_a_moment_waits(tmp_path: Path) -> None:
    events, _ = read_events(write(tmp_path, line("a", label=1, label_ts="")))

    assert events.label_ts[0] == DAY + wire.LABEL_DELAY_US


def test_quotes_and_line_ends_of_other_systems_are_read(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    quoted = ",".join(f'"{name}"' for name in HEADER.strip().split(","))
    path.write_bytes(f"{quoted}\r\n{line('a')}\r\n{line('b')}\r\n".encode())

    events, causes = read_events(path)

    assert (len(events), causes) == (2, {})


def test_a_whole_number_that_a_table_with_gaps_made_a_fraction_is_whole(tmp_path: Path) -> None:
    events, causes = read_events(write(tmp_path, line("a", mcc="5411.0"), line("b", mcc="5411.5"), line("c", mcc="")))

    assert events.mcc.tolist() == [5411, 0]
    assert causes == {"mcc cannot be read": 1}


def test_parquet_reads_as_csv_does_with_columns_renamed(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    parquet.write_table(table().rename_columns(["id", *table().column_names[1:]]), path)

    events, causes = read_events(path, {"id": "event_id"})

    assert not causes
    assert events.ts[0] == wire.timestamp_us("2026-03-01T00:00:00Z")
    assert np.array_equal(events.label, [wire.LABEL_FRAUD, wire.LABEL_UNKNOWN])


def test_gaps_and_finer_moments_of_a_parquet_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    fine = pa.array([DAY * 1000 + 1, DAY * 1000 + 2000], pa.timestamp("ns", "UTC"))
    parquet.write_table(table(ts=fine, label=[float("nan"), 0.0], device_id=[None, "d"]), path)

    events, causes = read_events(path)

    assert not causes
    assert events.ts.tolist() == [DAY, DAY + 2]
    assert events.label.tolist() == [wire.LABEL_UNKNOWN, wire.LABEL_LEGITIMATE]
    assert events.device.tolist() == [0, wire.hash_id("d")]


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no column card_id, merchant_id, amount"):
        read_events(write(tmp_path, "a,1", header="event_id,ts\n"))
    with pytest.raises(DatasetError, match="has no column when to rename"):
        read_events(write(tmp_path, line("a")), {"when": "ts"})
    with pytest.raises(DatasetError, match=r"none\.csv: cannot be read"):
        read_events(tmp_path / "none.csv")
    with pytest.raises(DatasetError, match=r"cannot be read"):
        read_events(write(tmp_path, header=""))
    with pytest.raises(DatasetError, match="no usable events"):
        read_events(write(tmp_path, line("a", ts="soon")))
    with pytest.raises(DatasetError, match="column ts is there twice"):
        read_events(write(tmp_path, line("a") + ",1", header=HEADER.strip() + ",ts\n"))


def test_a_simulated_world_is_read_back_as_it_was_with_its_duplicates_set_aside(tmp_path: Path) -> None:
    events = simulator.simulate(5, days=30, cards=400, merchants=60, fraud_share=0.01)
    order = simulator.deliver(events, 1)
    write_csv(tmp_path / "events.csv", events, order)

    found, causes = read_events(tmp_path / "events.csv", strict=False)

    assert causes == {"duplicate event_id": len(order) - len(events)}
    same = set(Events.__slots__) - {"card", "merchant", "device", "issuer_bin", "attempt_group"}  # names for names
    for name in same:
        assert np.array_equal(getattr(found, name), getattr(events, name), equal_nan=name == "propensity"), name
    for name in ("card", "merchant", "device", "issuer_bin", "attempt_group"):
        pairs = np.unique(np.stack([getattr(found, name), getattr(events, name)]), axis=1)
        assert pairs.shape[1] == len(np.unique(getattr(events, name)))
