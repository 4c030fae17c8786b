"""A closed cluster on Ray Serve: actors and gateway know each other by what the settings brought along."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.certificates import Authority

from headrace import config
from headrace.client import SyncScoringClient
from headrace.cluster import Cluster
from headrace.credentials import ClientCredentials
from headrace.errors import Unauthenticated

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
PAYMENT = {"event_id": "p", "ts": "2026-03-01T12:00:00Z", "card_id": "c", "merchant_id": "m", "amount": 1.0}
PAYMENT |= {"currency": "EUR", "mcc": 5411, "country": "FR", "channel": "chip"}


def test_a_closed_cluster_on_ray_serve_answers_whom_it_knows(run: Callable[..., Any], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own, token = authority.issue("own"), tmp_path / "token"
    token.write_text("a-token")
    caller = {"name": "a", "token_sha256": hashlib.sha256(b"a-token").hexdigest(), "may": ["infer"]}
    chosen = config.load(
        None,
        {},
        gateway__port=0,
        gateway__metrics_port=0,
        control__port=0,
        control__ledger=":memory:",
        only=["fraud-tx"],
        telemetry__trace_dir=tmp_path / "traces",
        tls={"certificate": own.certificate, "key": own.key, "authorities": authority.path},
        access={"mode": "closed", "callers": [caller]},
    )

    def ask(address: str) -> str:
        with SyncScoringClient(address, timeout_s=5, credentials=ClientCredentials(authority.path)) as stranger:
            with pytest.raises(Unauthenticated):
                stranger.score(PAYMENT)
        known = ClientCredentials(authority.path, token_file=token)
        with SyncScoringClient(address, timeout_s=5, credentials=known) as client:
            return client.score(PAYMENT).model

    async def main() -> str:
        async with Cluster(chosen) as cluster:
            return await asyncio.to_thread(ask, cluster.address)

    assert run(main(), timeout_s=120) == "fraud-tx"
