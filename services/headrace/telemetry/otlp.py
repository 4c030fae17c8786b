"""Spans as OTLP: protobuf for a collector, JSON for the local file. Two encoders of one `Span`.

Protobuf by splicing: a span is a packed head, the kept bytes of its shape, and small variable pieces; fields may
come in any order. Tests decode both with opentelemetry-proto and compare.
Source: opentelemetry-proto trace.proto; OTLP/JSON: hex ids, integers as decimal strings.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
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
    attributes = "".join([_json_attribute(key, value) for key, value in resource])[1:]
    return (
        f'{{"resourceSpans":[{{"resource":{{"attributes":[{attributes}]}},'
        f'"scopeSpans":[{{"scope":{{"name":"{SCOPE_NAME}"}},"spans":[{",".join(spans)}]}}]}}]}}\n'
    )


def json_span(span: Span) -> str:
    """One span as an object. The hot half of the tracer's thread: every span of every inference passes here."""
    shape, trace_id, span_id, parent_id, start_ns, end_ns, own, links, dropped, error, event = span
    attributes = "".join([_json_attribute(key, value) for key, value in own])
    text = (
        f'{{"traceId":"{trace_id.hex()}","spanId":"{span_id:016x}","parentSpanId":"{parent_id:016x}",'
        f'"startTimeUnixNano":"{start_ns}","endTimeUnixNano":"{end_ns}",{_json_shape(shape)}{attributes}]'
        if parent_id
        else f'{{"traceId":"{trace_id.hex()}","spanId":"{span_id:016x}",'
        f'"startTimeUnixNano":"{start_ns}","endTimeUnixNano":"{end_ns}",{_json_shape(shape)}{attributes}]'
    )
    if links:
        each = ",".join([f'{{"traceId":"{t.hex()}","spanId":"{s:016x}"}}' for t, s in links])
        text += f',"links":[{each}]'
    if dropped:
        text += f',"droppedLinksCount":{dropped}'
    if error:
        text += ',"status":{"code":2}'
    if event is not None:
        reason = _json_attribute("reason", event[1])[1:]
        text += f',"events":[{{"timeUnixNano":"{end_ns}","name":"{event[0]}","attributes":[{reason}]}}]'
    return text + "}"


@lru_cache(maxsize=4096)
def _json_shape(shape: Shape) -> str:
    """Name, kind and the attributes that never change; the array stays open for those that do."""
    constant = "".join([_json_attribute(key, value) for key, value in shape.attributes])[1:]
    return f'"name":{quoted(shape.name)},"kind":{shape.kind},"attributes":[{constant}'


def _json_attribute(key: str, value: Value) -> str:
    """One attribute behind a comma: every span has constant ones in front."""
    kind = value.__class__
    if kind is int:
        return f',{{"key":"{key}","value":{{"intValue":"{value}"}}}}'
    if kind is float:
        return f',{{"key":"{key}","value":{{"doubleValue":{value:.6f}}}}}'
    if kind is bool:
        return f',{{"key":"{key}","value":{{"boolValue":{"true" if value else "false"}}}}}'
    return f',{{"key":"{key}","value":{{"stringValue":{quoted(str(value))}}}}}'
