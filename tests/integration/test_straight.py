"""What the environment says of proxies is for the world outside: a token, and a figure, goes to nobody in between."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace.channel import connect
from headrace.client import ScoringClient
from headrace.credentials import ClientCredentials
from headrace.errors import NotServing
from headrace.telemetry import pages
from headrace.testing.gateway import running_gateway

PAYMENT = {"event_id": "p", "ts": "2026-03-01T12:00:00Z", "card_id": "c", "amount": 1.0}


def test_nothing_of_ours_goes_through_a_proxy(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-ours")
    known = {"name": "us", "token_sha256": hashlib.sha256(b"a-token-of-ours").hexdigest(), "may": ["infer"]}
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1024))
        writer.close()

    async def main() -> int:
        proxy = await asyncio.start_server(listen, "127.0.0.1", 0)
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        closed = {"access__mode": "closed", "access__callers": [known]}
        async with running_gateway(tmp_path, [], **closed) as (gateway, _):
            address = f"127.0.0.1:{gateway.port}"
            shown = ClientCredentials(token_file=token)
            async with connect(address, shown) as channel:
                checked = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            async with ScoringClient(address, credentials=shown, timeout_s=5) as client:
                with pytest.raises(NotServing):
                    await client.score(PAYMENT)
            await asyncio.to_thread(pages.fetch, f"127.0.0.1:{gateway.metrics_port}", "/metrics", 5)
        proxy.close()
        return int(checked.status)

    assert run(main()) == health_pb2.HealthCheckResponse.NOT_SERVING
    assert heard == []
