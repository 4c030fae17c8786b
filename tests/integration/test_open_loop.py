"""The generator against real gateways and silent servers: whatever becomes of a request is counted as just that."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from headrace.client import request
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import driving
import http2
import open_loop
import outcomes
import serialised
from trail import Trail

RARE = 50.0
"""Requests a second that a busy machine keeps up with."""
PATIENT_S = 5.0
Start = Callable[[open_loop.Generator], Any]


def ask(key: int, events: int = 4, *, timeout_us: int = 0) -> bytes:
    columns = {"events": np.ones((1, events, 2), np.float32), "key": np.array([[key]])}
    message: service_pb2.ModelInferRequest = request("echo", columns)
    if timeout_us:
        message.parameters["timeout"].int64_param = timeout_us
    return message.SerializeToString()


def questions(count: int = 8, events: int = 4, *, off_by: float = 0.0, timeout_us: int = 0) -> serialised.Questions:
    """Echo's answers are known; those to every fourth question are expected to be `off_by` from what they are."""
    expected = np.array([[2.0 * min(events, 16) + key] for key in range(count)])
    expected[::4] += off_by
    asked = [ask(key, events, timeout_us=timeout_us) for key in range(count)]
    return serialised.Questions(asked, {"sum": expected}, {"sum": 1e-4})


def load(address: str, asked: serialised.Questions, start: Start, deadline_s: float) -> Counter[str]:
    generator = open_loop.Generator(address, asked.requests, deadline_s)
    start(generator)
    return Counter(outcomes.judge(each, asked, deadline_s)[0] for each in generator.sent)


def forty(generator: open_loop.Generator) -> None:
    generator.open_loop([n / RARE for n in range(40)])


async def against(
    trace_dir: Path, asked: serialised.Questions, start: Start, *, delay_s: float = 0.0, **flags: Any
) -> Counter[str]:
    replica = FakeReplica()
    replica.delay_s = delay_s
    async with replica, running_gateway(trace_dir, [replica], **flags) as (gateway, _):
        return await asyncio.to_thread(load, f"127.0.0.1:{gateway.port}", asked, start, PATIENT_S)


def test_right_answers_are_right_and_others_are_wrong(run: Any, tmp_path: Path) -> None:
    found = run(against(tmp_path, questions(off_by=0.5), forty))
    assert found == {"right": 30, "wrong": 10}


def test_what_the_server_refuses_for_its_deadline_is_refused(run: Any, tmp_path: Path) -> None:
    found = run(against(tmp_path, questions(timeout_us=1), forty))
    assert found == {"refused": 40}


def test_a_full_queue_refuses(run: Any, tmp_path: Path) -> None:
    def at_once(generator: open_loop.Generator) -> None:
        generator.open_loop([0.0] * 300)

    limit = {"echo": {"batching": {"max_queue_rows": 8}}}
    found = run(against(tmp_path, questions(), at_once, delay_s=0.3, models=limit))
    assert found["right"] + found["refused"] == 300
    assert found["refused"] > 100


def test_an_answer_after_its_deadline_is_late(run: Any, tmp_path: Path) -> None:
    async def scenario() -> Counter[str]:
        replica = FakeReplica()
        replica.delay_s = 0.1
        async with replica, running_gateway(tmp_path, [replica]) as (gateway, _):
            asked = questions()
            make = open_loop.Generator  # it shakes hands with a server that runs in this loop
            generator = await asyncio.to_thread(make, f"127.0.0.1:{gateway.port}", asked.requests, PATIENT_S)
            await asyncio.to_thread(generator.open_loop, [0.0, 0.2, 0.4])
        # The server was told of a longer deadline than its caller judges by: it would not answer otherwise.
        return Counter(outcomes.judge(each, asked, 0.05)[0] for each in generator.sent)

    assert run(scenario()) == {"late": 3}


def test_an_unknown_model_is_an_error(run: Any, tmp_path: Path) -> None:
    unknown = service_pb2.ModelInferRequest(model_name="nobody").SerializeToString()
    asked = serialised.Questions([unknown], {"sum": np.zeros((1, 1))}, {"sum": 0.0})
    assert run(against(tmp_path, asked, forty)) == {"error": 40}


def test_requests_that_fill_the_connections_window_all_arrive(run: Any, tmp_path: Path) -> None:
    """Each is 32 KiB, in three frames; a connection starts with room for two."""

    def thirty_two(generator: open_loop.Generator) -> None:
        generator.closed_loop(32, 1.0)

    found = run(against(tmp_path, questions(events=4096), thirty_two))
    assert found.keys() == {"right"}
    assert found["right"] >= 64


@contextmanager
def silent_server(*, closes: bool) -> Iterator[str]:
    """Shakes hands, reads for ever (or hangs up at the first request) and answers nothing."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(peer: socket.socket) -> None:
        with peer:
            peer.sendall(http2.frame(http2.SETTINGS, 0, 0, b""))
            seen = b""
            while data := peer.recv(1 << 16):
                seen += data
                if closes and b"grpc-timeout" in seen:
                    return

    def accept() -> None:
        for _ in range(open_loop.CONNECTIONS):
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_what_is_never_answered_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "LOST_AFTER_S", 0.2)
    with silent_server(closes=False) as address:
        assert load(address, questions(), forty, 0.05) == {"lost": 40}


def test_a_server_that_hangs_up_makes_errors_and_ends_a_closed_loop() -> None:
    with silent_server(closes=True) as address:
        assert load(address, questions(), forty, 0.05) == {"error": 40}
    with silent_server(closes=True) as address:
        assert load(address, questions(), lambda generator: generator.closed_loop(8, 60), 0.05) == {"error": 8}


def test_the_process_prints_its_figures(run: Any, tmp_path: Path) -> None:
    async def scenario() -> tuple[dict[str, Any], dict[str, Any]]:
        replica = FakeReplica()
        path = tmp_path / "asked.npz"
        serialised.save(path, questions())
        async with replica, running_gateway(tmp_path, [replica]) as (gateway, _):
            address, table = f"127.0.0.1:{gateway.port}", tmp_path / "table.npz"
            opened = await driving.open_loop(
                address, path, RARE, 1.0, warm_up=0.2, deadline_ms=5000, table=table, burst=2, burst_every=0.5
            )
            closed = await driving.closed_loop(address, path, 4, 1.0)
        trail = Trail.read(table)
        assert len(trail.intended_s) == trail.ended(outcomes.RIGHT).sum() == opened["sent"]
        assert 0 <= trail.intended_s.min() < trail.intended_s.max() < 1.0
        assert (trail.ended_s > trail.sent_s).all()
        return opened, closed

    opened, closed = run(scenario())
    for found in (opened, closed):
        assert found["sent"] == found["right"] > 20
        assert found["p50_ms"] <= found["p99_ms"] <= found["p999_ms"]
        assert (found["wrong"], found["lost"], found["errors"], found["warm_up_failed"]) == (0, 0, 0, 0)
        assert found["cpu_us_per_request"] > 0
