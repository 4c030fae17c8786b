"""Simulated events as a file in the columns that training accepts; the truth in another file that it cannot read.

`python -m headrace_models.simulator --out DIR` writes both.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headrace_models import wire
from headrace_models.events import Events
from headrace_models.simulator.world import COUNTRIES, CURRENCIES

if TYPE_CHECKING:
    from headrace_models.simulator import Truth

LETTERS = {wire.letters_code(letters): letters for letters in (*COUNTRIES, *CURRENCIES)}
FLAGS = np.array(["", "0", "1"])


def write_csv(
    path: Path,
    events: Events,
    order: npt.NDArray[np.int64] | None = None,
    rename: Mapping[str, str] | None = None,
) -> None:
    """Write events as CSV; `order`: indices into them, as `delivery.deliver` gives; `rename`: columns' other names."""
    columns = _columns(events.take(order) if order is not None else events, order)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([(rename or {}).get(name, name) for name in columns])
        writer.writerows(_rows(columns))


def write_truth(path: Path, truth: Truth) -> None:
    """Write how each event came about, in the order of the events themselves."""
    np.savez_compressed(path, scenario=truth.scenario, episode=truth.episode, chances=truth.chances)


def _columns(events: Events, order: npt.NDArray[np.int64] | None) -> dict[str, npt.NDArray[Any]]:
    number = np.arange(len(events)) if order is None else order
    return {
        "event_id": np.char.add("e", number.astype(str)),
        "ts": events.ts,
        "card_id": _ids("c", events.card),
        "merchant_id": _ids("m", events.merchant),
        "amount": events.amount,
        "currency": _letters(events.currency),
        "mcc": events.mcc,
        "country": _letters(events.country),
        "channel": np.array(wire.CHANNELS)[events.channel],
        "device_id": _ids("d", events.device),
        "issuer_bin": _ids("b", events.issuer_bin),
        "outcome": np.array(wire.OUTCOMES)[events.outcome],
        "label": np.array(["", "0", "1"])[events.label],
        "label_ts": events.label_ts,
        "attempt_group": _ids("g", events.attempt_group),
        "attempt_no": events.attempt_no,
        "action": np.array([*wire.ACTIONS, ""])[events.action],
        "propensity": events.propensity,
        "three_ds": FLAGS[events.three_ds],
        "network_token": FLAGS[events.network_token],
        "advice_code": np.array(wire.ADVICE)[events.advice],
    }


def _rows(columns: Mapping[str, npt.NDArray[Any]]) -> Iterator[tuple[Any, ...]]:
    return zip(*(values.tolist() for values in columns.values()), strict=True)


def _ids(letter: str, hashes: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """A hash as text that names the same thing wherever it stands; 0 is nothing."""
    distinct, index = np.unique(hashes, return_inverse=True)
    names = np.array([f"{letter}{value & (1 << 64) - 1:016x}" if value else "" for value in distinct.tolist()])
    found: npt.NDArray[Any] = names[index]
    return found


def _letters(codes: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    distinct, index = np.unique(codes, return_inverse=True)
    found: npt.NDArray[Any] = np.array([LETTERS[code] for code in distinct.tolist()])[index]
    return found
