"""The gateways of this cluster, and how much waits at them together: whoever scales them reaches only one of them.

Each tells its own on its metrics port. One that does not answer in time is left out: what it holds back is less harm
than an answer that never comes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
from collections.abc import Callable, Iterable
from typing import Final

from headrace.config import GatewaySettings
from headrace.telemetry import pages

log = logging.getLogger(__name__)

PAGE: Final = "/queued"
"""On a gateway's metrics port: who it is, and the seconds of work that wait because of it, in JSON."""
TIMEOUT_S: Final = 1.0
"""For each of a name's look-up and an answer; all are asked at a time."""


class Peers:
    """Where the others may be, beside this gateway itself: its id, and what waits here."""

    def __init__(self, settings: GatewaySettings, gateway_id: str, own_s: Callable[[], float]) -> None:
        self._names = settings.peers or (f"{settings.host}:{settings.metrics_port}",)
        self._processes = settings.processes
        self._alone = not settings.peers and settings.processes == 1
        self._gateway_id = gateway_id
        self._own_s = own_s
        self._away: set[str] = set()
        """Who did not answer when asked last: each is told once."""

    def page(self) -> tuple[int, bytes]:
        """What the others read of this one."""
        return 200, json.dumps({"gateway": self._gateway_id, "seconds": self._own_s()}).encode()

    async def queued_s(self) -> float:
        """Seconds of work that wait because of gateways, over all of them; each counts once, wherever it is found."""
        found = {} if self._alone else await self._others()
        return sum((found | {self._gateway_id: self._own_s()}).values())

    async def _others(self) -> dict[str, float]:
        addresses = sorted(set[str]().union(*await asyncio.gather(*map(self._addresses, self._names))))
        told = await asyncio.gather(*map(self._ask, addresses))
        return {gateway: seconds for one in told if one is not None for gateway, seconds in (one,)}

    async def _addresses(self, name: str) -> Iterable[str]:
        """Every HOST:PORT that a name stands for; none where it stands for nothing."""
        host, _, port = name.rpartition(":")
        try:
            async with asyncio.timeout(TIMEOUT_S):
                look_up = asyncio.get_running_loop().getaddrinfo
                found = await look_up(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # TimeoutError is one
            self._tell(host, error)
            return ()
        self._away.discard(host)
        hosts = {str(address[0]) for *_, address in found}
        return [_joined(host, int(port) + index) for host in hosts for index in range(self._processes)]

    async def _ask(self, address: str) -> tuple[str, float] | None:
        try:
            found = _read(await pages.ask(address, PAGE, TIMEOUT_S))
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            self._tell(address, error)  # perhaps it is no gateway, and perhaps there is no such port
            return None
        self._away.discard(address)
        return found

    def _tell(self, where: str, error: Exception) -> None:
        if where not in self._away:
            self._away.add(where)
            why = str(error) or "no answer in time"
            log.warning("the gateway at %s does not say how much waits there: %s", where, why)


def _read(page: bytes) -> tuple[str, float]:
    """Who says so, and the seconds. Raises: whatever a page may lead to that is not one of ours."""
    told = json.loads(page)
    gateway, seconds = str(told["gateway"]), float(told["seconds"])
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{seconds} is no number of seconds")
    return gateway, seconds


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
