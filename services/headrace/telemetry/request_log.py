"""One log line for every request that was refused, failed or answered by a fallback. Written off the event loop.

From the request's record. No payload, no card data: the caller's request id appears hashed only, and of the sentence
its caller was told, words in quotes that are none of ours, and long numbers, are blotted out.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Container, Iterable
from functools import lru_cache
from typing import Final

from headrace import errors
from headrace.core.records import RpcRecord

log = logging.getLogger("headrace.requests")

MAX_WAITING: Final = 8192
PERIOD_S: Final = 0.1
MAX_DETAIL: Final = 300
"""Characters of what a caller was told that are kept for a line."""
QUOTED: Final = re.compile(r"'([^']*)'")
OURS: Final = frozenset(
    (
        *("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"),
        *("BF16", "BYTES", "triton_", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"),
        *("headrace_entity", "headrace_event_id", "headrace_amount", "headrace_currency", "headrace_idempotency_key"),
        "repository_name",
        *("infer", "outcome", "read", "gateway", "replica", "admin"),
    )
)
"""Words of the protocol's and of ours. Any other word in quotes is a caller's, unless a model of ours has it."""
VALUE: Final = re.compile(r"\b(channel|outcome|country|currency|mcc) (?:'[^']*'|\d+)")
"""A field of a payment and what it held: data, whatever it looks like."""
SEQUENCE: Final = re.compile(r"\bsequence .* to model '", re.DOTALL)
"""Whose sequence it is: Triton's sentences have no quotes around it."""
DIGITS: Final = re.compile(r"\d(?:[ .-]?\d){8,}")
"""Nine or more: shapes and limits stay readable, card and account numbers do not."""


class RequestLog:
    """Takes records on the event loop, writes lines in a thread of its own. What does not fit is counted, and said.

    `names` are those that models of ours have given to themselves and to their tensors: lines may say them.
    """

    def __init__(self, names: Callable[[], Iterable[str]] = tuple) -> None:
        self._names = names
        self._waiting: deque[RpcRecord] = deque()
        self._lost = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_for_ever, name="request-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is there, then stop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def note(self, record: RpcRecord) -> None:
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(record)
        else:
            self._lost += 1

    def _write_for_ever(self) -> None:
        while not self._stopping.wait(PERIOD_S):
            self._write()
        self._write()

    def _write(self) -> None:
        known = OURS.union(self._names()) if self._waiting else OURS
        while self._waiting:
            write(self._waiting.popleft(), known)
        if lost := self._lost:
            self._lost -= lost
            log.warning("%d more requests were refused or failed; there was no time for their lines", lost)


def write(record: RpcRecord, known: Container[str] = OURS) -> None:
    """WARNING for a failure of ours, INFO for a refusal or a fallback's answer, DEBUG for a caller that went away."""
    level = _level(record.reason) if record.reason else logging.INFO
    if log.isEnabledFor(level):
        log.log(level, "%s", record.reason or "Fallback", extra={"fields": fields(record, known)})


def fields(record: RpcRecord, known: Container[str] = OURS) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        "trace_id": record.trace_id.hex(),
        "span_id": f"{record.span_id:016x}",
        "code": record.code,
        "model": record.model,
        "version": record.version,
        "duration_ms": round((record.end_ns - record.start_ns) / 1e6, 3),
    }
    if record.batch is not None:
        found["batch_id"] = f"{record.batch.span_id:016x}"
    if record.detour is not None and record.detour.reason:
        found |= {"fallback": record.detour.reason, "by": record.detour.by, "instead_of": record.detour.error}
    if record.request_id:
        found["request_id_hash"] = hashed(record.request_id)
    if record.detail:
        found["detail"] = blotted(record.detail, known)
    return found


def blotted(sentence: str, known: Container[str] = OURS) -> str:
    """A sentence, in its first `MAX_DETAIL` characters, without what could be data: words of its caller's."""
    told = VALUE.sub(r"\1 '…'", SEQUENCE.sub("sequence … to model '", sentence))
    strange = next((word for word in QUOTED.finditer(told) if word[1] not in known and word[1] != "…"), None)
    if told.count("'") % 2:  # a name with a quote in it: nobody can tell any more where names end
        told = _without(told, told.index("'"))
    elif strange is not None:  # it may hold quotes too, so that what follows is not what it seems
        told = _without(told, strange.start())
    return DIGITS.sub("…", told)


def _without(sentence: str, start: int) -> str:
    """The same, without what is between this quote and the last, or the end where that is not the sentence's own."""
    end = sentence.rindex("'") + 1 if len(sentence) < MAX_DETAIL else len(sentence)
    return f"{sentence[:start]}'…'{sentence[end:]}"


def hashed(identifier: str) -> str:
    """16 hex digits of BLAKE2, the same for the same id: who knows an id can recognise it, nobody can read it."""
    return hashlib.blake2s(identifier.encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=64)
def _level(reason: str) -> int:
    kind = errors.named(reason)
    if issubclass(kind, errors.Cancelled):
        return logging.DEBUG
    return logging.INFO if issubclass(kind, errors.Refused) else logging.WARNING
