"""What an answer depends on, as a digest: two requests with one idempotency key must agree in it.

Of the bytes as they came, before they are decoded: a retry sends what was sent. Nothing that may differ from one try to
the next is in it: no id, no deadline, no priority. Paid by requests with a key alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

from headrace.v1 import risk_pb2

SIZE: Final = 16
"""Bytes. Nobody gains by two questions of his own that share one."""
STATEFUL: Final = ("sequence_end", "sequence_id", "sequence_start")
"""Parameters of the Open Inference Protocol that are as good as inputs."""


def of_tensors(request: Any) -> bytes:
    """Of a ModelInferRequest: its inputs, the outputs it asks for, and its place in a sequence."""
    inputs, outputs, raw, parameters = request.inputs, request.outputs, request.raw_input_contents, request.parameters
    parts = [message.SerializeToString(deterministic=True) for message in (*inputs, *outputs)]
    parts += raw
    for name in STATEFUL:
        if name in parameters:
            parts += name.encode(), parameters[name].SerializeToString()
    return _digest(f"tensors {len(inputs)} {len(outputs)} {len(raw)}", parts)


def of_payments(payments: Iterable[risk_pb2.Payment], *, explain: bool, several: bool) -> bytes:
    """Of the payments of a ScoreRequest, or of a ScoreBatchRequest, which answers otherwise."""
    parts = [payment.SerializeToString(deterministic=True) for payment in payments]
    return _digest(f"payments {explain} {several}", parts)


def _digest(kind: str, parts: Iterable[bytes]) -> bytes:
    """Each part with its length: what one of them loses at its end, the next one must not gain."""
    found = blake2b(kind.encode(), digest_size=SIZE)
    for part in parts:
        found.update(len(part).to_bytes(8))
        found.update(part)
    return found.digest()
