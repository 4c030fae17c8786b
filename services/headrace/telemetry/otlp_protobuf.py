"""Spans as OTLP protobuf, by splicing: messages concatenate and fields may come in any order.

Tests compare every span with what opentelemetry's own encoder makes of it.
Source: opentelemetry-proto, trace.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Final

from headrace.telemetry.form import SCOPE, Attributes, Blank, Holes, Link, Value

DOUBLE: Final = struct.Struct("<d").pack
TIME: Final = struct.Struct("<Q").pack
LOCAL, REMOTE = b"\x00\x01\x00\x00", b"\x00\x03\x00\x00"
"""Span flags: whether the parent, or the span linked to, is in another process; 0x100 = this is known."""
KEPT: Final = 2048
"""Encoded values that are remembered for one key."""


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


class _Remembered(dict[int, bytes]):
    """The integer attributes of one key, by value: row numbers and sizes come again and again."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def __missing__(self, value: int) -> bytes:
        if len(self) >= KEPT:
            self.clear()
        encoded = self[value] = field(9, key_value(self._key, value))
        return encoded


@lru_cache(maxsize=4096)
def _string_attribute(key: str, value: str) -> bytes:
    return field(9, key_value(key, value))


class _Lengths(dict[int, bytes]):
    """The tag of a span in its scope, and its length."""

    def __missing__(self, length: int) -> bytes:
        encoded = self[length] = b"\x12" + varint(length)
        return encoded


class _Template:
    """A message under construction: literal bytes, and holes by name."""

    def __init__(self) -> None:
        self.text = b""
        self.holes: list[str] = []
        self.fixed = 0
        """Bytes of the literals and of the holes whose length never changes."""

    def literal(self, data: bytes) -> None:
        self.text += data.replace(b"%", b"%%")
        self.fixed += len(data)

    def hole(self, name: str, size: int = 0) -> None:
        self.text += b"%b"
        self.holes.append(name)
        self.fixed += size


class ProtobufStencil:
    """Some spans as entries of ScopeSpans.spans, each with its tag and length."""

    def __init__(self, blanks: Sequence[Blank], lengths: _Lengths, known: dict[str, _Remembered]) -> None:
        self.spans = len(blanks)
        self.holes = Holes.of(blanks)
        self._lengths = lengths
        keys: dict[str, str] = {}
        templates = [_template(blank, keys) for blank in blanks]
        # Filled in this order: every hole once, then the lengths of the spans.
        order = [name for names in self.holes for name in names] + [f"#{n}" for n in range(self.spans)]
        place = {name: at for at, name in enumerate(order)}
        self._known = [known.setdefault(keys[name], _Remembered(keys[name])) for name in self.holes.integers]
        self._keys = [keys[name] for name in self.holes.strings]
        varying = {*self.holes.integers, *self.holes.strings, *self.holes.extras}
        self._sizes = [(t.fixed, [place[name] for name in t.holes if name in varying]) for t in templates]
        self._text = b"".join([b"%b" + template.text for template in templates])
        names = [name for n, template in enumerate(templates) for name in (f"#{n}", *template.holes)]
        self._pick = itemgetter(*[place[name] for name in names])

    def fill(
        self,
        ids: tuple[bytes, ...],
        times: tuple[int, ...],
        doubles: tuple[float, ...] = (),
        integers: tuple[int, ...] = (),
        strings: tuple[str, ...] = (),
        extras: tuple[bytes, ...] = (),
    ) -> bytes:
        numbers = [known[value] for known, value in zip(self._known, integers, strict=True)]
        texts = map(_string_attribute, self._keys, strings)
        values = [*ids, *map(TIME, times), *map(DOUBLE, doubles), *numbers, *texts, *extras]
        lengths = self._lengths
        values += [lengths[fixed + sum([len(values[at]) for at in places])] for fixed, places in self._sizes]
        filled: bytes = self._text % self._pick(values)
        return filled


def _template(blank: Blank, keys: dict[str, str]) -> _Template:
    """One span's message. `keys` gets the attribute that each of its integer and string holes stands for."""
    made = _Template()
    trace, span, parent = blank.ids
    for tag, name, size in ((b"\x0a\x10", trace, 16), (b"\x12\x08", span, 8), (b"\x22\x08", parent, 8)):
        if name:
            made.literal(tag)
            made.hole(name, size)
    for tag, name in ((b"\x39", blank.times[0]), (b"\x41", blank.times[1])):
        made.literal(tag)
        made.hole(name, 8)
    made.literal(b"\x85\x01" + (REMOTE if blank.parent_is_remote else LOCAL))
    made.literal(field(5, blank.name.encode()) + b"\x30" + varint(blank.kind))
    made.literal(b"".join([field(9, key_value(key, value)) for key, value in blank.constants]))
    made.literal(b"\x7a\x02\x18\x02" if blank.error else b"\x7a\x00")
    for key, name in (blank.doubles or {}).items():
        made.literal(field(9, key_value(key, 0.0))[:-8])
        made.hole(name, 8)
    for key, name in {**(blank.integers or {}), **(blank.strings or {})}.items():
        assert keys.setdefault(name, key) == key, "This is a bug: one hole, two attributes."
        made.hole(name)
    if blank.event is not None:
        name, reason = blank.event
        before, after = b"\x09", field(2, name.encode()) + field(3, key_value("reason", reason))
        made.literal(varint(11 << 3 | 2) + varint(len(before) + 8 + len(after)) + before)
        made.hole(blank.times[1], 8)
        made.literal(after)
    if blank.extra:
        made.hole(blank.extra)
    return made


class ProtobufEncoding:
    """Bytes of an ExportTraceServiceRequest."""

    def __init__(self) -> None:
        self._lengths = _Lengths()
        self._known: dict[str, _Remembered] = {}

    def stencil(self, blanks: Sequence[Blank]) -> ProtobufStencil:
        return ProtobufStencil(blanks, self._lengths, self._known)

    def links(self, targets: Sequence[Link], dropped: int = 0, *, remote: bool = False) -> bytes:
        flags = b"\x35" + (REMOTE if remote else LOCAL)
        joined = b"".join([b"\x6a\x21\x0a\x10" + t + b"\x12\x08" + s + flags for t, s in targets])
        return joined + b"\x70" + varint(dropped) if dropped else joined

    def state(self, tracestate: str) -> bytes:
        return field(3, tracestate.encode())

    def request(self, sections: Sequence[tuple[Attributes, list[bytes]]]) -> list[bytes]:
        return [field(1, _resource(resource) + _scope(spans)) for resource, spans in sections]


def _resource(resource: Attributes) -> bytes:
    return field(1, b"".join([field(1, key_value(key, value)) for key, value in resource]))


def _scope(spans: list[bytes]) -> bytes:
    """A ScopeSpans; every span has brought its own tag and length."""
    return field(2, field(1, field(1, SCOPE.encode())) + b"".join(spans))
