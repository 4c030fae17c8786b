"""One call at a server: what its handler is given as context, with the names grpc.aio gives them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from headrace.rpc.connection import Stream
from headrace.rpc.messages import Asked, Failure, Metadata, Reader
from headrace.rpc.methods import Method, TurnedAway

if TYPE_CHECKING:
    from headrace.rpc.calls import ServerConnection


class Call(Stream):
    """A call from its first fields to its status. Handlers see the methods; the connection, the rest."""

    __slots__ = (
        "_reading", "asked", "caller", "connection", "deadline", "encoding", "half_closed", "handler", "leaving",
        "max_message", "meter", "opened", "over", "reader", "task", "trailing", "turned_away", "waited",
    )  # fmt: skip

    def __init__(self, number: int, allowed: int, connection: ServerConnection, asked: Asked, method: Method) -> None:
        super().__init__(number, allowed)
        self.connection = connection
        self.asked = asked
        self.handler = method.handler
        self.max_message = method.rule.max_message
        self.deadline = None if asked.timeout_s is None else time.monotonic() + asked.timeout_s
        self.encoding = b""
        """How its answers are compressed; empty = not at all."""
        self.reader: Reader | None = None
        self.caller: Any = None
        """Who calls, as far as its rule has asked."""
        self.meter: Any = None
        """What its caller uses is counted here; None = nobody counts."""
        self.leaving: Callable[[], None] | None = None
        """To be told, once, that it is over."""
        self.waited = 0
        """Ticks that its message has been on its way, without being whole."""
        self.turned_away: TurnedAway | None = None
        """Its caller may not, and will be told so."""
        self.half_closed = False
        """The caller has sent all it will."""
        self.opened = False
        """The answer's first fields are out."""
        self.over = False
        """Its status is out, or its caller gone."""
        self.task: asyncio.Task[None] | None = None
        self.trailing: Metadata = ()
        self._reading: asyncio.Future[None] | None = None

    # What a handler asks --------------------------------------------------------------------------------------------

    def invocation_metadata(self) -> Metadata:
        return self.asked.metadata

    def peer(self) -> str:
        return self.connection.peer

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """Who the client is, as far as TLS says: `transport_security_type`, `x509_common_name` and so on."""
        return self.connection.auth_context

    def time_remaining(self) -> float | None:
        """Seconds until its caller stops waiting, 0 from then on; None = it waits for ever."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def done(self) -> bool:
        return self.over

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self.trailing = metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> None:
        """End the call with this status. Raises: AbortError always; InternalError when it is over already."""
        if self.over:
            raise aio.InternalError("the call is over")
        self.connection.finish(self, code, details, trailing_metadata or self.trailing)
        raise aio.AbortError("aborted")

    async def read(self) -> Any:
        """The next message of the caller's, or `aio.EOF` after the last. Raises: Failure, and the call is over."""
        try:
            while self.reader is not None:
                message = self.connection.next_message(self)
                if message is not None:
                    return self.connection.deserialize(self, message)
                if self.half_closed:
                    break
                self._reading = asyncio.get_running_loop().create_future()
                await self._reading
        except Failure as failure:  # whichever task reads: the caller must hear of it
            self.connection.fail(self, failure)
            raise
        return aio.EOF

    async def write(self, message: Any) -> None:
        """Send one message; returns when there is room for another. Raises: InternalError when the call is over."""
        if self.over:
            raise aio.InternalError("the call is over")
        self.connection.answer(self, self.handler.response_serializer(message))
        await self.connection.drained(self)

    def write_nowait(self, message: Any) -> None:
        """Send one message, whether there is room or not: who writes several waits with `drained` in between.

        Raises: InternalError when the call is over.
        """
        if self.over:
            raise aio.InternalError("the call is over")
        self.connection.answer(self, self.handler.response_serializer(message))

    async def drained(self) -> None:
        """Until there is room for another message."""
        await self.connection.drained(self)

    async def requests(self) -> AsyncIterator[Any]:
        """The caller's messages as handlers of streams may take them."""
        while (message := await self.read()) is not aio.EOF:
            yield message

    @property
    def is_waiting(self) -> bool:
        """A message of its caller's is on its way: the one of a unary call, or one of a stream that has begun."""
        if self.handler.request_streaming:
            return self.reader is not None and len(self.reader) > 0 and not self.reader.ready()
        return self.task is None and not self.half_closed

    # What its connection says ---------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There is something to read, or there never will be."""
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)
