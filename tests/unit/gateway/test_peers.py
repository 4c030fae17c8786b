"""What waits at all gateways, where others at their addresses may say anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from headrace.config import GatewaySettings
from headrace.gateway.peers import Peers

Run = Callable[..., Any]
OWN_S = 0.25


async def told(*peers: str) -> float:
    return await Peers(GatewaySettings(peers=peers), "own", lambda: OWN_S).queued_s()


@pytest.mark.parametrize(
    "body",
    [
        b'{"gateway": "other", "seconds": NaN}',
        b'{"gateway": "other", "seconds": Infinity}',
        b'{"gateway": "other", "seconds": -5}',
        b'{"gateway": "other", "seconds": 1' + b"0" * 400 + b"}",
        b'{"gateway": "other"}',
        b'["other", 1]',
        b"[" * 50_000,
        b"\xff",
    ],
)
def test_one_who_says_no_number_of_seconds_is_left_out(run: Run, body: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        writer.close()

    async def main() -> float:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            return await told(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")

    assert run(main()) == OWN_S


def test_a_port_that_no_machine_has_is_left_out(run: Run) -> None:
    assert run(told("127.0.0.1:99999")) == OWN_S
