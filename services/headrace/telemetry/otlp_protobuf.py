"""Spans as OTLP protobuf, by splicing: messages concatenate and fields may come in any order.

Tests compare every span with what opentelemetry's own encoder makes of it.
Source: opentelemetry-proto, trace.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from headrace.telemetry.form import SCOPE, Attributes, Form, Link, Value

DOUBLE: Final = struct.Struct("<d").pack
TIME: Final = struct.Struct("<Q").pack
ID: Final = struct.Struct(">Q").pack
LOCAL, REMOTE = b"\x00\x01\x00\x00", b"\x00\x03\x00\x00"
"""Span flags: whether the parent, or the span linked to, is in another process; 0x100 = this is known."""
KEPT: Final = 8192
"""Encoded values an encoder remembers for one key."""


def varint(number: int) -> bytes:
    out = bytearray()
    number &= 0xFFFFFFFFFFFFFFFF
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def key_value(key: str, value: Value) -> bytes:
    return field(1, key.encode()) + field(2, _any_value(value))


def _any_value(value: Value) -> bytes:
    if isinstance(value, str):
        return field(1, value.encode())
    if isinstance(value, bool):
        return b"\x10" + varint(value)
    if isinstance(value, int):
        return b"\x18" + varint(value)
    return b"\x21" + DOUBLE(value)


class _Remembered(dict[Value, bytes]):
    """The attributes of one key, by value: row numbers, sizes and batch ids come again and again."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def __missing__(self, value: Value) -> bytes:
        if len(self) >= KEPT:
            self.clear()
        encoded = self[value] = field(9, key_value(self._key, value))
        return encoded


class _Lengths(dict[int, bytes]):
    """The tag of a span in its scope, and its length."""

    def __missing__(self, length: int) -> bytes:
        encoded = self[length] = b"\x12" + varint(length)
        return encoded


class _Template:
    """One form, with holes in bytes."""

    def __init__(self, form: Form) -> None:
        constant = field(5, form.name.encode()) + b"\x30" + varint(form.kind)
        constant += b"".join([field(9, key_value(key, value)) for key, value in form.constants])
        constant += b"\x7a\x02\x18\x02" if form.error else b"\x7a\x00"
        holes = b"".join([_literal(field(9, key_value(key, 0.0))[:-8]) + b"%b" for key in form.doubles])
        holes += b"%b" * (len(form.integers) + len(form.strings))
        ids = b"\x0a\x10%b\x12\x08%b"
        body = b"\x39%b\x41%b" + _literal(constant) + holes + b"%b"
        flags = b"\x85\x01" + (REMOTE if form.parent_is_remote else LOCAL)
        self.root = ids + b"\x85\x01" + LOCAL + body
        self.child = ids + b"\x22\x08%b" + flags + body
        self.doubles = len(form.doubles)
        self.others = [_Remembered(key) for key in (*form.integers, *form.strings)]
        self.event = form.event


def _literal(text: bytes) -> bytes:
    """Bytes that a template keeps as they are."""
    return text.replace(b"%", b"%%")


class ProtobufEncoding:
    """Bytes of an ExportTraceServiceRequest."""

    def __init__(self) -> None:
        self._templates: dict[Form, _Template] = {}
        self._lengths = _Lengths()

    def span(  # noqa: PLR0913, PLR0917  as in Encoding
        self,
        form: Form,
        trace_id: bytes,
        span_id: int,
        parent_id: int,
        start_ns: int,
        end_ns: int,
        values: tuple[float | int | str, ...] = (),
        links: bytes = b"",
        state: str = "",
    ) -> bytes:
        template = self._templates.get(form) or self._compiled(form)
        doubles = template.doubles
        filled = [DOUBLE(value) for value in values[:doubles]]
        filled += [known[value] for known, value in zip(template.others, values[doubles:], strict=True)]
        extra = links
        if state:
            extra += field(3, state.encode())
        if template.event is not None:
            extra += _event(template.event, end_ns)
        if parent_id:
            ids = (trace_id, ID(span_id), ID(parent_id), TIME(start_ns), TIME(end_ns))
            span = template.child % (*ids, *filled, extra)
        else:
            span = template.root % (trace_id, ID(span_id), TIME(start_ns), TIME(end_ns), *filled, extra)
        return self._lengths[len(span)] + span

    def links(self, targets: Sequence[Link], dropped: int = 0, *, remote: bool = False) -> bytes:
        flags = b"\x35" + (REMOTE if remote else LOCAL)
        joined = b"".join([b"\x6a\x21\x0a\x10" + t + b"\x12\x08" + ID(s) + flags for t, s in targets])
        return joined + b"\x70" + varint(dropped) if dropped else joined

    def request(self, sections: Sequence[tuple[Attributes, list[bytes]]]) -> bytes:
        return b"".join([field(1, _resource(resource) + _scope(spans)) for resource, spans in sections])

    def _compiled(self, form: Form) -> _Template:
        template = self._templates[form] = _Template(form)
        return template


def _event(event: tuple[str, str], end_ns: int) -> bytes:
    name, reason = event
    return field(11, b"\x09" + TIME(end_ns) + field(2, name.encode()) + field(3, key_value("reason", reason)))


def _resource(resource: Attributes) -> bytes:
    return field(1, b"".join([field(1, key_value(key, value)) for key, value in resource]))


def _scope(spans: list[bytes]) -> bytes:
    """A ScopeSpans; every span has brought its own tag and length."""
    return field(2, field(1, field(1, SCOPE.encode())) + b"".join(spans))
