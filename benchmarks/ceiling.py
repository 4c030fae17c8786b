"""The transports alone (`echo.py`) at concurrency 64: what the machine gives at best, by perf_analyzer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import generators
import grpc
import machine

CONCURRENCY = 64
SERVERS = ("grpc", "headrace")


def measure(seconds: float) -> list[dict[str, Any]]:
    """A row each, or none where there is no perf_analyzer: our own generator would refuse the constant."""
    binary = generators.perf_analyzer()
    return [row(binary, server, seconds) for server in SERVERS] if binary else []


def row(binary: str, server: str, seconds: float) -> dict[str, Any]:
    port = machine.free_port()
    process = subprocess.Popen([sys.executable, str(Path(__file__).parent / "echo.py"), str(port), server])
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        target = generators.Target(f"127.0.0.1:{port}", "w1-encoder")
        found = generators.nvidia(binary, target, None, CONCURRENCY, seconds)
        cpu_s = round(machine.cpu_seconds(process.pid), 2)
    finally:
        process.terminate()
        process.wait()
    named = {
        "workload": "W1",
        "system": f"{server}-echo",
        "tracing": False,
        "load": f"closed-{CONCURRENCY}",
        "round": 0,
    }
    return {**named, **found, "cpu_s": cpu_s}
