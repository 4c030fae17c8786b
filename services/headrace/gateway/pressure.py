"""Whether the event loop is the bottleneck: the share of the time in which its thread ran, or waited for a core to run.

One per gateway; lanes read it. Under pressure every batch costs callers more than waiting for company does, so an idle
replica is no longer reason enough to send one.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

PERIOD_S: Final = 0.05
GAIN: Final = 0.3
TIMER_STEP_S: Final = 0.001
"""uvloop's timers count milliseconds."""
HIGH, LOW = 0.85, 0.65
"""Shares at which pressure begins and ends: apart, so that the batches which relieve it do not end it."""
SCHEDSTAT: Final = "/proc/thread-self/schedstat"
"""Linux: nanoseconds on a core, nanoseconds waiting for one. Source: https://docs.kernel.org/scheduler/sched-stats.html."""


class Pressure:
    """How busy the loop's thread is, smoothed over some hundred milliseconds."""

    def __init__(self) -> None:
        self.busy = 0.0
        """Share of the time, 0 to 1."""
        self.high = False
        self.late_s = 0.0
        """How late the loop gets to what is due, smoothed likewise: what a request waits to be seen."""
        self.telling_s = 0.0
        """From a batch's answer to the last of its callers being told, smoothed likewise."""

    def observe(self, busy: float) -> None:
        """Take in the share of one period."""
        self.busy += GAIN * (min(1.0, busy) - self.busy)
        self.high = self.busy > (LOW if self.high else HIGH)

    def observe_telling(self, seconds: float) -> None:
        self.telling_s += GAIN * (seconds - self.telling_s)

    async def watch(self) -> None:
        """Observe the thread this runs on. Ends when cancelled."""
        reading = _Reading()
        try:
            at, wanted_s = time.perf_counter(), reading.wanted_s()
            while True:
                await asyncio.sleep(PERIOD_S)
                now, now_wanted_s = time.perf_counter(), reading.wanted_s()
                self.observe((now_wanted_s - wanted_s) / (now - at))
                self.late_s += GAIN * (max(0.0, now - at - PERIOD_S - TIMER_STEP_S) - self.late_s)
                at, wanted_s = now, now_wanted_s
        finally:
            reading.close()


class _Reading:
    """Seconds in which this thread ran or wanted to; where the kernel does not say, in which it ran."""

    def __init__(self) -> None:
        try:
            self._file = os.open(SCHEDSTAT, os.O_RDONLY)
        except OSError:
            self._file = -1

    def wanted_s(self) -> float:
        if self._file < 0:
            return time.thread_time()
        ran_ns, waited_ns, _ = os.pread(self._file, 80, 0).split()
        return (int(ran_ns) + int(waited_ns)) / 1e9

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
