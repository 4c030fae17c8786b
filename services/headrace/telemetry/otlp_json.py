"""Spans as OTLP JSON, one TracesData object a line: what the local file holds.

Ids are hex, enums and small integers numbers, 64-bit integers decimal strings; protobuf's own JSON mapping is
another one. Source: opentelemetry.io/docs/specs/otel/protocol/file-exporter.
"""

from __future__ import annotations

import json
from binascii import hexlify
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Final

from headrace.telemetry.form import SCOPE, Attributes, Blank, Holes, Link, Value

LOCAL, REMOTE = 0x100, 0x300
"""As in `otlp_protobuf`."""
VALUES: Final = {float: b'{"doubleValue":%a}', int: b'{"intValue":"%d"}', str: b'{"stringValue":%b}'}

SECTION: Final = (
    b'%b{"resource":{"attributes":[%b]},"scopeSpans":[{"scope":{"name":"' + SCOPE.encode() + b'"},"spans":['
)


@lru_cache(maxsize=4096)
def quoted(text: str) -> bytes:
    return json.dumps(text).encode()


def attribute(key: str, value: Value) -> bytes:
    kind = type(value)
    if kind is bool:
        filled = b'{"boolValue":%b}' % (b"true" if value else b"false")
    else:
        filled = VALUES[kind] % (quoted(value) if isinstance(value, str) else value)
    return b'{"key":%b,"value":%b}' % (quoted(key), filled)


def _literal(text: bytes) -> bytes:
    """Text that a template keeps as it is."""
    return text.replace(b"%", b"%%")


class JsonStencil:
    """Some spans as elements of a `spans` array."""

    def __init__(self, blanks: Sequence[Blank]) -> None:
        self.spans = len(blanks)
        self.holes = Holes.of(blanks)
        templates = [_template(blank) for blank in blanks]
        place = {name: at for at, name in enumerate(name for names in self.holes for name in names)}
        self._text = b",".join([text for text, _ in templates])
        self._pick = itemgetter(*[place[name] for _, names in templates for name in names])

    def fill(
        self,
        ids: tuple[bytes, ...],
        times: tuple[int, ...],
        doubles: tuple[float, ...] = (),
        integers: tuple[int, ...] = (),
        strings: tuple[str, ...] = (),
        extras: tuple[bytes, ...] = (),
    ) -> bytes:
        values = (*map(hexlify, ids), *times, *doubles, *integers, *map(quoted, strings), *extras)
        filled: bytes = self._text % self._pick(values)
        return filled


def _template(blank: Blank) -> tuple[bytes, list[str]]:
    """One span's object, and the names of its holes."""
    trace, span, parent = blank.ids
    attributes = [_literal(attribute(key, value)) for key, value in blank.constants]
    names = [trace, span, *([parent] if parent else []), *blank.times]
    for holes, kind in ((blank.doubles, float), (blank.integers, int), (blank.strings, str)):
        for key, hole in (holes or {}).items():
            attributes.append(b'{"key":%b,"value":%b}' % (_literal(quoted(key)), VALUES[kind]))
            names.append(hole)
    parts = [b'{"traceId":"%b","spanId":"%b"']
    if parent:
        parts.append(b',"parentSpanId":"%b"')
    parts.append(b',"startTimeUnixNano":"%d","endTimeUnixNano":"%d"')
    parts.append(b',"flags":' + str(REMOTE if blank.parent_is_remote else LOCAL).encode())
    parts.append(b',"name":' + _literal(quoted(blank.name)) + b',"kind":' + str(blank.kind).encode())
    parts.append(b',"attributes":[' + b",".join(attributes) + b"]")
    if blank.error:
        parts.append(b',"status":{"code":2}')
    if blank.event is not None:
        event, reason = _literal(quoted(blank.event[0])), _literal(attribute("reason", blank.event[1]))
        parts.append(b',"events":[{"timeUnixNano":"%d","name":' + event + b',"attributes":[' + reason + b"]}]")
        names.append(blank.times[1])
    if blank.extra:
        parts.append(b"%b")
        names.append(blank.extra)
    return b"".join(parts) + b"}", names


class JsonEncoding:
    """Bytes of a TracesData object and its newline."""

    def stencil(self, blanks: Sequence[Blank]) -> JsonStencil:
        return JsonStencil(blanks)

    def links(self, targets: Sequence[Link], dropped: int = 0, *, remote: bool = False) -> bytes:
        flags = REMOTE if remote else LOCAL
        each = [b'{"traceId":"%b","spanId":"%b","flags":%d}' % (hexlify(t), hexlify(s), flags) for t, s in targets]
        text = b',"links":[%b]' % b",".join(each) if each else b""
        return text + b',"droppedLinksCount":%d' % dropped if dropped else text

    def state(self, tracestate: str) -> bytes:
        return b',"traceState":' + quoted(tracestate)

    def request(self, sections: Sequence[tuple[Attributes, list[bytes]]]) -> list[bytes]:
        pieces = [b'{"resourceSpans":[']
        for place, (resource, spans) in enumerate(sections):
            attributes = b",".join([attribute(key, value) for key, value in resource])
            pieces.append(SECTION % (b"," if place else b"", attributes))
            for span in spans:
                pieces += span, b","
            pieces[-1] = b"]}]}"  # in place of the comma behind the last span
        pieces.append(b"]}\n")
        return pieces
