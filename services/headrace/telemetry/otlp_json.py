"""Spans as OTLP JSON, one TracesData object a line: what the local file holds.

Ids are hex, enums and small integers numbers, 64-bit integers decimal strings; protobuf's own JSON mapping is
another one. Source: opentelemetry.io/docs/specs/otel/protocol/file-exporter.
"""

from __future__ import annotations

import json
from binascii import hexlify
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from headrace.telemetry.form import SCOPE, Attributes, Form, Link, Value

LOCAL, REMOTE = 0x100, 0x300
"""As in `otlp_protobuf`."""
HOLES: Final = {float: b'{"doubleValue":%a}', int: b'{"intValue":"%d"}', str: b'{"stringValue":%b}'}


@lru_cache(maxsize=8192)
def quoted(text: str) -> bytes:
    return json.dumps(text).encode()


def attribute(key: str, value: Value) -> bytes:
    kind = type(value)
    if kind is bool:
        filled = b'{"boolValue":%b}' % (b"true" if value else b"false")
    else:
        filled = HOLES[kind] % (quoted(value) if isinstance(value, str) else value)
    return b'{"key":%b,"value":%b}' % (quoted(key), filled)


def _literal(text: bytes) -> bytes:
    """Text that a template keeps as it is."""
    return text.replace(b"%", b"%%")


class _Template:
    """One form, with holes in text."""

    def __init__(self, form: Form) -> None:
        attributes = [_literal(attribute(key, value)) for key, value in form.constants]
        for keys, kind in ((form.doubles, float), (form.integers, int), (form.strings, str)):
            attributes += [b'{"key":%b,"value":%b}' % (_literal(quoted(key)), HOLES[kind]) for key in keys]
        name = _literal(quoted(form.name))
        ids = b'{"traceId":"%b","spanId":"%016x",'
        body = b'"startTimeUnixNano":"%%d","endTimeUnixNano":"%%d","name":%b,"kind":%d,"attributes":[%b]%b%%b}' % (
            name,
            form.kind,
            b",".join(attributes),
            b',"status":{"code":2}' if form.error else b"",
        )
        self.root = ids + b'"flags":%d,' % LOCAL + body
        flags = REMOTE if form.parent_is_remote else LOCAL
        self.child = ids + b'"parentSpanId":"%016x","flags":' + b"%d," % flags + body
        self.numbers = len(form.doubles) + len(form.integers)
        self.event = form.event


class JsonEncoding:
    """Bytes of a TracesData object and its newline."""

    def __init__(self) -> None:
        self._templates: dict[Form, _Template] = {}

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
        if len(values) > template.numbers:
            numbers = template.numbers
            values = (*values[:numbers], *[quoted(text) for text in values[numbers:]])  # type: ignore[arg-type]
        if state:
            links += b',"traceState":' + quoted(state)
        if template.event is not None:
            links += _event(template.event, end_ns)
        if parent_id:
            return template.child % (hexlify(trace_id), span_id, parent_id, start_ns, end_ns, *values, links)
        return template.root % (hexlify(trace_id), span_id, start_ns, end_ns, *values, links)

    def links(self, targets: Sequence[Link], dropped: int = 0, *, remote: bool = False) -> bytes:
        flags = REMOTE if remote else LOCAL
        each = [b'{"traceId":"%b","spanId":"%016x","flags":%d}' % (hexlify(t), s, flags) for t, s in targets]
        text = b',"links":[%b]' % b",".join(each) if each else b""
        return text + b',"droppedLinksCount":%d' % dropped if dropped else text

    def request(self, sections: Sequence[tuple[Attributes, list[bytes]]]) -> bytes:
        return b'{"resourceSpans":[%b]}\n' % b",".join([_section(*section) for section in sections])

    def _compiled(self, form: Form) -> _Template:
        template = self._templates[form] = _Template(form)
        return template


def _event(event: tuple[str, str], end_ns: int) -> bytes:
    name, reason = event
    return b',"events":[{"timeUnixNano":"%d","name":%b,"attributes":[%b]}]' % (
        end_ns,
        quoted(name),
        attribute("reason", reason),
    )


def _section(resource: Attributes, spans: list[bytes]) -> bytes:
    attributes = b",".join([attribute(key, value) for key, value in resource])
    return b'{"resource":{"attributes":[%b]},"scopeSpans":[{"scope":{"name":"%b"},"spans":[%b]}]}' % (
        attributes,
        SCOPE.encode(),
        b",".join(spans),
    )
