"""Which inferences are worth keeping when not all can be: the failed, refused, fallen back, retried and slow ones.

A hint for whoever samples after the fact: a collector sees it as `headrace.keep`, the local file keeps these longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from headrace import errors
from headrace.core.records import BatchRecord, RpcRecord

FAILED, REFUSED, INSTEAD, RETRIED, SLOW, NO = "failed", "refused", "fallback", "retried", "slow", ""
RANK: Final = (FAILED, REFUSED, INSTEAD, RETRIED, SLOW, NO)
SLOW_SHARE: Final = 0.01
STEP: Final = 0.05
MAX_LANES: Final = 1024
LEAST_NS: Final = 1000.0


def strongest(reasons: Iterable[str]) -> str:
    return min(reasons, key=RANK.index, default=NO)


class Keeper:
    """Remembers, per model version, how long the slowest hundredth takes."""

    def __init__(self, slow_ms: float | None) -> None:
        self._slow_ns = None if slow_ms is None else slow_ms * 1e6
        self._thresholds: dict[tuple[str, str], float] = {}

    def of(self, record: RpcRecord) -> str:
        """Why this request should be kept; empty = it need not."""
        if record.reason:
            return _by_reason(record.reason)
        if record.detour is not None and record.detour.reason:
            return INSTEAD
        return SLOW if self._is_slow(record) else NO

    def of_family(self, batch: BatchRecord) -> list[str]:
        """One reason a member. A lost attempt is a reason for all of them; `strongest` is the batch's own."""
        if batch.path == "shadow":  # nobody waited for it; what it says is in its experiment's report
            return [NO] * len(batch.members)
        retried = RETRIED if any(dispatch.error for dispatch in batch.dispatches) else NO
        return [strongest((self.of(member), retried)) for member in batch.members]

    def _is_slow(self, record: RpcRecord) -> bool:
        took_ns = record.end_ns - record.start_ns
        if self._slow_ns is not None:
            return took_ns >= self._slow_ns
        lane = record.model, record.version
        if len(self._thresholds) >= MAX_LANES:
            self._thresholds.clear()
        threshold = self._thresholds.get(lane, took_ns * 2.0)
        # A running quantile: it climbs 99 steps for one that is slower and falls one for each that is not.
        slower = took_ns > threshold
        factor = 1 + STEP * (1 - SLOW_SHARE) if slower else 1 - STEP * SLOW_SHARE
        self._thresholds[lane] = max(threshold * factor, LEAST_NS)
        return slower


@lru_cache(maxsize=64)
def _by_reason(name: str) -> str:
    """`name` is an error's class; a caller that went away is no reason to keep anything."""
    kind = errors.named(name)
    if issubclass(kind, errors.Cancelled):
        return NO
    return REFUSED if issubclass(kind, errors.Refused) else FAILED
