"""The systems that are compared: headrace and its peers, each started the same way for a workload."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import environments

from systems import headrace, mlserver, ray_serve, triton
from systems.launch import Launch
from systems.process import NotRunningError, Running, running, scratch


@dataclass(frozen=True)
class System:
    name: str
    workloads: tuple[str, ...]
    launch: Callable[[str, Path], Launch]
    peer: str | None = None
    """Whose environment it runs in; None: our own."""
    padded: bool = False
    """W2's callers pad to the cap and send lengths: the system cannot batch what differs in shape."""

    @contextlib.contextmanager
    def start(self, workload: str) -> Iterator[Running]:
        """Raises: NotRunningError, when it can't be."""
        if self.peer and not environments.is_ready(self.peer):
            raise NotRunningError("its environment is missing: make bench-setup")
        with scratch() as folder, running(self.launch(workload, folder), workload, folder) as started:
            yield started


def all_systems(engine: str) -> list[System]:
    return [
        System("headrace", ("W1", "W2"), headrace.with_engine(engine)),
        System("ray-serve", ("W1", "W2"), ray_serve.launch, "ray-serve"),
        System("mlserver", ("W1", "W2"), mlserver.launch, "mlserver", padded=True),
        System("triton", ("W1",), triton.fixed, "triton"),
        System("triton-stock", ("W2",), triton.stock, "triton", padded=True),
        System("triton-expert", ("W2",), triton.expert, "triton"),
    ]
