"""One deployer's stream: orders that wait for it, and whoever waits for what came of them."""

from __future__ import annotations

import asyncio
from typing import Final

from headrace.control.names import check_name
from headrace.core.routing import is_version
from headrace.errors import HeadraceError, InvalidInference, NotServing
from headrace.v1 import control_pb2 as pb

MAX_VERSIONS: Final = 10_000
MAX_SENTENCE: Final = 4096
LOST: Final = "the deployer has gone: what has come of it, RepositoryIndex says once it is back"


class Seat:
    """A stream, from its first word to its end."""

    def __init__(self, who: str) -> None:
        self.who = who
        """The caller whose stream it is."""
        self.deployer_id = ""
        self._orders: asyncio.Queue[pb.DeployOrder | HeadraceError | None] = asyncio.Queue()
        self._asked: dict[int, asyncio.Future[pb.DeployReport]] = {}

    async def ask(self, order: pb.DeployOrder) -> pb.DeployReport:
        """Send an order; what came of it. Raises: NotServing when the deployer goes before it says so."""
        done: asyncio.Future[pb.DeployReport] = asyncio.get_running_loop().create_future()
        self._asked[order.act] = done
        self._orders.put_nowait(order)
        try:
            return await done
        finally:
            self._asked.pop(order.act, None)

    async def next_order(self) -> pb.DeployOrder | None:
        """None = the stream is over. Raises: what it has to end with."""
        order = await self._orders.get()
        if isinstance(order, HeadraceError):
            raise order
        return order

    def hear(self, report: pb.DeployReport) -> None:
        """Hand a report to who waits for it."""
        done = self._asked.get(report.act)
        if done is not None and not done.done():
            done.set_result(report)

    def end(self, why: HeadraceError | None) -> None:
        """No more orders."""
        self._orders.put_nowait(why)

    def leave(self) -> None:
        """The stream has ended: nobody will hear what came of what was asked."""
        for done in self._asked.values():
            if not done.done():
                done.set_exception(NotServing(LOST))


def check(report: pb.DeployReport) -> None:
    """Raises: InvalidInference naming the field."""
    check_name("deployer_id", report.deployer_id)
    if len(report.repository.versions) > MAX_VERSIONS:
        raise InvalidInference(f"repository.versions: {MAX_VERSIONS} at most")
    if len(report.failure) > MAX_SENTENCE:
        raise InvalidInference(f"failure: {MAX_SENTENCE} characters at most")
    for one in report.repository.versions:
        check_name("model", one.model)
        if not is_version(one.version):
            raise InvalidInference(f"version: {one.version[:32]!r} is not an integer from 1, in up to 18 digits")
        if len(one.reason) > MAX_SENTENCE:
            raise InvalidInference(f"reason: {MAX_SENTENCE} characters at most")
