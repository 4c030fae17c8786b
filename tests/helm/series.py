"""The series that a gateway has, as a scraper finds them: what rules and dashboards may ask for."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from grpc import aio
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica

ADDED: Final = frozenset({"job", "namespace", "pod", "instance"})
"""Labels that Prometheus gives to what it scrapes."""


def scraped(run: Callable[..., Any], folder: Path) -> dict[str, set[str]]:
    """Series → labels, of a gateway that has answered one request and refused one. No labels: nothing was counted."""

    async def main() -> str:
        async with (
            FakeReplica() as replica,
            running_gateway(folder, [replica]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            inputs = {"events": np.zeros((1, 3, 2), np.float32), "key": np.array([[1]], np.int64)}
            await stub.ModelInfer(request("echo", inputs), timeout=5)
            late = request("echo", inputs)
            late.parameters["timeout"].int64_param = 1
            with pytest.raises(aio.AioRpcError):
                await stub.ModelInfer(late, timeout=5)
            address = f"http://127.0.0.1:{gateway.metrics_port}/metrics"
            page = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read())
            return str(page.decode())

    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(run(main())):
        found.setdefault(family.name, set())
        found.setdefault(f"{family.name}_total", set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    found["headrace_deadline_slack_seconds_bucket"] |= {"le"}
    return found
