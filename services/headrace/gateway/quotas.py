"""What each caller may ask of this process: requests, rows and tokens a second, requests at a time.

Asked at the door, before a message is read, and for each request of a stream. Knows callers by the names the settings
give them, so that there are no more meters, or labels, than callers. Holds for one process: where several share a port,
each has its own meters, and a caller gets as much of each.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from headrace.config import AccessSettings, Quota
from headrace.errors import QuotaExceeded

IN_FLIGHT: Final = "in_flight"
IN_FLIGHT_RETRY_MS: Final = 50
"""When one of a caller's own requests will be over, nobody knows."""
MAX_RETRY_MS: Final = 60_000

Now = Callable[[], float]


class Bucket:
    """So much a second, saved up to a burst. May be in debt, where the price is known afterwards.

    Law: in any time, those who waited for 1 to be there take no more than the burst, what came in, and one debt.
    """

    __slots__ = ("_burst", "_level", "_looked_at", "per_second")

    def __init__(self, per_second: float, burst_s: float, now: float) -> None:
        self.per_second = per_second
        self._burst = max(1.0, per_second * burst_s)
        self._level = self._burst
        self._looked_at = now

    def wait_s(self, now: float) -> float:
        """Seconds until 1 is there; 0 = it is."""
        self._level = min(self._burst, self._level + (now - self._looked_at) * self.per_second)
        self._looked_at = now
        return 0.0 if self._level >= 1 else (1 - self._level) / self.per_second

    def take(self, amount: float) -> None:
        self._level -= amount


class Meter:
    """One caller's."""

    __slots__ = ("_buckets", "_in_flight_most", "_now", "in_flight", "refused")

    def __init__(self, quota: Quota, now: Now = time.monotonic) -> None:
        self._now = now
        self._in_flight_most = quota.max_in_flight
        rates = {
            "requests": quota.requests_per_second,
            "rows": quota.rows_per_second,
            "tokens": quota.tokens_per_second,
        }
        self._buckets = {name: Bucket(rate, quota.burst_s, now()) for name, rate in rates.items() if rate is not None}
        self.in_flight = 0
        self.refused: Counter[str] = Counter()
        """Requests, by what they ran into: requests, rows, tokens or in_flight."""

    def enter(self) -> None:
        """One request more. Raises: QuotaExceeded."""
        if self._in_flight_most is not None and self.in_flight >= self._in_flight_most:
            raise self._refusal(IN_FLIGHT, f"{self._in_flight_most} requests at a time", IN_FLIGHT_RETRY_MS)
        now = self._now()
        for name, bucket in self._buckets.items():
            if wait_s := bucket.wait_s(now):
                retry_ms = min(MAX_RETRY_MS, math.ceil(wait_s * 1000))
                raise self._refusal(name, f"{bucket.per_second:g} {name} a second", retry_ms)
        if requests := self._buckets.get("requests"):
            requests.take(1)
        self.in_flight += 1

    def leave(self) -> None:
        """A request that has entered is over."""
        self.in_flight -= 1

    def spend(self, rows: int, tokens: int) -> None:
        """What a request turned out to have."""
        for name, amount in (("rows", rows), ("tokens", tokens)):
            if bucket := self._buckets.get(name):
                bucket.take(amount)

    def _refusal(self, name: str, bound: str, retry_ms: int) -> QuotaExceeded:
        self.refused[name] += 1
        return QuotaExceeded(f"this caller's quota is used up: {bound}", retry_ms)


class Quotas:
    """The meters of all callers who have a quota."""

    def __init__(self, settings: AccessSettings, now: Now = time.monotonic) -> None:
        self._now = now
        self._default = settings.quota
        self._own = {caller.name: caller.quota for caller in settings.callers if caller.quota is not None}
        self.meters: dict[str, Meter] = {}
        """By the name of the caller, from its first request on."""

    @property
    def any(self) -> bool:
        """Some caller has one."""
        return bool(self._own) or self._default is not None

    def of(self, name: str) -> Meter | None:
        """The meter of a caller; None = nothing bounds it."""
        meter = self.meters.get(name)
        if meter is None and (quota := self._own.get(name, self._default)) is not None:
            meter = self.meters[name] = Meter(quota, self._now)
        return meter


class Metered(Protocol):
    """A call whose caller's use is counted: `headrace.rpc.call.Call` is one."""

    meter: Meter | None
    leaving: Callable[[], None] | None
    """Set = it has entered at the door, and leaves when the call is over."""


@contextmanager
def metered(call: Metered) -> Iterator[None]:
    """Around one request, from its message to its answer: those of a stream enter here. Raises: QuotaExceeded."""
    if call.meter is None or call.leaving is not None:
        yield
        return
    call.meter.enter()
    try:
        yield
    finally:
        call.meter.leave()
