"""Payments in protobuf, and the same ones as the mappings that clients and training encode."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1 import risk_pb2

NOON_S = 1_772_366_400
"""2026-03-01T12:00:00Z."""


def moment(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp


def event(event_id: str = "p", at_s: float = NOON_S, **changes: Any) -> risk_pb2.PaymentEvent:
    values: dict[str, Any] = {
        "event_id": event_id,
        "ts": moment(at_s),
        "card_id": "c",
        "merchant_id": "m",
        "amount": 12.5,
        "currency": "EUR",
        "mcc": 5411,
        "country": "FR",
        "channel": "chip",
        "device_id": "d",
        "issuer_bin": "411111",
    }
    return risk_pb2.PaymentEvent(**(values | changes))


def earlier(count: int, **changes: Any) -> list[risk_pb2.PaymentEvent]:
    """So many payments, an hour apart; the last one an hour before noon."""
    changes = {"outcome": "approved", **changes}
    return [event(f"e{i}", NOON_S - 3600 * (count - i), amount=1.0 + i, **changes) for i in range(count)]


def payment(cards: int = 3, merchants: int = 5, **changes: Any) -> risk_pb2.Payment:
    merchant_history = earlier(merchants, card_id="other")
    if merchants:
        merchant_history[0].fraud = True
        merchant_history[0].label_ts.CopyFrom(moment(NOON_S - 60))
    return risk_pb2.Payment(event=event(**changes), card_history=earlier(cards), merchant_history=merchant_history)


def mapping(message: risk_pb2.PaymentEvent) -> dict[str, Any]:
    """The event as a client writes it."""
    names = ("event_id", "card_id", "merchant_id", "currency", "country", "channel", "device_id", "issuer_bin")
    found: dict[str, Any] = {name: getattr(message, name) for name in (*names, "outcome", "amount", "mcc")}
    found["ts"] = message.ts.ToMicroseconds()
    if message.HasField("fraud"):
        found["label"] = int(message.fraud)
    if message.HasField("label_ts"):
        found["label_ts"] = message.label_ts.ToJsonString()
    return found
