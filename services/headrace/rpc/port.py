"""A server's port: bound sockets, who listens on them, and the change to other certificates while clients come in.

Knows neither calls nor connections: who gets a connection is the server's business.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from headrace.rpc.connection import LAST_WORDS_S
from headrace.rpc.tls import Watched

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
HANDSHAKE_S: Final = 20.0
"""For a client's first words: TLS, and then HTTP/2."""

Make = Callable[[], asyncio.Protocol]


class Port:
    """One bound socket, plain or with TLS alone."""

    def __init__(self, bound: socket.socket, tls: Watched[ssl.SSLContext] | None, make: Make) -> None:
        self._bound = bound
        self._tls = tls
        self._make = make
        self._context: ssl.SSLContext | None = None
        self._listening: asyncio.Server | None = None
        self._closed = False

    async def listen(self) -> None:
        """Begin to listen, or go on with a newer context: who waits in the kernel's queue is served by either."""
        before, secure = self._listening, self._secure()
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(self._make, sock=self._bound.dup(), backlog=BACKLOG, **secure)
        if self._closed:
            listening.close()
            return
        self._listening, self._context = listening, secure.get("ssl")
        if before is not None:
            before.close()

    async def tick(self) -> None:
        """Look whether the files of TLS have changed; connections that come from now on use the new ones."""
        if self._tls is None or self._closed:
            return
        self._tls.look()
        if self._tls.value is not self._context:
            await self.listen()
            log.info("TLS goes on with other files")

    def close(self) -> None:
        self._closed = True
        if self._listening is not None:
            self._listening.close()
        self._bound.close()

    def _secure(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        return {
            "ssl": self._tls.value,
            "ssl_handshake_timeout": HANDSHAKE_S,
            "ssl_shutdown_timeout": LAST_WORDS_S,
        }


def bind(address: str, *, share: bool) -> list[socket.socket]:
    """A socket for each address that `HOST:PORT` stands for, all with one number. Raises: OSError when it is taken."""
    host, _, port = address.rpartition(":")
    number = int(port)
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host.strip("[]") or None, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, where in found:
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, len(found) > 1)  # "[::]" alone takes both
        try:
            bound.bind((where[0], number, *where[2:]))
        except OSError:
            for opened in (bound, *sockets):
                opened.close()
            raise
        number = bound.getsockname()[1]
        sockets.append(bound)
    return sockets
