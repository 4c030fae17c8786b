"""Payments in their own words ⇄ core: what `codec` is for tensors. Called by the risk servicer.

The columns are made by `headrace_models.wire`, as clients and training make them. What is decided here is whether a
model can be asked about payments at all, and whether an event can be true; a complaint names the place in the request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.core.inference import MAX_KEY, Inference, Subject
from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.errors import InvalidInference
from headrace.gateway.signals import FACTORS
from headrace.v1 import risk_pb2
from headrace_models import wire

MAX_HISTORY: Final = 1024
"""Events a history may have in a request: it takes the event loop 5 us to read one, and others wait meanwhile."""
MAX_AMOUNT: Final = float(np.finfo(np.float32).max)
MAX_MCC: Final = 9999
"""Source: ISO 18245, four digits."""
YEARS_S: Final = (-62_135_596_800, 253_402_300_799)
"""Years 1 to 9999. Source: google/protobuf/timestamp.proto."""

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One payment as its model takes it."""

    columns: list[bytes]
    """One entry per input of the spec, in its order."""
    lengths: tuple[int, ...]
    """One per axis of the spec."""
    truncated_card_events: int
    """Oldest events of the card that the model does not look at."""
    subject: Subject


class PaymentEncoder:
    """Encodes payments for one model version. Raises: InvalidInference when it cannot be asked about payments."""

    def __init__(self, spec: ModelSpec) -> None:
        if complaint := _why_not_askable(spec):
            raise InvalidInference(f"model '{spec.name}' cannot be asked about payments: {complaint}")
        self.spec = spec
        names = [tensor.name for tensor in spec.inputs]
        self._card_axis = spec.input_axes[names.index("card_ts")] if "card_ts" in names else -1

    def encode(self, payment: risk_pb2.Payment, where: str) -> Row:
        """One payment; `where` is its place in the request. Raises: InvalidInference, naming the place inside of it."""
        if not payment.HasField("event"):
            raise InvalidInference(f"{where}.event is missing")
        event = _in_hand(payment.event, f"{where}.event")
        cards = wire.earlier(_history(payment.card_history, f"{where}.card_history"), event)
        merchants = _history(payment.merchant_history, f"{where}.merchant_history")
        stats = _stats(payment.merchant_stats, f"{where}.merchant_stats")
        columns = wire.payment_columns(event, cards, merchants, stats)
        return self._row(columns, len(cards) + 1, where, _subject(payment.event))

    def join(self, rows: Sequence[Row], deadline: float, request_id: str, *, explain: bool = False) -> Inference:
        """One inference of several payments; `deadline` is on the gateway's clock, seconds.

        Raises: InvalidInference when it shall explain and the model cannot.
        """
        if explain and not _explains(self.spec):
            raise InvalidInference(f"model '{self.spec.name}' does not explain its scores")
        lengths = tuple(row.lengths for row in rows)
        return Inference(
            spec=self.spec,
            columns=[b"".join(parts) for parts in zip(*(row.columns for row in rows), strict=True)],
            rows=len(rows),
            lengths=lengths[0],
            tokens=sum(max(1, sum(row)) for row in lengths) * (1 + self.spec.extras_rows * explain),
            wants_extras=explain,
            deadline=deadline,
            id=request_id,
            row_lengths=None if len(set(lengths)) == 1 else lengths,
            subjects=tuple([row.subject for row in rows]),
        )

    def _row(self, columns: wire.Columns, card_events: int, where: str, subject: Subject) -> Row:
        parts, lengths = [], [0] * len(self.spec.axes)
        for tensor, position in zip(self.spec.inputs, self.spec.input_axes, strict=True):
            if tensor.name not in columns:  # optional: zeros
                parts.append(bytes(tensor.entry_bytes))
                continue
            values = columns[tensor.name][0]
            if position >= 0:
                axis = self.spec.axes[position]
                if axis.required and not len(values):
                    raise InvalidInference(f"{where}: axis '{axis.name}' of model '{self.spec.name}' needs an event")
                values = values[max(0, len(values) - axis.cap) :]
                lengths[position] = len(values)
            parts.append(values.tobytes())
        kept = lengths[self._card_axis] if self._card_axis >= 0 else card_events
        return Row(parts, tuple(lengths), card_events - kept, subject)


def _subject(event: risk_pb2.PaymentEvent) -> Subject:
    """An id that is too long for a ledger has no outcome; the payment is assessed all the same."""
    event_id = event.event_id if len(event.event_id) <= MAX_KEY else ""
    return Subject(event.card_id, event_id, event.amount, event.currency)


# Models ---------------------------------------------------------------------------------------------------------------


def _why_not_askable(spec: ModelSpec) -> str:
    """Why RiskService cannot ask this model, as the end of a sentence; empty = it can."""
    if spec.signal is None:
        return "it declares no signal"
    for name, kind in (("p", "f"), ("score", "i")):
        position = spec.output_index.get(name)
        if position is None or spec.answers[position].kind != kind or spec.answers[position].dims != (1,):
            return f"it has no output '{name}' of one number"
    made = _columns_made()
    lengths: dict[int, int] = {}
    for tensor, axis in zip(spec.inputs, spec.input_axes, strict=True):
        column = made.get(tensor.name)
        if column is None and tensor.optional:
            continue
        if column is None or not _fits(tensor, column):
            return f"its input '{tensor.name}' is no column of a payment"
        if axis >= 0 and lengths.setdefault(axis, column.shape[1]) != column.shape[1]:
            return f"its input '{tensor.name}' shares an axis with another stream"
    return ""


def _explains(spec: ModelSpec) -> bool:
    """It has the extra that names what raised a score; an output of that name is something else."""
    return any(t.name == FACTORS and t.datatype == "FP32" and t.labels for t in spec.extras)


def _fits(tensor: TensorSpec, column: npt.NDArray[Any]) -> bool:
    ragged = tensor.name != "merchant_stats"
    entry = column.shape[2:] if ragged else column.shape[1:]
    alike = tensor.dtype == column.dtype and tensor.kind == column.dtype.kind
    return (tensor.axis is not None) == ragged and tensor.entry_dims == entry and alike


@lru_cache(maxsize=1)
def _columns_made() -> wire.Columns:
    """What the encoder makes of a payment: one event of the card, two of the merchant."""
    payment = {"ts": 2, "amount": 0}
    return wire.payment_columns(payment, (), [{**payment, "ts": 0}, {**payment, "ts": 1}])


# Events ---------------------------------------------------------------------------------------------------------------


def _history(messages: Sequence[risk_pb2.PaymentEvent], where: str) -> list[Event]:
    if len(messages) > MAX_HISTORY:
        raise InvalidInference(f"{where} has {len(messages)} events, but a request may carry {MAX_HISTORY} of them")
    events: list[Event] = []
    try:
        for message in messages:
            events.append(_event(message))  # noqa: PERF401  how far it got is the place of the complaint
    except ValueError as error:
        raise InvalidInference(f"{where}[{len(events)}]: {error}") from error
    return events


def _in_hand(message: risk_pb2.PaymentEvent, where: str) -> Event:
    try:
        return _event(message)
    except ValueError as error:
        raise InvalidInference(f"{where}: {error}") from error


def _event(message: risk_pb2.PaymentEvent) -> Event:
    """The event as the encoder takes it. Raises: ValueError, naming the field."""
    _check_words(message.channel, message.outcome, message.country, message.currency, message.mcc)
    if not message.HasField("ts"):
        raise ValueError("ts is missing")
    if not 0 <= message.amount <= MAX_AMOUNT:
        raise ValueError("amount is not a finite number of at least 0")
    event: Event = {
        "ts": _microseconds(message.ts, "ts"),
        "amount": message.amount,
        "mcc": message.mcc,
        "country": message.country,
        "currency": message.currency,
        "channel": message.channel,
        "outcome": message.outcome,
        "card_id": message.card_id,
        "merchant_id": message.merchant_id,
        "device_id": message.device_id,
        "issuer_bin": message.issuer_bin,
    }
    if message.event_id:  # two events without an id are not the same one
        event["event_id"] = message.event_id
    if message.HasField("fraud"):
        event["label"] = int(message.fraud)
    if message.HasField("label_ts"):
        event["label_ts"] = _microseconds(message.label_ts, "label_ts")
    return event


@lru_cache(maxsize=4096)
def _check_words(channel: str, outcome: str, country: str, currency: str, mcc: int) -> None:
    """Remembered: the events of a merchant say the same words again and again. Raises: ValueError, naming the field."""
    wire.field_code(channel, "channel")
    wire.field_code(outcome, "outcome")
    for name, text, letters in (("country", country, 2), ("currency", currency, 3)):
        if text and not (len(text) == letters and text.isascii() and text.isalpha()):
            raise ValueError(f"{name} '{text}' is not an ISO code of {letters} letters")
    if mcc > MAX_MCC:
        raise ValueError(f"mcc {mcc} is not one of 0 to {MAX_MCC}")


def _microseconds(moment: Timestamp, name: str) -> int:
    if not YEARS_S[0] <= moment.seconds <= YEARS_S[1] or not 0 <= moment.nanos < 1_000_000_000:
        raise ValueError(f"{name} is not a time of the years 1 to 9999")
    return moment.seconds * 1_000_000 + moment.nanos // 1000


def _stats(values: Sequence[float], where: str) -> list[float] | None:
    if not values:
        return None
    if len(values) != len(wire.MERCHANT_STATS):
        raise InvalidInference(f"{where} has {len(values)} numbers, but takes {len(wire.MERCHANT_STATS)} or none")
    if not all(map(math.isfinite, values)):
        raise InvalidInference(f"{where} has a number that is not finite")
    return list(values)
