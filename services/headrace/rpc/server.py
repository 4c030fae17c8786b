"""A gRPC server for asyncio on our own HTTP/2: takes the servicers that grpc.aio's server takes.

Owns ports, connections and their lives, from the first to the last; what is said on a connection is for `calls`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from headrace.rpc import calls, frames
from headrace.rpc.age import Age
from headrace.rpc.bounds import MAX_HANDSHAKES, USUAL, Bounds, Crowd
from headrace.rpc.calls import ServerConnection
from headrace.rpc.connection import LAST_WORDS_S
from headrace.rpc.methods import Methods, Rule
from headrace.rpc.packing import Compression
from headrace.rpc.port import Port, bind
from headrace.rpc.tls import Watched

log = logging.getLogger(__name__)

CLEAN_UP_S: Final = 5.0
"""What a handler does after it was cancelled may take so long; then the server stops without it."""


class Server:
    """Ports, connections and handlers. Filled by generated `add_…Servicer_to_server` functions.

    `rule_of` says what a path asks of its callers; `age`, how old their connections may become: None = as they like.
    """

    def __init__(
        self,
        *,
        share_port: bool = False,
        rule_of: Callable[[str], Rule] = lambda _: Rule(),
        age: Age | None = None,
        bounds: Bounds = USUAL,
        compression: Compression = "none",
    ) -> None:
        self._share_port = share_port
        self.age = age
        self.bounds = bounds
        self.crowd = Crowd(bounds.most, bounds.connections_of_one)
        self._shaking = Crowd(MAX_HANDSHAKES, bounds.connections_of_one or MAX_HANDSHAKES // 4)
        self.limited: Counter[str] = Counter()
        """How often a peer has run into which of `BOUNDS`."""
        self.compression: Compression = compression
        """Of answers."""
        self.methods = Methods(rule_of)
        self._ports: list[Port] = []
        self._ticking: asyncio.Task[None] | None = None
        self.connections: set[ServerConnection] = set()
        self.leaving = False
        """Its port is closed, and who is connected is told to call elsewhere."""
        self.stopping = False

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self.methods.add(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Generated code says everything twice; the generic handlers are enough."""

    def add_insecure_port(self, address: str) -> int:
        """Bind `HOST:PORT`, port 0 = any free one; the number it got. Raises: OSError when it is taken."""
        return self._bind(address, None)

    def add_secure_port(self, address: str, tls: Watched[ssl.SSLContext]) -> int:
        """The same for TLS alone. A second after its files have changed, new connections use the new ones."""
        return self._bind(address, tls)

    def _bind(self, address: str, tls: Watched[ssl.SSLContext] | None) -> int:
        opened = bind(address, share=self._share_port)
        make = partial(ServerConnection, self)
        self._ports += [Port(bound, tls, make, self._shaking, self.limited) for bound in opened]
        return int(opened[-1].getsockname()[1])

    async def start(self) -> None:
        """Begin to listen."""
        loop = asyncio.get_running_loop()
        for port in self._ports:
            await port.listen()
        self._ticking = loop.create_task(self._tick(), name="tick")

    async def say_goodbye(self, patience_s: float) -> None:
        """Have who is connected call elsewhere: until all have heard of it, or `patience_s`. Calls are still taken.

        Nobody can connect any more: who has this address as one of several would come back here, and be refused then.
        """
        self.leaving = True
        for port in self._ports:
            await port.close()
        for connection in list(self.connections):
            connection.say_goodbye()
        await _until(lambda: all(one.refusing or one.closed for one in self.connections), patience_s)

    async def stop(self, grace_s: float | None) -> None:
        """Take no new connections or calls, give those that run `grace_s` (None = none at all), then cut them off."""
        self.stopping = True
        for port in self._ports:
            await port.close()
        for connection in list(self.connections):
            connection.leave()
        await _until(lambda: not any(connection.streams for connection in self.connections), grace_s or 0.0)
        for connection in list(self.connections):
            connection.end(frames.NO_ERROR)
        tasks = [task for connection in self.connections for task in connection.running]
        if self._ticking is not None:
            self._ticking.cancel()
            tasks.append(self._ticking)
        if tasks:
            await asyncio.wait(tasks, timeout=CLEAN_UP_S)
        await _until(lambda: not self.connections, LAST_WORDS_S)
        for connection in list(self.connections):  # it ended on an error before, with a client that does not read
            connection.abort()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(calls.TICK_S)
            for connection in list(self.connections):
                try:
                    connection.tick()
                except Exception:  # the outer guard: the others' deadlines must still pass
                    log.exception("a connection failed on an error of ours")
                    connection.abort()
            for port in self._ports:
                port.tick()


async def _until(done: Callable[[], bool], seconds: float) -> None:
    """Until it is done, or so much time has passed."""
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:  # noqa: ASYNC110  many parts' state; none of them signals it
        await asyncio.sleep(0.01)
