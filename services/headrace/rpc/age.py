"""How old a connection may become: its client is told to make another, and cut off if it stays. No call is lost by it.

Knows no calls: what is said goes through the connection, which says when its client has read it.
Source: https://github.com/grpc/proposal/blob/master/A9-server-side-conn-mgt.md.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, NamedTuple

from headrace.rpc import frames

if TYPE_CHECKING:
    from headrace.rpc.calls import ServerConnection

JITTER: Final = 0.1
"""Connections that were made together do not come again together."""
SETTLED_S: Final = 0.5
"""A client counts on a connection that is so old, even if it has not called yet."""
PATIENCE_S: Final = 20.0
"""A client that does not say that it has read is taken to have, after so long."""
READ: Final = b"farewell"
"""What is in the ping behind our first goodbye, and in its answer."""


class Age(NamedTuple):
    """Of the connections of a server."""

    most_s: float
    """A client is told then, or a tenth earlier or later."""
    grace_s: float
    """What runs then may take so long."""

    def drawn_s(self) -> float:
        """For one connection."""
        return self.most_s * random.uniform(1 - JITTER, 1 + JITTER)


class Farewell:
    """How one connection ends in peace, when it is old or its server stops. `stop` it when the connection has ended.

    Two goodbyes: at the first the client opens no more calls. Those that it has opened meanwhile are still taken; the
    second, once it has read the first, says which were the last. With one alone they would be refused.
    None before the client counts on the connection: a gRPC client that reads of its end with its first settings may
    never see that it is over (grpcio 1.85: its call waits until its deadline).
    """

    def __init__(self, age: Age | None, connection: ServerConnection) -> None:
        self._connection = connection
        self._told = False
        self._due = False
        self.settled = False
        """The client counts on the connection."""
        self._loop = asyncio.get_running_loop()
        self._timers = [self._loop.call_later(SETTLED_S, self.settle)]
        if age is not None:
            self._timers.append(self._loop.call_later(age.drawn_s(), self._be_old, age.grace_s))

    def settle(self) -> None:
        """The client has called, or could have."""
        self.settled = True
        if self._due:
            self.begin()

    def begin(self) -> None:
        """Say the first goodbye, unless it is said: at once, or when the client counts on the connection.

        What runs may go on: how long is for who says it to know.
        """
        if self._told or self._connection.refusing:
            return
        if not self.settled:
            self._due = True
            return
        self.stop()
        self._told = True
        first = frames.goaway(frames.LAST_STREAM, frames.NO_ERROR)
        self._connection.write(first + frames.frame(frames.PING, 0, 0, READ))
        self._timers = [self._loop.call_later(PATIENCE_S, self.read)]

    def read(self) -> None:
        """The client has read the first goodbye, as far as it says."""
        if self._told and not self._connection.refusing:
            self._connection.leave()

    def _be_old(self, grace_s: float) -> None:
        self.settled = True
        self.begin()
        if self._told:
            self._timers.append(self._loop.call_later(grace_s, self._connection.end, frames.NO_ERROR))

    def stop(self) -> None:
        for timer in self._timers:
            timer.cancel()
