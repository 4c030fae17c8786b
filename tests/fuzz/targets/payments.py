"""Payments in their own words, at the gateway: refused by the place of what is wrong, or encoded as clients do."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from tests.fuzz.targets.target import Target
from tests.payments import event, mapping, payment

from headrace.core.batch import bad_rows
from headrace.errors import InvalidInference
from headrace.gateway import wire as gateway_wire
from headrace.gateway.payments import PaymentEncoder, Row
from headrace.testing.payments import payment_spec
from headrace.v1 import risk_pb2
from headrace_models import wire


@lru_cache(maxsize=1)
def encoder() -> PaymentEncoder:
    """For the shipped fraud-tx."""
    return PaymentEncoder(gateway_wire.spec(payment_spec()))


def _seeds() -> list[bytes]:
    found = [
        risk_pb2.ScoreBatchRequest(payments=[payment(3, 5)]),
        risk_pb2.ScoreBatchRequest(payments=[payment(0, 0), payment(2, 1)], explain=True, request_id="r"),
    ]
    found[0].payments[0].merchant_stats.extend([0.5] * len(wire.MERCHANT_STATS))
    found[1].payments[0].event.CopyFrom(event(channel="ecommerce", outcome="declined", currency="USD", mcc=0))
    return [message.SerializeToString() for message in found]


def check(data: bytes) -> None:
    try:
        request = risk_pb2.ScoreBatchRequest.FromString(data)
    except DecodeError:
        return
    for place, message in enumerate(request.payments):
        where = f"payments[{place}]"
        try:
            row = encoder().encode(message, where)
        except InvalidInference as refusal:
            assert str(refusal).startswith(where)  # noqa: PT017  either end is a good one
            continue
        assert row == encoder().encode(message, where)
        assert row.columns == _as_clients_do(message, row)
        assert set(bad_rows(encoder().join([row], 0.0, ""))) <= {0}


def _as_clients_do(message: risk_pb2.Payment, row: Row) -> list[bytes]:
    """The columns that a client makes of the same payment, of which the model is given the newest."""
    stats: Any = list(message.merchant_stats) or None
    histories = [list(map(_mapping, history)) for history in (message.card_history, message.merchant_history)]
    columns = wire.payment_columns(_mapping(message.event), *histories, stats)
    spec, found = encoder().spec, []
    for tensor, axis in zip(spec.inputs, spec.input_axes, strict=True):
        values = columns[tensor.name][0]
        if axis >= 0:
            values = values[max(0, len(values) - spec.axes[axis].cap) :]
            assert row.lengths[axis] == len(values)
        found.append(np.ascontiguousarray(values).tobytes())
    return found


def _mapping(message: risk_pb2.PaymentEvent) -> dict[str, Any]:
    found = mapping(message)
    if message.HasField("label_ts"):
        found["label_ts"] = message.label_ts.ToMicroseconds()
    if not message.event_id:
        del found["event_id"]
    return found


TARGET: Final = Target(
    _seeds(), check, ("headrace.gateway.payments", "headrace_models.wire"), risk_pb2.ScoreBatchRequest
)
