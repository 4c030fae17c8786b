"""The transport alone (`echo.py`) at concurrency 64: what the machine gives at best, by perf_analyzer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import generators
import grpc
import machine

CONCURRENCY = 64


def measure(seconds: float) -> list[dict[str, Any]]:
    """One row, or none where there is no perf_analyzer: our own generator would refuse the constant."""
    if not (binary := generators.perf_analyzer()):
        return []
    port = machine.free_port()
    server = subprocess.Popen([sys.executable, str(Path(__file__).parent / "echo.py"), str(port)])
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        target = generators.Target(f"127.0.0.1:{port}", "w1-encoder")
        found = generators.nvidia(binary, target, None, CONCURRENCY, seconds)
        cpu_s = round(machine.cpu_seconds(server.pid), 2)
    finally:
        server.terminate()
        server.wait()
    named = {"workload": "W1", "system": "grpc-echo", "tracing": False, "load": f"closed-{CONCURRENCY}", "round": 0}
    return [{**named, **found, "cpu_s": cpu_s}]
