"""When a batch passed each stage of its forward pass. On a GPU the host only launches work: events tell the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from headrace.telemetry import clock
from headrace.v1 import replica_pb2


class Passed(NamedTuple):
    """`perf_counter_ns` at the end of each stage; 0 = it did not get there."""

    unpacked_ns: int = 0
    copied_ns: int = 0
    computed_ns: int = 0
    fetched_ns: int = 0


@dataclass(slots=True)
class Stamps:
    """One batch's way through the replica, in `perf_counter_ns`."""

    received_ns: int
    started_ns: int = 0
    passed: Passed = field(default_factory=Passed)

    def wire(self) -> replica_pb2.Stamps:
        """As wall times, and packed now. One offset for all: a step of the wall clock must not come between two."""
        wall = clock.offset_ns()
        unpacked, copied, computed, fetched = (at and at + wall for at in self.passed)
        return replica_pb2.Stamps(
            received_ns=self.received_ns + wall,
            started_ns=self.started_ns and self.started_ns + wall,
            unpacked_ns=unpacked,
            copied_ns=copied,
            computed_ns=computed,
            fetched_ns=fetched,
            packed_ns=time.perf_counter_ns() + wall,
        )


class Stopwatch:
    """For work that is done when the call returns."""

    def __init__(self) -> None:
        self._at = [0, 0, 0, 0]

    def reset(self) -> None:
        self._at = [0, 0, 0, 0]

    def unpacked(self) -> None:
        self._at[0] = time.perf_counter_ns()

    def copied(self) -> None:
        """The columns are on the device."""
        self._at[1] = time.perf_counter_ns()

    def computed(self) -> None:
        self._at[2] = time.perf_counter_ns()

    def fetched(self) -> None:
        """The outputs are back, and with them the device's last word."""
        self._at[3] = time.perf_counter_ns()

    def row_by_row(self, begun_ns: int) -> None:
        """The rows went through one at a time: their copies, passes and fetches count as one forward pass."""
        now = time.perf_counter_ns()
        self._at[1:] = [begun_ns, now, now]

    def read(self) -> Passed:
        return Passed(*self._at)


class CudaStopwatch(Stopwatch):
    """Events in the stream at each border; the last one, once it is over, ties them to the host's clock."""

    def __init__(self) -> None:
        super().__init__()
        self._copied, self._computed, self._fetched = (torch.cuda.Event(enable_timing=True) for _ in range(3))

    def copied(self) -> None:
        self._copied.record()

    def computed(self) -> None:
        self._computed.record()

    def fetched(self) -> None:
        self._fetched.record()
        self._fetched.synchronize()  # the outputs are here already: this waits for nothing
        super().fetched()
        for place, event in ((1, self._copied), (2, self._computed)):
            self._at[place] = self._at[3] - int(event.elapsed_time(self._fetched) * 1e6)
