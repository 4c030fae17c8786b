"""Reads HTTP pages of ours, straight from it: what the environment says of proxies is for the world outside."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Final

MAX_BYTES: Final = 64 << 10
STRAIGHT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(address: str, path: str, timeout_s: float) -> bytes:
    """The page at `HOST:PORT` and a path. Raises: OSError, also for a page that says it is none; ValueError."""
    with STRAIGHT.open(f"http://{address}{path}", timeout=timeout_s) as page:
        return bytes(page.read())


async def ask(address: str, path: str, timeout_s: float) -> bytes:
    """The same of a page of up to `MAX_BYTES`, without a thread: as many at a time as there are addresses.

    Raises: OSError, also for a page that says it is none, and for silence (TimeoutError).
    """
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
            answer = bytearray()
            while len(answer) < MAX_BYTES and (more := await reader.read(MAX_BYTES)):
                answer += more
        finally:
            writer.close()
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        raise OSError(f"{address}{path} answers {head[:64]!r}")
    return body
