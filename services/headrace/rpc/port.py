"""A server's port: bound sockets, who listens on them, and TLS, whose files may change while clients come in.

Knows neither calls nor connections: who gets a connection is the server's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Final

from headrace.rpc.bounds import Crowd, address_of
from headrace.rpc.connection import LAST_WORDS_S
from headrace.rpc.tls import Watched
from headrace.tasks import end

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
ACCEPT_AGAIN_S: Final = 0.1
HANDSHAKE_S: Final = 20.0
"""For a client's first words: TLS, and then HTTP/2."""

Make = Callable[[], asyncio.Protocol]


class Port:
    """One bound socket, plain or with TLS alone."""

    def __init__(
        self,
        bound: socket.socket,
        tls: Watched[ssl.SSLContext] | None,
        make: Make,
        shaking: Crowd,
        limited: Counter[str],
    ) -> None:
        self._bound = bound
        self._shaking = shaking
        """Who is in the middle of a handshake, at all of the server's ports."""
        self._limited = limited
        self._tls = tls
        self._make = make
        self._listening: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        """Who accepts, and the handshakes that are not over."""

    async def listen(self) -> None:
        """Begin to listen."""
        if self._tls is None:
            loop = asyncio.get_running_loop()
            self._listening = await loop.create_server(self._make, sock=self._bound, backlog=BACKLOG)
            return
        # Not by asyncio's server: its context is for ever, and one that is closed for another loses connections.
        self._bound.setblocking(False)
        self._bound.listen(BACKLOG)
        self._start(self._accept(self._tls), "accept")

    def tick(self) -> None:
        """Look whether the files of TLS have changed; connections that come from now on use the new ones."""
        if self._tls is not None and self._tls.look():
            log.info("TLS goes on with other files")

    async def close(self) -> None:
        """Stop listening, and give up on those who are still shaking hands."""
        if self._listening is not None:
            self._listening.close()
        await end(*self._tasks)
        self._bound.close()  # not before: the loop still watches it until its task has ended

    async def _accept(self, tls: Watched[ssl.SSLContext]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, where = await loop.sock_accept(self._bound)
            except OSError as error:  # no more file descriptors, or the client has gone already
                log.warning("a connection was not accepted: %s", error.strerror)
                await asyncio.sleep(ACCEPT_AGAIN_S)
            else:
                self._shake(accepted, address_of(str(where[0])), tls.value)

    def _shake(self, accepted: socket.socket, address: str, context: ssl.SSLContext) -> None:
        if self._shaking.enter(address):
            self._limited["handshakes"] += 1
            accepted.close()
            return
        task = self._start(self._secure(accepted, context), "handshake")
        task.add_done_callback(lambda _: self._shaking.leave(address))

    async def _secure(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        connect = asyncio.get_running_loop().connect_accepted_socket
        limits = {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": LAST_WORDS_S}
        with contextlib.suppress(OSError):  # it speaks no TLS, or nobody believes it: its socket is closed
            await connect(self._make, accepted, ssl=context, **limits)

    def _start(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def bind(address: str, *, share: bool) -> list[socket.socket]:
    """A socket for each address that `HOST:PORT` stands for, all with one number. Raises: OSError when it is taken.

    Unless they `share` it they are the only ones from now on, and clients may come: they wait until somebody listens.
    """
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
            if not share:
                bound.listen(BACKLOG)  # one that is bound alone is not taken: another could be bound to it as well
        except OSError:
            for opened in (bound, *sockets):
                opened.close()
            raise
        number = bound.getsockname()[1]
        sockets.append(bound)
    return sockets
