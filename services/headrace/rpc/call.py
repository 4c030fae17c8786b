"""One call at a server: what its handler is given as context, with the names grpc.aio gives them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc import aio

from headrace.rpc.connection import Stream
from headrace.rpc.messages import Asked, Metadata, Reader

if TYPE_CHECKING:
    from headrace.rpc.server import ServerConnection

MANY_UNREAD: Final = 16
"""Messages of a stream that wait for their handler: from then on the caller's window stays shut until it reads."""


class Call(Stream):
    """A call from its first fields to its status. Handlers see the methods; the connection, the rest."""

    __slots__ = (
        "_reading", "asked", "connection", "deadline", "half_closed", "handler", "opened", "over", "reader",
        "task", "trailing", "unread",
    )  # fmt: skip

    def __init__(self, number: int, allowed: int, connection: ServerConnection, asked: Asked, handler: Any) -> None:
        super().__init__(number, allowed)
        self.connection = connection
        self.asked = asked
        self.handler = handler
        self.deadline = None if asked.timeout_s is None else time.monotonic() + asked.timeout_s
        self.reader: Reader | None = None
        self.unread: deque[bytes] = deque()
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
        """The next message of the caller's, or `aio.EOF` when it has sent all it will."""
        while not self.unread:
            if self.half_closed:
                return aio.EOF
            self._reading = asyncio.get_running_loop().create_future()
            await self._reading
        message = self.unread.popleft()
        if len(self.unread) < MANY_UNREAD:
            self.connection.give_back(self)
        return self.connection.deserialize(self, message)

    async def write(self, message: Any) -> None:
        """Send one message; returns when there is room for another. Raises: InternalError when the call is over."""
        if self.over:
            raise aio.InternalError("the call is over")
        self.connection.answer(self, self.handler.response_serializer(message))
        await self.connection.drained(self)

    async def requests(self) -> AsyncIterator[Any]:
        """The caller's messages as handlers of streams may take them."""
        while (message := await self.read()) is not aio.EOF:
            yield message

    # What its connection says ---------------------------------------------------------------------------------------

    def feed(self, messages: list[bytes], *, ends: bool) -> None:
        """More of a stream of messages has come."""
        self.unread.extend(messages)
        self.half_closed = ends
        if len(self.unread) < MANY_UNREAD:
            self.connection.give_back(self)
        if self._reading is not None and not self._reading.done() and (self.unread or ends):
            self._reading.set_result(None)
