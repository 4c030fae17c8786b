"""A supervised process is started again when it dies, and does not outlive its supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace.children import Child
from headrace.errors import StartupError


def test_a_child_that_dies_is_started_again_and_stops_when_told(run: Callable[..., Any], free_port: int) -> None:
    async def main() -> tuple[int | None, int | None]:
        child = Child("control", ["control", "--port", str(free_port)])
        await child.start()
        await asyncio.to_thread(_until_serving, free_port)
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        while child.pid == first:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(_until_serving, free_port)
        second = child.pid
        await child.stop()
        return first, second

    first, second = run(main())

    assert first != second
    assert second is not None
    assert not _alive(second)


def test_a_child_hears_no_ctrl_c_and_is_nice_beside_its_siblings(run: Callable[..., Any], free_port: int) -> None:
    async def main() -> tuple[int, int, int, int]:
        child = Child("control", ["control", "--port", str(free_port)], niceness=3)
        await child.start()
        await asyncio.to_thread(_until_serving, free_port)
        assert child.pid is not None
        found = os.getpgid(child.pid), os.getsid(child.pid), os.getpriority(os.PRIO_PROCESS, child.pid), child.pid
        await child.stop()
        return found

    group, session, niceness, pid = run(main())

    assert group == pid
    assert session == os.getsid(0)  # where sessions are scheduled as groups, niceness ends at them
    assert niceness == os.nice(0) + 3


def test_a_child_that_cannot_start_says_why_where_its_supervisor_reads_it(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    wrong = tmp_path / "headrace.yaml"
    wrong.write_text("control: {lease_s: -1}")

    async def main() -> None:
        child = Child("control", ["control", "--config", str(wrong)], last_words=tmp_path / "last-words")
        await child.start()
        child.assert_starting()
        while not child.refused:
            await asyncio.sleep(0.02)
        with pytest.raises(StartupError, match=r"headrace.yaml: control.lease_s: Input should be greater than 0"):
            child.assert_starting()
        await child.stop()

    run(main())


def test_a_child_does_not_outlive_a_killed_supervisor(free_port: int) -> None:
    script = textwrap.dedent(
        f"""
        import asyncio
        from headrace.children import Child
        async def main():
            child = Child("control", ["control", "--port", "{free_port}"])
            await child.start()
            print(child.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
        """
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    child = int(supervisor.stdout.readline())
    _until_serving(free_port)

    supervisor.kill()
    supervisor.communicate()

    for _ in range(200):
        if not _alive(child):
            break
        signal.sigtimedwait([], 0.05)
    assert not _alive(child)


def _until_serving(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=20)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  a zombie that init has not collected yet is dead too
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
