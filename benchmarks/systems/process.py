"""Starts a system, waits until it says by the protocol that its model is ready, and ends every process of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import machine
from tritonclient.grpc import service_pb2, service_pb2_grpc

from systems.launch import MODELS, Launch

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 5.0
TOLD_LINES = 12


class NotRunningError(Exception):
    """A system that did not start: in its message, why."""


@dataclass(frozen=True)
class Running:
    address: str
    metrics: str | None
    process: int

    def pids(self) -> list[int]:
        return machine.family(self.process)


@contextlib.contextmanager
def running(launch: Launch, workload: str, folder: Path) -> Iterator[Running]:
    """Raises: NotRunningError with the end of the system's own log."""
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            launch.command, env=launch.environment, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until_ready(process, launch.address, MODELS[workload], log)
        yield Running(launch.address, launch.metrics, process.pid)
    finally:
        stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], address: str, model: str, log: Path) -> None:
    until = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise NotRunningError(f"ended with {process.returncode}: {tail(log)}")
        if is_ready(address, model):
            return
        time.sleep(0.2)
    raise NotRunningError(f"not ready within {READY_TIMEOUT_S:g} s: {tail(log)}")


def is_ready(address: str, model: str) -> bool:
    # A channel of its own each time: one that failed to connect backs off for longer than a start takes.
    with grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            server = stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=2)
            return bool(server.ready and stub.ModelReady(service_pb2.ModelReadyRequest(name=model), timeout=2).ready)
        except grpc.RpcError:
            return False


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-TOLD_LINES:])


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the one that was started; whoever of its family is left after that is killed."""
    family = {pid: started(pid) for pid in machine.family(process.pid)}
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    family |= {pid: started(pid) for pid in machine.family(process.pid) if pid not in family}
    left = [(pid, since) for pid, since in family.items() if lives(pid, since)]
    for pid, _ in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + KILL_TIMEOUT_S
    while time.monotonic() < until and any(lives(pid, since) for pid, since in left):
        time.sleep(0.01)


def lives(pid: int, since: str | None) -> bool:
    """Whether it is still the process that started then: its number may be another's by now."""
    return since is not None and started(pid) == since


def started(pid: int) -> str | None:
    """When a process started, in ticks: with its number, who it is. None: it has ended, reaped or not."""
    try:
        fields = machine.stat_fields(pid)
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for a start's own files. Below /tmp: the paths of Ray's sockets must be short."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
