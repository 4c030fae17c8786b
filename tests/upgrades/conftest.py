"""Fixtures of this suite alone."""

from __future__ import annotations

import contextlib
import socket

import pytest


@pytest.fixture
def free_ports() -> tuple[int, int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(2)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        first, second = (int(probe.getsockname()[1]) for probe in probes)
    return first, second
