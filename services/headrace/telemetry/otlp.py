"""Spans as OTLP: protobuf for a collector, JSON for the local file. Two encoders of one `Span`.

Protobuf by splicing: a span is a packed head, the kept bytes of its shape, and small variable pieces; fields may
come in any order. Tests decode both with opentelemetry-proto and compare.
Source: opentelemetry-proto trace.proto; OTLP/JSON: hex ids, integers as decimal strings.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from headrace.telemetry.catalogue import Attributes, Shape, Span, Value

HEAD: Final = struct.Struct("<2s16s2s8s2s8scQcQ")
ROOT_HEAD: Final = struct.Struct("<2s16s2s8scQcQ")
ERROR_STATUS: Final = b"\x7a\x02\x18\x02"
SCOPE_NAME: Final = "headrace"


def varint(number: int) -> bytes:
    out = bytearray()
    number &= 0xFFFFFFFFFFFFFFFF
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


# Protobuf -------------------------------------------------------------------------------------------------------------


def protobuf_request(resource: Attributes, spans: Iterable[bytes]) -> bytes:
    """An ExportTraceServiceRequest of one resource and one scope around encoded spans."""
    scope_spans = field(1, field(1, SCOPE_NAME.encode())) + b"".join([field(2, span) for span in spans])
    resource_bytes = field(1, b"".join([field(1, _key_value(key, value)) for key, value in resource]))
    return field(1, resource_bytes + field(2, scope_spans))


def protobuf_span(span: Span) -> bytes:
    parts = [_head(span), _tail(span.shape)]
    parts += [field(9, _key_value(key, value)) for key, value in span.attributes]
    parts += [b"\x6a\x1c\x0a\x10" + trace_id + b"\x12\x08" + span_id.to_bytes(8) for trace_id, span_id in span.links]
    if span.dropped_links:
        parts.append(b"\x70" + varint(span.dropped_links))
    if span.error:
        parts.append(ERROR_STATUS)
    if span.event is not None:
        name, reason = span.event
        time_and_name = b"\x09" + struct.pack("<Q", span.end_ns) + field(2, name.encode())
        parts.append(field(11, time_and_name + field(3, _key_value("reason", reason))))
    return b"".join(parts)


def _head(span: Span) -> bytes:
    span_id = span.span_id.to_bytes(8)
    times = (b"\x39", span.start_ns, b"\x41", span.end_ns)
    if not span.parent_id:
        return ROOT_HEAD.pack(b"\x0a\x10", span.trace_id, b"\x12\x08", span_id, *times)
    return HEAD.pack(b"\x0a\x10", span.trace_id, b"\x12\x08", span_id, b"\x22\x08", span.parent_id.to_bytes(8), *times)


@lru_cache(maxsize=4096)
def _tail(shape: Shape) -> bytes:
    attributes = b"".join([field(9, _key_value(key, value)) for key, value in shape.attributes])
    return field(5, shape.name.encode()) + b"\x30" + varint(shape.kind) + attributes


def _key_value(key: str, value: Value) -> bytes:
    return _key(key) + field(2, _any_value(value))


@lru_cache(maxsize=256)
def _key(key: str) -> bytes:
    return field(1, key.encode())


def _any_value(value: Value) -> bytes:
    if isinstance(value, str):
        return field(1, value.encode())
    if isinstance(value, bool):
        return b"\x10" + varint(value)
    if isinstance(value, int):
        return b"\x18" + varint(value)
    return b"\x21" + struct.pack("<d", value)


# JSON -----------------------------------------------------------------------------------------------------------------


def json_line(resource: Attributes, spans: Iterable[str]) -> str:
    """One TracesData object on one line, with its newline."""
    return (
        f'{{"resourceSpans":[{{"resource":{{"attributes":[{_json_attributes(resource)}]}},'
        f'"scopeSpans":[{{"scope":{{"name":"{SCOPE_NAME}"}},"spans":[{",".join(spans)}]}}]}}]}}\n'
    )


def json_span(span: Span) -> str:
    name, kind, constant = _json_shape(span.shape)
    own = _json_attributes(span.attributes)
    attributes = f"{constant},{own}" if constant and own else constant or own
    parts = [
        f'{{"traceId":"{span.trace_id.hex()}","spanId":"{span.span_id:016x}",',
        f'"parentSpanId":"{span.parent_id:016x}",' if span.parent_id else "",
        f'"name":{name},"kind":{kind},"startTimeUnixNano":"{span.start_ns}","endTimeUnixNano":"{span.end_ns}",',
        f'"attributes":[{attributes}]',
    ]
    if span.links:
        links = ",".join([f'{{"traceId":"{t.hex()}","spanId":"{s:016x}"}}' for t, s in span.links])
        parts.append(f',"links":[{links}]')
    if span.dropped_links:
        parts.append(f',"droppedLinksCount":{span.dropped_links}')
    if span.error:
        parts.append(',"status":{"code":2}')
    if span.event is not None:
        reason = _json_attributes((("reason", span.event[1]),))
        parts.append(f',"events":[{{"timeUnixNano":"{span.end_ns}","name":"{span.event[0]}","attributes":[{reason}]}}]')
    parts.append("}")
    return "".join(parts)


@lru_cache(maxsize=4096)
def _json_shape(shape: Shape) -> tuple[str, int, str]:
    return json.dumps(shape.name), shape.kind, _json_attributes(shape.attributes)


def _json_attributes(attributes: Attributes) -> str:
    return ",".join([f'{{"key":"{key}","value":{_json_value(value)}}}' for key, value in attributes])


def _json_value(value: Value) -> str:
    if isinstance(value, str):
        return f'{{"stringValue":{json.dumps(value)}}}'
    if isinstance(value, bool):
        return f'{{"boolValue":{"true" if value else "false"}}}'
    if isinstance(value, int):
        return f'{{"intValue":"{value}"}}'
    return f'{{"doubleValue":{value!r}}}'
