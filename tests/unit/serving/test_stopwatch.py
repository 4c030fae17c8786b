"""Stage times: on the host as they pass, on a GPU from its events, tied to the host's clock by the last one."""

from __future__ import annotations

import time

import pytest
import torch

from headrace.serving.stopwatch import CudaStopwatch, Passed, Stopwatch


def test_stages_pass_in_order_and_a_new_batch_starts_from_nothing() -> None:
    watch = Stopwatch()
    for passed in (watch.unpacked, watch.copied, watch.computed, watch.fetched):
        passed()
    first = watch.read()
    watch.reset()
    watch.unpacked()

    assert list(first) == sorted(first)
    assert first.unpacked_ns > 0
    assert watch.read()[1:] == (0, 0, 0)


class FakeEvent:
    """A CUDA event on a device whose clock is not the host's."""

    device_ms = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = FakeEvent.device_ms

    def synchronize(self) -> None:
        """Over already."""

    def elapsed_time(self, later: FakeEvent) -> float:
        return later.at - self.at


def test_a_devices_stages_end_when_its_events_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host runs ahead: it has launched the forward pass long before the copy to the device is over."""
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    watch = CudaStopwatch()
    watch.unpacked()
    for at, passed in ((3.0, watch.copied), (10.0, watch.computed), (10.5, watch.fetched)):
        FakeEvent.device_ms = 7_000_000 + at
        passed()

    found = watch.read()
    assert found.computed_ns - found.copied_ns == pytest.approx(7_000_000, abs=1)
    assert found.fetched_ns - found.computed_ns == pytest.approx(500_000, abs=1)
    assert abs(found.fetched_ns - time.perf_counter_ns()) < 1_000_000_000
    assert isinstance(found, Passed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_real_device_a_long_kernel_is_seen_whole() -> None:
    watch = CudaStopwatch()
    square = torch.randn(4096, 4096)
    for _ in range(2):
        watch.reset()
        watch.unpacked()
        there = square.cuda(non_blocking=True)
        watch.copied()
        for _ in range(20):
            there = there @ there
        watch.computed()
        there.cpu()
        watch.fetched()

    found = watch.read()
    assert list(found) == sorted(found)
    assert found.computed_ns - found.copied_ns > 1_000_000
