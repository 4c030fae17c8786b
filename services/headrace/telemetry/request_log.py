"""One log line for every request that was refused or failed. Written off the event loop, from the request's record.

No payload, no card data: the caller's request id appears hashed only, and runs of digits that could be a number
of something are blotted out of the sentence.
"""

from __future__ import annotations

import hashlib
import logging
import re
from functools import lru_cache
from typing import Any, Final

from headrace import errors
from headrace.core.records import RpcRecord

log = logging.getLogger("headrace.requests")

DIGITS: Final = re.compile(r"\d(?:[ -]?\d){8,}")
"""Nine or more: shapes and limits stay readable, card and account numbers do not."""
MAX_SENTENCE: Final = 300


def write(record: RpcRecord) -> None:
    """WARNING for a failure of ours, INFO for a refusal, DEBUG for a caller that went away."""
    level = _level(record.reason)
    if not log.isEnabledFor(level):
        return
    log.log(level, "%s", record.reason, extra={"fields": fields(record)})


def fields(record: RpcRecord) -> dict[str, str | int | float]:
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
    if record.request_id:
        found["request_id_hash"] = hashed(record.request_id)
    if record.detail:
        found["detail"] = DIGITS.sub("…", record.detail)[:MAX_SENTENCE]
    return found


def hashed(identifier: str) -> str:
    """16 hex digits of BLAKE2: the same id always gives the same, and the id can't be read from it."""
    return hashlib.blake2s(identifier.encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=64)
def _level(reason: str) -> int:
    kind: Any = getattr(errors, reason, errors.Failed)
    if issubclass(kind, errors.Cancelled):
        return logging.DEBUG
    return logging.INFO if issubclass(kind, errors.Refused) else logging.WARNING
