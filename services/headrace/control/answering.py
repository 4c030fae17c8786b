"""How an RPC of control ends: its permission, its method, and what that raises as a status, here and nowhere else."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc

from headrace.channel import ERROR
from headrace.errors import BrokenContract, HeadraceError
from headrace.rpc.messages import short

log = logging.getLogger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")
Require = Callable[[Any, str], str]
"""A call and the permission it needs → the caller's name. Raises: a HeadraceError for a caller who may not."""


class Guarded(Protocol):
    """A service whose callers have names."""

    require: Require


def answering(
    permission: str,
) -> Callable[[Callable[[Any, Request, str], Awaitable[Response]]], Callable[[Any, Request, Any], Awaitable[Response]]]:
    """Make an RPC of a method that takes a request and its caller's name, for callers with this permission."""

    def decorate(
        method: Callable[[Any, Request, str], Awaitable[Response]],
    ) -> Callable[[Any, Request, Any], Awaitable[Response]]:
        @functools.wraps(method)
        async def answer(self: Guarded, request: Request, call: Any) -> Response:
            try:
                return await method(self, request, self.require(call, permission))
            except HeadraceError as error:
                failure = error
            except Exception:  # a caller must never hang on, or read, an error of ours
                log.exception("an RPC failed on an error of ours")
                failure = BrokenContract("internal error")
            named = ((ERROR, type(failure).__name__),)
            await call.abort(grpc.StatusCode[failure.code], short(str(failure)), named)
            raise AssertionError("This is a bug.")  # abort raises

        return answer

    return decorate
