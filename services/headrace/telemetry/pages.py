"""Reads a gateway's HTTP pages, straight from it: what the environment says of proxies is for the world outside."""

from __future__ import annotations

import urllib.request
from typing import Final

STRAIGHT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(address: str, path: str, timeout_s: float) -> bytes:
    """The page at `HOST:PORT` and a path. Raises: OSError, also for a page that says it is none; ValueError."""
    with STRAIGHT.open(f"http://{address}{path}", timeout=timeout_s) as page:
        return bytes(page.read())
