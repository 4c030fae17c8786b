"""Attempts at one payment in columns: what `acceptance` reads, for a client's decision and for training alike.

A decision is made right after the last attempt, or, for a payment's first attempt, when it arrives. What is known
then: the payment, and every attempt at it so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace_models import wire
from headrace_models.events import Events
from headrace_models.history import Columns, Index, Stream

CAP: Final = 16
"""Attempts that are looked at: the newest."""
PAYMENT_CODES: Final = ("mcc", "country", "currency", "channel", "three_ds", "network_token")
PAYMENT_TABLES: Final = (512, 256, 64, 16, 4, 4)
"""Entries of each code's table; a code beyond them wraps round."""
ATTEMPT_CODES: Final = ("outcome", "advice", "action")
ATTEMPT_TABLES: Final = (16, 16, 16)
CANDIDATES: Final = len(wire.ACTIONS)


class AttemptTimeline:
    """Attempts, and what was known before each."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self._groups = Stream(events.attempt_group, events.ts, events.attempt_group != 0)

    def packed(self, rows: Index) -> tuple[Columns, dict[str, Index]]:
        """The wire columns of the decisions that led to these events, packed; every action is a candidate."""
        events, rows = self.events, np.asarray(rows, np.int64)
        past, lengths = self._groups.before(rows, events.ts[rows], CAP)
        retried = lengths > 0
        # What was there when it was decided: the payment as its last attempt left it, if there was one.
        known = rows.copy()
        known[retried] = past[np.cumsum(lengths)[retried] - 1]
        number = np.where(events.attempt_no[rows] > 0, events.attempt_no[rows], lengths + 1)
        codes = (events.mcc, events.country, events.currency, events.channel, events.three_ds, events.network_token)
        columns: Columns = {
            "payment_ts": events.ts[known, None],
            "payment_amount": events.amount[rows, None],
            "payment_codes": np.stack([code[known] for code in codes], 1).astype(np.int32),
            "issuer_bin": events.issuer_bin[rows, None],
            "attempt_no": number[:, None].astype(np.int32),
            "attempt_ts": events.ts[past],
            "attempt_codes": np.stack([events.outcome[past], events.advice[past], events.action[past]], 1),
            "candidates": np.tile(np.arange(CANDIDATES, dtype=np.int32), (len(rows), 1)),
        }
        return columns, {"attempt": lengths}


def columns(
    payment: Mapping[str, Any],
    attempts: Sequence[Mapping[str, Any]] = (),
    candidates: Sequence[str] = wire.ACTIONS,
) -> Columns:
    """One decision as the tensors of `acceptance`, each [1, …]; up to 8 `candidates`, names of `wire.ACTIONS`.

    `attempts`: those made so far, in any order, with `ts`, `outcome`, `advice_code` and `action`. The decision is
    made at the payment's `ts`, which has the flags of its last attempt. Raises: ValueError or KeyError, naming the
    field that cannot be encoded.
    """
    if not 0 < len(candidates) <= CANDIDATES:
        raise ValueError(f"{len(candidates)} candidate actions, expected 1 to {CANDIDATES}")
    now_us = wire.moment_us(payment, "ts")
    made = [attempt for attempt in attempts if wire.moment_us(attempt, "ts") <= now_us]
    known = sorted(made, key=lambda attempt: wire.moment_us(attempt, "ts"))[-CAP:]
    actions = [wire.field_code(action, "action") for action in candidates]
    return {
        "payment_ts": np.array([[now_us]], np.int64),
        "payment_amount": np.array([[wire.amount_of(payment)]], np.float32),
        "payment_codes": np.array([[wire.field_code(payment.get(name), name) for name in PAYMENT_CODES]], np.int32),
        "issuer_bin": np.array([[wire.hash_id(str(payment.get("issuer_bin") or ""))]], np.int64),
        "attempt_no": np.array([[len(made) + 1]], np.int32),
        "attempt_ts": np.array([[wire.moment_us(one, "ts") for one in known]], np.int64).reshape(1, -1),
        "attempt_codes": _attempt_codes(known),
        "candidates": np.array([actions + [-1] * (CANDIDATES - len(actions))], np.int32),
    }


def _attempt_codes(attempts: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.int32]:
    keys = (("outcome", "outcome"), ("advice_code", "advice_code"), ("action", "action"))
    codes = [[wire.field_code(attempt.get(key), name) for key, name in keys] for attempt in attempts]
    return np.array(codes, np.int32).reshape(1, -1, len(ATTEMPT_CODES))
