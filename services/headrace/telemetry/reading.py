"""Reads the local trace files back: finds one inference's trace, whole, the slowest ones, and sums up stages.

An inference's own trace and its batch's are two; `execute` links them, and a Trace has both. A batch and its members
are one family, and a family is always whole within one line: files are read a line at a time and never held.
"""

from __future__ import annotations

import contextlib
import heapq
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np

from headrace.telemetry.form import SERVER

STAGES: Final = ("rpc", "queue", "dispatch", "replica.batch", "forward")
"""What a summary tells apart; `rpc` is every span of kind SERVER that is not the replica's."""
TAIL_BYTES: Final = 24 * 1024 * 1024
"""How much of the newest files is read when any recent trace will do."""


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
    def beside(self) -> bool:
        """Of what was asked beside a request: a copy that nobody waited for, or what a fallback was asked."""
        path = self.attributes.get("headrace.path")
        return path == "shadow" or (path == "fallback" and self.stage != "rpc")

    @property
    def stage(self) -> str:
        return "rpc" if self.kind == SERVER and self.name != "replica.batch" else self.name


@dataclass(slots=True)
class Trace:
    """One inference: its own spans, those of the batch it rode in, and who rode along."""

    rpc: StoredSpan
    own: list[StoredSpan] = field(default_factory=list)
    batch: list[StoredSpan] = field(default_factory=list)
    mates: list[StoredSpan] = field(default_factory=list)
    """The other members' `rpc`, slowest first."""
    copies: list[StoredSpan] = field(default_factory=list)
    """Of the same question to another version, for a comparison or because the first one had no answer in time."""

    @property
    def spans(self) -> list[StoredSpan]:
        return [*self.own, *self.batch, *self.copies]

    @property
    def complete(self) -> bool:
        """It reached a replica's forward pass, and that is in the files too."""
        return {"queue", "execute"} <= {span.name for span in self.own} and {
            "batch",
            "dispatch",
            "replica.batch",
            "forward",
        } <= {span.name for span in self.batch}


def find(directory: Path, trace_id: str) -> list[Trace]:
    """Every inference in the trace whose id begins with `trace_id`, oldest first: a caller's trace may have many."""
    wanted = trace_id.lower()
    traces: list[Trace] = []
    copies: list[StoredSpan] = []
    for line in _lines(directory):
        if wanted.encode() in line:  # most lines need no parsing
            traces += [trace for trace in _traces(line) if trace.rpc.trace_id.startswith(wanted)]
            copies += [span for span in _spans(line) if span.beside and span.trace_id.startswith(wanted)]
    for trace in traces:  # a copy is told with its own batch, later than its request
        trace.copies = _in_order(span for span in copies if _below(span, trace.rpc, copies))
    return sorted(traces, key=lambda trace: trace.rpc.start_ns)


def latest(directory: Path) -> Trace | None:
    """The most recent complete trace; None = there is none."""
    newest = None
    for line in _lines(directory, TAIL_BYTES):
        for trace in _traces(line):
            if trace.complete and (newest is None or trace.rpc.end_ns > newest.rpc.end_ns):
                newest = trace
    return newest


def slowest(directory: Path, number: int) -> list[Trace]:
    """The inferences that took longest, the longest first: among the kept ones, and the recent others."""
    return _best(directory, number, lambda trace: trace.rpc.ms)


def typical(directory: Path) -> Trace | None:
    """The complete trace whose duration is nearest to the median; None = there is none."""
    durations = [span.ms for line in _lines(directory, TAIL_BYTES) for span in _spans(line) if span.stage == "rpc"]
    if not durations:
        return None
    median = float(np.median(durations))
    return next(iter(_best(directory, 1, lambda trace: -abs(trace.rpc.ms - median) if trace.complete else None)), None)


def percentiles_ms(directory: Path) -> dict[str, tuple[float, float, float]]:
    """p50, p95 and p99 in milliseconds of every stage, over what is recent."""
    durations: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for line in _lines(directory, TAIL_BYTES):
        for span in _spans(line):
            # The riders' own copies of `forward` would count a batch once for every member.
            if span.stage in durations and not span.beside and not (span.name == "forward" and span.links):
                durations[span.stage].append(span.ms)
    return {
        stage: tuple(float(value) for value in np.percentile(found, (50, 95, 99)))  # type: ignore[misc]
        for stage, found in durations.items()
        if found
    }


def _best(directory: Path, number: int, rank: Callable[[Trace], float | None]) -> list[Trace]:
    """The traces that rank highest; None ranks nowhere."""
    heap: list[tuple[float, int, Trace]] = []
    turn = count()
    for line in _lines(directory, TAIL_BYTES, whole_kept=True):
        for trace in _traces(line):
            if (value := rank(trace)) is None:
                continue
            if len(heap) < number:
                heapq.heappush(heap, (value, next(turn), trace))
            elif value > heap[0][0]:
                heapq.heapreplace(heap, (value, next(turn), trace))
    return [trace for _, _, trace in sorted(heap, key=lambda entry: -entry[0])]


# Files ----------------------------------------------------------------------------------------------------------------


def _lines(directory: Path, tail_bytes: int | None = None, *, whole_kept: bool = False) -> Iterator[bytes]:
    """The lines of a directory's files, newest file first; with `tail_bytes` at most about so many of each kind."""
    left: dict[bool, float] = {kept: float("inf") if tail_bytes is None else tail_bytes for kept in (True, False)}
    if whole_kept:
        left[True] = float("inf")
    for path in _newest_first(directory):
        kept = ".kept." in path.name
        if left[kept] > 0:
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                size = path.stat().st_size
                if size > left[kept]:
                    file.seek(int(size - left[kept]))
                    file.readline()  # the first line may be half
                left[kept] -= size
                yield from file


def _newest_first(directory: Path) -> list[Path]:
    """Those that are still there: whoever writes them lets the oldest go meanwhile."""
    found = []
    for path in directory.glob("*.jsonl"):
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def _spans(line: bytes) -> Iterator[StoredSpan]:
    try:
        tree = json.loads(line)
    except ValueError:
        return  # the last line of a process that was killed
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


# Traces ---------------------------------------------------------------------------------------------------------------


def _traces(line: bytes) -> Iterator[Trace]:
    by_trace: dict[str, list[StoredSpan]] = defaultdict(list)
    for span in _spans(line):
        by_trace[span.trace_id].append(span)
    roots = {(s.trace_id, s.span_id): s for family in by_trace.values() for s in family if s.stage == "rpc"}
    for rpc in roots.values():
        yield _assemble(rpc, by_trace, roots)


def _assemble(
    rpc: StoredSpan, by_trace: dict[str, list[StoredSpan]], roots: dict[tuple[str, str], StoredSpan]
) -> Trace:
    below = [s for s in by_trace[rpc.trace_id] if s is rpc or _below(s, rpc, by_trace[rpc.trace_id])]
    own = [s for s in below if not s.beside]
    linked = {trace_id for s in own if s.name == "execute" for trace_id, _ in s.links}
    batch = [s for trace_id in linked for s in by_trace.get(trace_id, ())]
    members = {link for s in batch if s.name == "batch" for link in s.links}
    mates = [roots[link] for link in members if link in roots and roots[link] is not rpc]
    copies = _in_order(s for s in below if s.beside)
    return Trace(rpc, _in_order(own), _in_order(batch), sorted(mates, key=lambda span: -span.ms), copies)


def _in_order(spans: Iterable[StoredSpan]) -> list[StoredSpan]:
    return sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))


def _below(span: StoredSpan, root: StoredSpan, family: list[StoredSpan]) -> bool:
    """A caller's trace may hold many requests: take what descends from this one."""
    parents = {member.span_id: member.parent_id for member in family}
    at: str | None = span.parent_id
    while at and at != root.span_id:
        at = parents.get(at)
    return at == root.span_id
