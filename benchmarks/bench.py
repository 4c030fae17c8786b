"""`make bench`: headrace alone on the fixed-length model W1, closed loop, tracing on. Writes build/bench/results.json.

Two generators at each concurrency: NVIDIA's perf_analyzer where there is one ($PERF_ANALYZER, else on PATH), and
the project's own, a separate process that compares every answer with the one it must be. Then the gateway's
memory over 100,000 requests, what tracing costs (two gateways before the same replica, one of which traces everything
and one nothing, loaded in turn), and what padding costs (`ragged.py`: the runner alone).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import ragged
import span_cost
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from headrace import config, top
from headrace.children import Child
from headrace.cluster import Cluster
from headrace_models import spec

HERE = Path(__file__).parent
OUT = Path("build/bench")
MODEL = "w1-encoder"
CONCURRENCIES = (1, 8, 32, 64)
MEMORY_REQUESTS = 100_000
PAIRS = 8
PAIR_SECONDS = 4.0


def make_questions(path: Path, count: int = 256) -> None:
    """Random inputs and the model's own answers to them, one at a time."""
    directory = HERE / "repository" / MODEL / "1"
    module = spec.load_module(spec.load_spec(directory), directory)
    events = np.random.default_rng(1).normal(size=(count, 32, 16)).astype(np.float32)
    with torch.inference_mode():
        rows = [module({"events": torch.from_numpy(events[i : i + 1])}, {})["score"].numpy() for i in range(count)]
    np.savez(path, **{"input.events": events, "expected.score": np.concatenate(rows)})


def own_load(address: str, questions: Path, concurrency: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "load.py"), "--address", address, "--model", MODEL]
    command += ["--questions", str(questions), "--concurrency", str(concurrency), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return {"generator": "headrace", **result}


def perf_analyzer() -> str | None:
    return os.environ.get("PERF_ANALYZER") or shutil.which("perf_analyzer")


def nvidia_load(binary: str, address: str, metrics: str | None, concurrency: int) -> dict[str, Any]:
    """One measurement of perf_analyzer, its count held against the server's own where that has metrics."""
    before = answered(metrics) if metrics else 0
    options = ["-m", MODEL, "-u", address, "-i", "grpc", "--concurrency-range", str(concurrency)]
    # Three windows within 35 % of each other: a shared machine is not quieter than that.
    options += ["-p", "2500", "-s", "35", "-r", "8"]
    done = subprocess.run([binary, *options], capture_output=True, text=True, check=False)
    if not (found := re.search(r"Throughput: ([\d.]+) infer/sec", done.stdout)):
        return {"generator": "perf_analyzer", "rps": 0.0, "errors": 1, "wrong": 0, "note": done.stdout[-300:]}
    count = sum(int(n) for n in re.findall(r"Request count: (\d+)", done.stdout))
    return {
        "generator": "perf_analyzer",
        "rps": float(found[1]),
        "p50_ms": _number(r"p50 latency: (\d+) usec", done.stdout) / 1000,
        "p99_ms": _number(r"p99 latency: (\d+) usec", done.stdout) / 1000,
        "errors": done.stdout.count("had error"),
        "wrong": max(0, count - (answered(metrics) - before)) if metrics else 0,
    }


def echo_load(binary: str) -> dict[str, Any]:
    """The transport alone, at the highest concurrency: what the machine gives at best."""
    port = free_port()
    server = subprocess.Popen([sys.executable, str(HERE / "echo.py"), str(port)])
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        found = nvidia_load(binary, f"127.0.0.1:{port}", None, CONCURRENCIES[-1])
    finally:
        server.terminate()
        server.wait()
    return {"workload": "W1", "system": "grpc-echo", "tracing": False, "load": f"closed-{CONCURRENCIES[-1]}", **found}


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else float("nan")


def read_metrics(metrics: str) -> list[str]:
    with urllib.request.urlopen(f"http://{metrics}/metrics") as page:
        lines: list[str] = page.read().decode().splitlines()
    return lines


def answered(metrics: str) -> int:
    """Requests the server says it has answered."""
    name = f'nv_inference_request_success{{model="{MODEL}"'
    mine = [line for line in read_metrics(metrics) if line.startswith(name)]
    return int(float(mine[0].split()[-1])) if mine else 0


async def measure(options: argparse.Namespace, questions: Path) -> dict[str, Any]:
    settings = config.load(
        None,
        {},
        engine=options.engine,
        model_dirs=[HERE / "repository"],
        only=[MODEL],
        gateway__port=0,
        gateway__metrics_port=0,
        control__port=0,
        telemetry__trace_dir=OUT / "traces",
        telemetry__log_level="ERROR",
    )
    runs: list[dict[str, Any]] = []
    async with Cluster(settings) as cluster:
        metrics = f"{cluster.settings.gateway.host}:{cluster.settings.gateway.metrics_port}"
        gateway = cluster.gateways[0].pid
        assert gateway is not None
        tracing = await tracing_cost(cluster, questions, gateway)
        if options.only_tracing:
            return {"hardware": hardware(), "engine": options.engine, "runs": [], "memory": {}, "tracing": tracing}
        with Progress() as progress:
            for concurrency in progress.track(CONCURRENCIES, description="W1"):
                common = {"workload": "W1", "system": "headrace", "tracing": True, "load": f"closed-{concurrency}"}
                own = await asyncio.to_thread(own_load, cluster.address, questions, concurrency, options.seconds)
                runs.append({**common, **own})
                if binary := perf_analyzer():
                    theirs = await asyncio.to_thread(nvidia_load, binary, cluster.address, metrics, concurrency)
                    runs.append({**common, **theirs})
        grown = await asyncio.to_thread(memory_over, cluster.address, metrics, questions, gateway)
    if binary := perf_analyzer():
        runs.append(await asyncio.to_thread(echo_load, binary))
    return {"hardware": hardware(), "engine": options.engine, "runs": runs, "memory": grown, "tracing": tracing}


@dataclass
class Arm:
    """One of two gateways before the same replicas."""

    address: str
    metrics: str
    pid: int


async def tracing_cost(cluster: Cluster, questions: Path, traced_pid: int) -> dict[str, Any]:
    """Pairs of runs at concurrency 64, in turn first: with every inference traced, and with none."""
    port, metrics_port = free_port(), free_port()
    environment = {
        **os.environ,
        "OTEL_SDK_DISABLED": "true",
        "HEADRACE_GATEWAY__PORT": str(port),
        "HEADRACE_GATEWAY__METRICS_PORT": str(metrics_port),
    }
    command = ["gateway", "--config", str(cluster.config_file), "--control", cluster.control_address]
    silent = Child("gateway-without-tracing", command, environment=environment)
    await silent.start()
    try:
        assert silent.pid is not None
        arms = {
            "on": Arm(cluster.address, cluster.metrics_addresses[0], traced_pid),
            "off": Arm(f"127.0.0.1:{port}", f"127.0.0.1:{metrics_port}", silent.pid),
        }
        await asyncio.sleep(3)
        for arm in arms.values():  # both warm
            await asyncio.to_thread(own_load, arm.address, questions, CONCURRENCIES[-1], 2.0)
        pairs = []
        for number in range(PAIRS):
            order = ("on", "off") if number % 2 else ("off", "on")
            pairs.append({name: await asyncio.to_thread(load_arm, arms[name], questions) for name in order})
    finally:
        await silent.stop()
    alone = await asyncio.to_thread(span_cost.measure)
    return {
        "us_per_request": alone,
        "pairs": pairs,
        "median": {name: paired(pairs, name) for name in ("rps", "p99_ms", "lag_p99_ms")},
    }


def load_arm(arm: Arm, questions: Path) -> dict[str, float]:
    """One run, with what it cost the gateway and how late its loop woke up."""
    before, cpu_s, count = read_metrics(arm.metrics), cpu_seconds(arm.pid), answered(arm.metrics)
    found = own_load(arm.address, questions, CONCURRENCIES[-1], PAIR_SECONDS)
    spent_us = (cpu_seconds(arm.pid) - cpu_s) * 1e6 / max(1, answered(arm.metrics) - count)
    lag_ms = lag_p99_ms(before, read_metrics(arm.metrics))
    return {**found, "gateway_cpu_us": round(spent_us, 1), "lag_p99_ms": round(lag_ms, 3)}


def paired(pairs: list[dict[str, dict[str, float]]], name: str) -> dict[str, float]:
    """The median and the spread of on/off, and of on − off."""
    ratios = [pair["on"][name] / pair["off"][name] for pair in pairs]
    differences = [pair["on"][name] - pair["off"][name] for pair in pairs]
    return {
        "ratio": round(float(np.median(ratios)), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
        "difference": round(float(np.median(differences)), 3),
    }


def lag_p99_ms(before: list[str], now: list[str]) -> float:
    """How late the event loop woke up, at p99, between two looks at the metrics."""
    looks = []
    for lines in (before, now):
        mine = [line for line in lines if line.startswith("headrace_event_loop_lag_seconds_bucket")]
        looks.append({float(line.split('"')[1]): float(line.split()[-1]) for line in mine})
    return top.quantile_ms(0.99, *looks) or 0.0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def memory_over(address: str, metrics: str, questions: Path, gateway: int) -> dict[str, float]:
    """The gateway's resident memory, MiB, after 50,000 and after 100,000 requests in all."""
    found = {}
    for target in (MEMORY_REQUESTS // 2, MEMORY_REQUESTS):
        while (done := answered(metrics)) < target:
            own_load(address, questions, 64, min(20.0, max(2.0, (target - done) / 2500)))
        found[f"after_{target}_mib"] = resident_mib(gateway)
    return found


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def hardware() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}, torch {torch.__version__}"


def show(results: dict[str, Any]) -> None:
    table = Table(
        "system", "load", "generator", "rps", "p50 ms", "p99 ms", "errors", "wrong", title=results["hardware"]
    )
    for run in results["runs"]:
        cells = (
            run["system"],
            run["load"],
            run["generator"],
            f"{run['rps']:,.0f}",
            run.get("p50_ms"),
            run.get("p99_ms"),
        )
        table.add_row(*map(str, cells), str(run["errors"]), str(run["wrong"]))
    console = Console()
    console.print(table)
    console.print("gateway memory:", results["memory"])
    console.print("rows/s of the runner, bucketed and padded to the cap:", results["ragged"])
    tracing = Table("pair", "on /s", "off /s", "on p99", "off p99", "on µs", "off µs", title="tracing on and off")
    for number, pair in enumerate(results["tracing"]["pairs"]):
        cells = [pair[arm][name] for name in ("rps", "p99_ms", "gateway_cpu_us") for arm in ("on", "off")]
        tracing.add_row(str(number), *(f"{cell:,.1f}" for cell in cells))
    console.print(tracing)
    console.print(results["tracing"]["median"])
    console.print("µs a request, apart from everything else:", results["tracing"]["us_per_request"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="ray", choices=["ray", "local"])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only-tracing", action="store_true", help="what tracing costs, and nothing else")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    questions = OUT / "w1.npz"
    make_questions(questions)
    padding = {} if options.only_tracing else ragged.measure()  # before there is a cluster to share the cores with
    results = {**asyncio.run(measure(options, questions)), "ragged": padding}
    (OUT / "results.json").write_text(json.dumps(results, indent=1))
    show(results)


if __name__ == "__main__":
    main()
