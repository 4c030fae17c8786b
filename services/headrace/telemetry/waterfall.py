"""Draws one trace for a terminal: a bar per span, aligned in time, and where the time went."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headrace.telemetry.reading import StoredSpan, Trace

WIDTH: Final = 40
MATES: Final = 4
COLOURS: Final = {"queue": "yellow", "forward": "green", "dispatch": "cyan", "replica.batch": "blue"}


def draw(trace: Trace) -> RenderableType:
    """The waterfall of one inference: its own spans first, its batch's below, then those of its copies."""
    begin = min(span.start_ns for span in trace.spans)
    length = max(max(span.end_ns for span in trace.spans) - begin, 1)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("span", no_wrap=True)
    table.add_column("time", width=WIDTH)
    table.add_column("ms", justify="right", no_wrap=True)
    for title, spans in (("the request", trace.own), ("its batch", trace.batch), (_asked(trace), trace.copies)):
        if spans:
            table.add_row(Text(title, style="dim"))
        depths = _depths(spans)
        for span in spans:
            name = Text("  " * depths[span.span_id] + _name(span), style="red" if span.error else "")
            table.add_row(name, _bar(span, begin, length), f"{span.ms:.3f}")
    head = Text(f"trace {trace.rpc.trace_id}   {trace.rpc.ms:.2f} ms   {_model(trace.rpc)}", style="bold")
    return Group(*[part for part in (head, table, _where(trace), _mates(trace), _why(trace)) if part is not None])


def listing(traces: list[Trace]) -> Table:
    """One line a trace: when, how long, where the time went, and how it ended."""
    table = Table("trace", "began", "ms", "queue", "model", "batch", "ended", box=None, pad_edge=False)
    for column in table.columns[2:6]:
        column.justify = "right"
    for trace in traces:
        own = {span.name: span for span in trace.own}
        began = datetime.fromtimestamp(trace.rpc.start_ns / 1e9, UTC).astimezone().isoformat(" ", "milliseconds")[11:23]
        cells = [f"{own[name].ms:.2f}" if name in own else "" for name in ("queue", "forward")]
        size = own["execute"].attributes.get("headrace.batch.size", "") if "execute" in own else ""
        table.add_row(trace.rpc.trace_id[:16], began, f"{trace.rpc.ms:.2f}", *cells, str(size), _ending(trace.rpc))
    return table


def _ending(rpc: StoredSpan) -> str:
    code = str(rpc.attributes.get("rpc.response.status_code", ""))
    reason = rpc.attributes.get("headrace.reason")
    return f"{code} ({reason})" if reason else code


def _name(span: StoredSpan) -> str:
    return span.stage if span.stage == "rpc" else span.name


def _bar(span: StoredSpan, begin: int, length: int) -> Text:
    left = min(int((span.start_ns - begin) / length * WIDTH), WIDTH - 1)
    width = max(1, min(round((span.end_ns - span.start_ns) / length * WIDTH), WIDTH - left))
    return Text(" " * left + "━" * width, style=COLOURS.get(span.name, "white"))


def _depths(spans: list[StoredSpan]) -> dict[str, int]:
    parents = {span.span_id: span.parent_id for span in spans}
    depths = {}
    for span in spans:
        depth, at = 1, span.parent_id
        while at in parents:
            depth += 1
            at = parents[at]
        depths[span.span_id] = depth
    return depths


def _asked(trace: Trace) -> str:
    """Who got the same question besides."""
    if not trace.copies:
        return ""
    instead = trace.copies[0].attributes.get("headrace.path") == "fallback"
    return f"asked {'instead' if instead else 'as well'}: {_model(trace.copies[0])}"


def _model(span: StoredSpan) -> str:
    return f"{span.attributes.get('headrace.model.name', '')} {span.attributes.get('headrace.model.version', '')}"


def _where(trace: Trace) -> Text:
    """One line: how the request's time divides, and how many rode along."""
    own = {span.name: span for span in trace.own}
    queue = own["queue"].ms if "queue" in own else 0.0
    forward = own["forward"].ms if "forward" in own else 0.0
    execute = own["execute"].ms if "execute" in own else 0.0
    rest = max(0.0, trace.rpc.ms - queue - execute)
    size = next((span.attributes.get("headrace.batch.size", 1) for span in trace.batch if span.name == "batch"), 1)
    return Text(
        f"where the time went: queue {queue:.2f}, model {forward:.2f}, way there and back "
        f"{max(0.0, execute - forward):.2f}, decode and encode {rest:.2f} ms; batch of {size}",
        style="dim",
    )


def _mates(trace: Trace) -> Text | None:
    """Who rode along, the slowest first."""
    if not trace.mates:
        return None
    shown = ", ".join(f"{mate.trace_id[:8]} {mate.ms:.1f} ms" for mate in trace.mates[:MATES])
    more = f" and {len(trace.mates) - MATES} more" if len(trace.mates) > MATES else ""
    return Text(f"batch-mates: {shown}{more}", style="dim")


def _why(trace: Trace) -> Text | None:
    """How it ended, when it did not end well."""
    said = trace.rpc.attributes
    if "headrace.fallback.reason" in said and "headrace.reason" not in said:
        why = f"{said['headrace.fallback.reason']} ({said['headrace.fallback.error']})"
        return Text(f"answered by a fallback, {said['headrace.fallback.by']}: {why}", style="yellow")
    return Text(f"ended {_ending(trace.rpc)}", style="red") if "headrace.reason" in trace.rpc.attributes else None
