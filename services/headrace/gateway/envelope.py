"""What a message would cost to parse, seen in its bytes before anything is allocated for it.

An empty tensor, event or parameter is two bytes on the wire and a hundred or more once parsed, a small integer one
byte and eight: 64 MiB could become gigabytes. Small messages are not looked at: they cannot become much. Knows no
values, and says nothing of what is in a message: whether it means anything is for whoever parses it.
Source: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc

from headrace.rpc.messages import Failure

SMALL: Final = 64 << 10
"""Bytes of a message that is not looked at: it cannot become more than some 5 MB."""
MAX_PARTS: Final = 160_000
"""Fields of messages that have repeated ones, each some hundred bytes once parsed and half a µs to count. 64 payments
with two histories of 1,024 events, which is all that one may have, have 131,392."""
MAX_ELEMENTS: Final = 16 << 20
"""Numbers in typed contents and shapes: 128 MiB. In raw contents numbers are bytes, and cost no more."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
CONTINUED: Final = bytes(range(0x80, 0x100))
"""Bytes of a varint that are not its last."""

Plan = dict[int, Any]
"""Number of a field → the plan of what is in it, or bytes a packed element has, 0 = varints. Others are skipped."""


def check_of(descriptor: Any) -> Callable[[bytes], None]:
    """What looks at messages of this type. Raises: Failure, for one that holds too much."""
    plan = _plan(descriptor)
    return lambda message: _Count(message).walk(plan, 0, len(message))


class _Malformed(Exception):
    """The bytes end, or mean nothing: the parser will refuse them where they do, and allocate no further."""


class _Count:
    """Of one message."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._parts = 0
        self._elements = 0

    def walk(self, plan: Plan, at: int, end: int) -> None:
        """Raises: Failure."""
        try:
            self._walk(plan, at, end)
        except (_Malformed, IndexError):
            return

    def _walk(self, plan: Plan, at: int, end: int) -> None:
        """Most parts have a key and a size of one byte each, and nothing in them that is looked into."""
        message, parts, inside_of = self._message, self._parts, plan.get
        while at < end:
            parts += 1
            if parts > MAX_PARTS:
                raise _too_much(f"{MAX_PARTS} tensors, events and other parts")
            key = message[at]
            at += 1
            if key >= 0x80:
                key, at = self._varint(at - 1)
            if key & 7 != BYTES:
                at = self._skip(key & 7, at)
                continue
            size = message[at]
            at += 1
            if size >= 0x80:
                size, at = self._varint(at - 1)
            if at + size > end:
                raise _Malformed
            if (inside := inside_of(key >> 3)) is not None:
                self._parts = parts
                self._look_into(inside, at, at + size)
                parts = self._parts
            at += size
        self._parts = parts

    def _look_into(self, inside: Any, at: int, end: int) -> None:
        if isinstance(inside, dict):
            self._walk(inside, at, end)
        else:
            packed = self._message[at:end]
            self._elements += len(packed) // inside if inside else len(packed.translate(None, CONTINUED))
            if self._elements > MAX_ELEMENTS:
                raise _too_much(f"{MAX_ELEMENTS} numbers that are not raw")

    def _skip(self, kind: int, at: int) -> int:
        if kind == VARINT:
            return self._varint(at)[1]
        if kind == FIXED64:
            return at + 8
        if kind == FIXED32:
            return at + 4
        if kind in (3, 4):  # the parser would go on behind it, and nobody would have counted what it holds
            raise Failure(grpc.StatusCode.INVALID_ARGUMENT, "the message has a group, which no field of this call is")
        raise _Malformed

    def _varint(self, at: int) -> tuple[int, int]:
        """Its value, and where it ends. Raises: IndexError at the end of the message."""
        value = shift = 0
        while True:
            byte = self._message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                raise _Malformed


def _too_much(bound: str) -> Failure:
    return Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the message has more than {bound}", bound="message")


def _plan(descriptor: Any) -> Plan:
    """Only what can be many: a message without a repeated field in it is as large as its type."""
    plan: Plan = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            if inside := _plan(field.message_type):
                plan[field.number] = inside
        elif field.is_repeated and (size := _packed(field)) is not None:
            plan[field.number] = size
        if field.is_repeated:
            plan.setdefault(0, None)  # at least it counts as a part: this message is looked into
    return plan


def _packed(field: Any) -> int | None:
    """Bytes of an element of a packed field; 0 = they differ, None = it is not packed."""
    if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
        return None
    if field.type in (field.TYPE_FLOAT, field.TYPE_FIXED32, field.TYPE_SFIXED32):
        return 4
    return 8 if field.type in (field.TYPE_DOUBLE, field.TYPE_FIXED64, field.TYPE_SFIXED64) else 0
