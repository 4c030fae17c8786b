"""Payment events in columns: what the simulator makes, what a user's file becomes, what histories are cut from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """One entry per event, sorted by `ts`; codes and hashes as in `wire`. Every attempt at a payment is an event."""

    ts: npt.NDArray[np.int64]
    """Microseconds UTC."""
    card: npt.NDArray[np.int64]
    """Hash of the card's id; likewise merchant, device and issuer_bin."""
    merchant: npt.NDArray[np.int64]
    device: npt.NDArray[np.int64]
    issuer_bin: npt.NDArray[np.int64]
    amount: npt.NDArray[np.float32]
    """Currency units."""
    mcc: npt.NDArray[np.int32]
    country: npt.NDArray[np.int32]
    currency: npt.NDArray[np.int32]
    channel: npt.NDArray[np.int32]
    outcome: npt.NDArray[np.int32]
    label: npt.NDArray[np.int8]
    """0 unknown, 1 legitimate, 2 fraud: the truth as it will be known in the end."""
    label_ts: npt.NDArray[np.int64]
    """When the label became known. Before that it is invisible, to targets and to features alike."""
    attempt_group: npt.NDArray[np.int64]
    """Attempts at one payment share it; 0 = the payment's only attempt, as far as anybody knows."""
    attempt_no: npt.NDArray[np.int32]
    """1 = the first; 0 = not known."""
    action: npt.NDArray[np.int32]
    """What was done to bring this attempt about: a place in `wire.ACTIONS`; -1 = not known."""
    propensity: npt.NDArray[np.float32]
    """Probability with which whoever decided chose that action; NaN = not logged."""
    three_ds: npt.NDArray[np.int8]
    """0 unknown, 1 no, 2 yes; likewise network_token."""
    network_token: npt.NDArray[np.int8]
    advice: npt.NDArray[np.int32]
    """What the network said with a refusal: a code of `wire.ADVICE`."""

    def __len__(self) -> int:
        return len(self.ts)

    def take(self, index: npt.NDArray[Any]) -> Events:
        """These events, in this order."""
        return Events(**{field.name: getattr(self, field.name)[index] for field in fields(self)})
