"""The two load generators, closed loop, each a process of its own: NVIDIA's perf_analyzer and our own (`open_loop.py`).

perf_analyzer is C++ and leaves more of the machine to the server; ours compares every answer with the one it must be.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import driving

from headrace.telemetry import pages

WINDOWS = 3
"""Of perf_analyzer, always as many: one that goes on until it likes what it sees picks the quiet moments."""


@dataclass(frozen=True)
class Target:
    address: str
    model: str
    metrics: str | None = None


def perf_analyzer() -> str | None:
    return os.environ.get("PERF_ANALYZER") or shutil.which("perf_analyzer")


def own(target: Target, questions: Path, concurrency: int, seconds: float) -> dict[str, Any]:
    options = {"concurrency": concurrency, "seconds": seconds, "deadline_ms": driving.PATIENT_MS}
    command = driving.script("open_loop.py", address=target.address, questions=questions, **options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return failed("headrace", done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    # In a row of results `cpu_s` is what the system spent, not the generator.
    result["generator_cpu_s"] = result.pop("cpu_s")
    return result


def nvidia(binary: str, target: Target, data: Path | None, concurrency: int, seconds: float) -> dict[str, Any]:
    """One measurement of perf_analyzer, its count held against the server's own where that has metrics."""
    before = answered(target) if target.metrics else 0
    options = ["-m", target.model, "-u", target.address, "-i", "grpc", "--concurrency-range", str(concurrency)]
    # Any three windows are stable within 999 %: the measurement takes as long as it was told.
    options += ["-p", str(round(seconds * 1000 / WINDOWS)), "-s", "999", "-r", str(WINDOWS)]
    options += ["--input-data", str(data)] if data else []
    done = subprocess.run([binary, *options], capture_output=True, text=True, check=False)
    if not (found := re.search(r"Throughput: ([\d.]+) infer/sec", done.stdout)):
        return failed("perf_analyzer", done.stdout + done.stderr)
    count = sum(int(n) for n in re.findall(r"Request count: (\d+)", done.stdout))
    return {
        "generator": "perf_analyzer",
        "rps": float(found[1]),
        "p50_ms": number(r"p50 latency: (\d+) usec", done.stdout) / 1000,
        "p99_ms": number(r"p99 latency: (\d+) usec", done.stdout) / 1000,
        "errors": done.stdout.count("had error"),
        "wrong": max(0, count - (answered(target) - before)) if target.metrics else 0,
    }


def failed(generator: str, said: str) -> dict[str, Any]:
    missing = {"rps": None, "p50_ms": None, "p99_ms": None}
    return {"generator": generator, **missing, "errors": 1, "wrong": 0, "note": said.strip()[-300:]}


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else float("nan")


def read_metrics(metrics: str) -> list[str]:
    return pages.fetch(metrics, "/metrics", 10).decode().splitlines()


def answered(target: Target) -> int:
    """Requests the server says it has answered."""
    assert target.metrics is not None, "only for a server with metrics"
    name = f'nv_inference_request_success{{model="{target.model}"'
    mine = [line for line in read_metrics(target.metrics) if line.startswith(name)]
    return int(float(mine[0].split()[-1])) if mine else 0
