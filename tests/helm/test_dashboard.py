"""The Grafana dashboard asks for series that a gateway has, in PromQL that Prometheus accepts."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from grpc import aio
from tests.helm.series import ADDED, scraped
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.telemetry import reading
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica

DASHBOARD = Path("helm/headrace/dashboards/headrace.json")


def expressions(root: Path) -> list[str]:
    dashboard = json.loads((root / DASHBOARD).read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [re.sub(r"\$(job|model)", ".*", expr.replace("$__rate_interval", "5m")) for expr in found]


def test_releases_that_share_a_prometheus_are_told_apart(root: Path) -> None:
    """By the job of their gateways, which a PodMonitor makes of namespace and release."""
    dashboard = json.loads((root / DASHBOARD).read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    models = [one["query"]["query"] for one in dashboard["templating"]["list"] if one["name"] == "model"]

    assert "job" in [one["name"] for one in dashboard["templating"]["list"]]
    for query in queries + models:
        for selector in re.findall(r"\b(?:headrace|nv)_\w+(\{[^}]*\})?", query):
            assert 'job=~"$job"' in selector, query


def test_every_series_and_label_it_asks_for_is_one_that_a_gateway_has(
    run: Callable[..., Any], tmp_path: Path, root: Path
) -> None:
    known = scraped(run, tmp_path)
    asked = expressions(root)

    assert len(asked) > 15
    for expr in asked:
        series = re.findall(r"\b((?:headrace|nv)_\w+)", expr)
        assert series
        for name in series:
            assert name in known, f"{name} is no metric of a gateway"
        empty = all(not known[name] for name in series)  # a counter that has counted nothing has no labels yet
        wanted = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(",")}
        wanted |= set(re.findall(r"(\w+)(?:=~|!=|=)\"", expr))
        assert empty or wanted - ADDED <= set().union(*(known[name] for name in series)), expr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_accepts_every_query(tmp_path: Path, root: Path) -> None:
    rules = [{"record": f"headrace:panel{number}", "expr": expr} for number, expr in enumerate(expressions(root))]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@asynccontextmanager
async def prometheus(folder: Path, target: str, port: int) -> AsyncIterator[Callable[..., Any]]:
    """A real Prometheus that scrapes `target` every 200 ms; yields a way to ask its API."""
    config = {
        "scrape_configs": [{"job_name": "g", "scrape_interval": "200ms", "static_configs": [{"targets": [target]}]}]
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder}/prometheus.yaml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=error",
    )

    def ask(path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=5) as page:
            return json.loads(page.read())["data"]

    async def asked(path: str, **parameters: str) -> Any:
        return await asyncio.to_thread(ask, path, **parameters)

    try:
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(_is_ready, port):
                await asyncio.sleep(0.05)
        yield asked
    finally:
        process.terminate()
        await process.wait()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1) as page:
            return int(page.status) == 200
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_a_real_prometheus_draws_the_panels_and_leads_from_a_latency_to_its_trace(
    run: Callable[..., Any], tmp_path: Path, root: Path, free_port: int
) -> None:
    async def main() -> tuple[dict[str, int], set[str]]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path / "traces", [replica]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
            prometheus(tmp_path, f"127.0.0.1:{gateway.metrics_port}", free_port) as ask,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            inputs = {"events": np.zeros((1, 3, 2), np.float32), "key": np.array([[1]], np.int64)}
            up = "headrace_model_info"
            while not (await ask("query", query=up))["result"]:  # it looks for its targets every five seconds
                await stub.ModelInfer(request("echo", inputs), timeout=5)
                await asyncio.sleep(0.1)
            for _ in range(50):  # and for some scrapes more
                await stub.ModelInfer(request("echo", inputs), timeout=5)
                await asyncio.sleep(0.02)
            panels = {expr: len((await ask("query", query=expr))["result"]) for expr in expressions(root)}
            series = "headrace_request_duration_seconds_bucket"
            now = time.time()
            found = await ask("query_exemplars", query=series, start=str(now - 60), end=str(now + 60))
            return panels, {e["labels"]["trace_id"] for one in found for e in one["exemplars"]}

    panels, traces = run(main(), timeout_s=60)

    drawn = [expr for expr, series in panels.items() if series]
    assert [expr for expr in drawn if "request_duration" in expr]
    assert len(drawn) > 12, panels  # the others count refusals and losses, of which there were none
    assert traces
    assert all(reading.find(tmp_path / "traces", trace_id) for trace_id in traces)
