"""Reads the local trace files back: finds one inference's trace, whole, and sums up stages over many.

An inference's own trace and its batch's are two; `execute` links them, and what this file returns has both.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

STAGES: Final = ("rpc", "queue", "dispatch", "replica.batch", "forward")
"""What a summary tells apart; `rpc` is every span of kind SERVER that is not the replica's."""
TAIL_BYTES: Final = 24 * 1024 * 1024
"""How much of the newest files is read when looking for the latest trace."""


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """One span of a file."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    error: bool
    kind: int

    @property
    def ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6

    @property
    def stage(self) -> str:
        return "rpc" if self.kind == 2 and self.name != "replica.batch" else self.name


@dataclass(slots=True)
class Trace:
    """One inference: its own spans, and those of the batch it rode in."""

    rpc: StoredSpan
    own: list[StoredSpan] = field(default_factory=list)
    batch: list[StoredSpan] = field(default_factory=list)

    @property
    def spans(self) -> list[StoredSpan]:
        return [*self.own, *self.batch]

    @property
    def complete(self) -> bool:
        """It reached a replica's forward pass, and that is in the files too."""
        return {"queue", "execute"} <= {span.name for span in self.own} and {
            "batch",
            "dispatch",
            "replica.batch",
            "forward",
        } <= {span.name for span in self.batch}


def spans(directory: Path, tail_bytes: int = TAIL_BYTES) -> Iterator[StoredSpan]:
    """The spans of the newest files of a directory, at most about `tail_bytes` of each service."""
    services: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(directory.glob("*.jsonl"), key=lambda p: p.stat().st_mtime, reverse=True):
        services[path.name.split("-", 2)[1]].append(path)
    for paths in services.values():
        left = tail_bytes
        for path in paths:
            if left <= 0:
                break
            left -= path.stat().st_size
            yield from _spans_of_file(path, tail_bytes)


def find(directory: Path, trace_id: str = "") -> Trace | None:
    """The trace whose id begins with `trace_id`, or the most recent complete one; None = there is none."""
    roots, by_trace = _roots(directory)
    matching = [span for span in roots if span.trace_id.startswith(trace_id.lower())]
    for rpc in sorted(matching, key=lambda span: span.end_ns, reverse=True):
        trace = _assemble(rpc, by_trace)
        if trace.complete or trace_id:
            return trace
    return None


def typical(directory: Path) -> Trace | None:
    """The complete trace whose duration is nearest to the median; None = there is none."""
    roots, by_trace = _roots(directory)
    median = float(np.median([span.ms for span in roots])) if roots else 0.0
    traces = (_assemble(rpc, by_trace) for rpc in sorted(roots, key=lambda span: abs(span.ms - median)))
    return next((trace for trace in traces if trace.complete), None)


def _roots(directory: Path) -> tuple[list[StoredSpan], dict[str, list[StoredSpan]]]:
    """Every `rpc` span, and all spans by trace."""
    by_trace: dict[str, list[StoredSpan]] = defaultdict(list)
    for span in spans(directory):
        by_trace[span.trace_id].append(span)
    return [span for family in by_trace.values() for span in family if span.stage == "rpc"], by_trace


def percentiles_ms(directory: Path) -> dict[str, tuple[float, float, float]]:
    """p50, p95 and p99 in milliseconds of every stage."""
    durations: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for span in spans(directory):
        # The riders' own copies of `forward` would count a batch once for every member.
        if span.stage in durations and not (span.name == "forward" and span.links):
            durations[span.stage].append(span.ms)
    return {
        stage: tuple(float(value) for value in np.percentile(found, (50, 95, 99)))  # type: ignore[misc]
        for stage, found in durations.items()
        if found
    }


def _assemble(rpc: StoredSpan, by_trace: dict[str, list[StoredSpan]]) -> Trace:
    own = [s for s in by_trace[rpc.trace_id] if s is rpc or _below(s, rpc, by_trace[rpc.trace_id])]
    linked = {trace_id for s in own if s.name == "execute" for trace_id, _ in s.links}
    batch = [s for trace_id in linked for s in by_trace.get(trace_id, ())]
    order = lambda span: (span.start_ns, -span.end_ns)  # noqa: E731
    return Trace(rpc, sorted(own, key=order), sorted(batch, key=order))


def _below(span: StoredSpan, root: StoredSpan, family: list[StoredSpan]) -> bool:
    """A caller's trace may hold many requests: take what descends from this one."""
    parents = {member.span_id: member.parent_id for member in family}
    at: str | None = span.parent_id
    while at and at != root.span_id:
        at = parents.get(at)
    return at == root.span_id


def _spans_of_file(path: Path, tail_bytes: int) -> Iterator[StoredSpan]:
    with path.open("rb") as file:
        if (size := path.stat().st_size) > tail_bytes:
            file.seek(size - tail_bytes)
            file.readline()  # the first line may be half
        for line in file:
            try:
                tree = json.loads(line)
            except ValueError:
                continue  # the last line of a process that was killed
            yield from _spans_of_line(tree)


def _spans_of_line(tree: dict[str, Any]) -> Iterator[StoredSpan]:
    for resource_spans in tree["resourceSpans"]:
        service = str(_attributes(resource_spans["resource"]).get("service.name", ""))
        for scope_spans in resource_spans["scopeSpans"]:
            for span in scope_spans["spans"]:
                yield StoredSpan(
                    service=service,
                    name=span["name"],
                    trace_id=span["traceId"],
                    span_id=span["spanId"],
                    parent_id=span.get("parentSpanId", ""),
                    start_ns=int(span["startTimeUnixNano"]),
                    end_ns=int(span["endTimeUnixNano"]),
                    attributes=_attributes(span),
                    links=tuple((link["traceId"], link["spanId"]) for link in span.get("links", ())),
                    error=span.get("status", {}).get("code") == 2,
                    kind=span["kind"],
                )


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    values = {entry["key"]: entry["value"] for entry in holder.get("attributes", ())}
    return {key: int(v["intValue"]) if "intValue" in v else next(iter(v.values())) for key, v in values.items()}
