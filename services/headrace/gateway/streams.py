"""ModelStreamInfer: many inferences on one call. Each runs as on a call of its own, answers leave in their order.

Called by the servicer. Keeps no more of a stream than it may, whether its caller reads or not; knows neither models
nor lanes: what becomes of one request is the unary path's business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final, NamedTuple, NoReturn, cast

import grpc
from grpc import aio
from tritonclient.grpc import service_pb2

from headrace.gateway.admission import SHUTTING_DOWN
from headrace.rpc.call import Call
from headrace.rpc.messages import Failure, Metadata

AT_ONCE: Final = 32
"""Requests that are taken in one turn of the loop: they ride together, and nobody else waits for long."""
STATUS_WANTED: Final = ("triton_grpc_error", "true")
"""Metadata of a caller who wants its first error as the status of the stream."""
TRACE: Final = "traceparent"

Infer = Callable[[service_pb2.ModelInferRequest, Call], Awaitable[service_pb2.ModelInferResponse]]
"""One inference as an RPC: whatever goes wrong has become a status."""


class Turn:
    """One request of a stream as its handler sees it: a call whose status ends the request, not the stream.

    Whatever else is asked of it is the stream's: metadata, deadline, who calls.
    """

    __slots__ = ("_stream", "code", "sentence", "trailing")

    def __init__(self, stream: Call) -> None:
        self._stream = stream
        self.code = grpc.StatusCode.OK
        self.sentence = ""
        self.trailing: Metadata = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self.trailing = metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Raises: AbortError always."""
        self.code, self.sentence, self.trailing = code, details or code.name, trailing_metadata
        raise aio.AbortError("aborted")


class Answered(NamedTuple):
    """What has become of one request."""

    response: service_pb2.ModelStreamInferResponse
    turn: Turn

    @property
    def failed(self) -> bool:
        return self.turn.code is not grpc.StatusCode.OK


class Streams:
    """The open streams of a gateway. `most`: requests of each that it holds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[Stream] = set()
        self._ended = False

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, rpc: Call, infer: Infer) -> None:
        """Answer a stream until its caller has said all, goes, or is to go."""
        stream = Stream(rpc, infer, self._most)
        self._open.add(stream)
        if self._ended:
            stream.end()
        try:
            await stream.run()
        finally:
            self._open.discard(stream)

    def end(self) -> None:
        """The gateway is going: every stream ends when what was taken of it is answered."""
        self._ended = True
        for stream in self._open:
            stream.end()


class Stream:
    """One call: a task that reads, one for each request, and the handler's own, which writes."""

    def __init__(self, rpc: Call, infer: Infer, most: int) -> None:
        self._rpc = rpc
        self._infer = infer
        self._status_wanted = STATUS_WANTED in rpc.invocation_metadata()
        self._room = asyncio.Semaphore(most)
        """For requests until their answers have left: a caller that does not read gets to ask no more."""
        self._turns: deque[asyncio.Task[Answered]] = deque()
        self._news = asyncio.Event()
        self._all_read = False
        self._ended = False
        self._reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Cancellation: so are its requests, which leave their batches."""
        async with asyncio.TaskGroup() as group:
            self._reading = group.create_task(self._read(group), name="read-stream")
            failed = await self._write_all()
            self._reading.cancel()
            for turn in self._turns:
                turn.cancel()
        with contextlib.suppress(aio.InternalError):  # it is over: nobody listens any more
            if failed is not None:
                await self._rpc.abort(failed.code, failed.sentence, failed.trailing)
            if self._ended:
                await self._rpc.abort(grpc.StatusCode.UNAVAILABLE, SHUTTING_DOWN)

    def end(self) -> None:
        """Take nothing more, and say so once everything is answered. One whose caller has said all ends by itself."""
        if self._all_read:
            return
        self._ended = self._all_read = True
        self._news.set()
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, group: asyncio.TaskGroup) -> None:
        try:
            for taken in count(1):
                await self._room.acquire()
                request = await self._rpc.read()
                if request is aio.EOF or self._ended:
                    return
                self._turns.append(group.create_task(self._answer(request)))
                self._news.set()
                if not taken % AT_ONCE:
                    await asyncio.sleep(0)
        except Failure:  # what came could not be read: the connection has said so, and ends the handler
            return
        finally:
            self._all_read = True
            self._news.set()

    async def _answer(self, request: service_pb2.ModelInferRequest) -> Answered:
        turn = Turn(self._rpc)
        try:
            answer = await self._infer(request, cast("Call", turn))
        except aio.AbortError:
            only_id = service_pb2.ModelInferResponse(id=request.id)
            refusal = service_pb2.ModelStreamInferResponse(error_message=turn.sentence, infer_response=only_id)
            return Answered(refusal, turn)
        answer.parameters["triton_final_response"].bool_param = True
        for name, text in turn.trailing:
            if name == TRACE:  # a stream has one set of trailing metadata, and many requests
                answer.parameters[f"headrace_{TRACE}"].string_param = text
        return Answered(service_pb2.ModelStreamInferResponse(infer_response=answer), turn)

    async def _write_all(self) -> Turn | None:
        """Answers in the order of requests, those that are there in one go. The turn whose status ends the stream."""
        with contextlib.suppress(aio.InternalError):  # the call is over, and this task is about to be cancelled
            while await self._next():
                await self._turns[0]
                ready = self._take_answered()
                for answered in ready:
                    if answered.failed and self._status_wanted:
                        return answered.turn
                    self._rpc.write_nowait(answered.response)
                await self._rpc.drained()
                for _ in ready:
                    self._room.release()
        return None

    def _take_answered(self) -> list[Answered]:
        """Those in front, up to the first that is still at work."""
        found = []
        while self._turns and self._turns[0].done():
            found.append(self._turns.popleft().result())
        return found

    async def _next(self) -> bool:
        """Until there is a request to answer; False: there is none, and none will come."""
        while not self._turns:
            if self._all_read:
                return False
            self._news.clear()
            await self._news.wait()
        return True
