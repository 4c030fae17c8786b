"""How an RPC ends: its outcome becomes a status, trailing metadata and the end of its record, here and nowhere else.

`scored` is for the RPCs that ask a model, `answering` for the others. Shared by every service of the gateway; knows
no service's messages.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import grpc
from grpc import aio

from headrace.core.records import RpcRecord
from headrace.errors import (
    BrokenContract,
    DeadlinePassed,
    HeadraceError,
    NotPermitted,
    NotServing,
    Overloaded,
    QuotaExceeded,
)
from headrace.gateway.admission import Admission
from headrace.gateway.lane import Lane
from headrace.gateway.models import Models
from headrace.gateway.observer import Observer
from headrace.gateway.quotas import metered
from headrace.rpc.call import Call
from headrace.rpc.messages import short
from headrace.telemetry import timings

log = logging.getLogger(__name__)

PUSHBACK_MS: Final = "50"
"""`grpc-retry-pushback-ms` of a refusal for overload: a client that retries waits so long first."""
MAX_ID: Final = 256
"""Characters of a caller's id that are remembered; the answer carries it whole."""

Trailing = tuple[tuple[str, str], ...]
Request = TypeVar("Request")
Response = TypeVar("Response")
Method = Callable[[Any, Request, Call], Awaitable[Response]]
ScoringMethod = Callable[[Any, Request, Call, RpcRecord], Awaitable[Response]]


class Answers(Protocol):
    """A service that tells errors in its own words."""

    def code_of(self, error: HeadraceError) -> str:
        """The gRPC status of an error, by name."""


class Scores(Answers, Protocol):
    """A service that asks models."""

    admission: Admission
    observer: Observer

    def id_of(self, request: Any) -> str:
        """What the caller calls this request."""

    def told(self, error: HeadraceError, request: Any) -> HeadraceError:
        """The error as its caller reads it."""


def find(models: Models, name: str, version: str, record: RpcRecord, entity: str = "") -> Lane:
    """The lane that answers, entered in the record. Raises: UnknownModel, NotReady, InvalidInference, NotPermitted."""
    caller = record.caller
    if caller is not None and caller.infer_models:
        caller.assert_may_ask(name)  # first: who may not ask is not told whether there is such a model
    lane = models.find(name, version, entity)
    # Only now: a name that is no model's must not become a label, a caller could make any number of them.
    record.model, record.version, record.path = lane.spec.name, lane.spec.version, lane.path
    return lane


def scored(name: str) -> Callable[[ScoringMethod[Request, Response]], Method[Request, Response]]:
    """Make an RPC called `name` of a method that asks a model.

    The method runs with a permit, and with the record that becomes the RPC's span. Whatever it raises is told once:
    to the caller as a status with its trace and timings, to the observer as the end of the record. Of those who may not
    ask, or not so much, there is no record: a flood of them would fill traces and log.
    """

    def decorate(method: ScoringMethod[Request, Response]) -> Method[Request, Response]:
        @functools.wraps(method)
        async def answer(self: Scores, request: Request, rpc: Call) -> Response:
            record = self.observer.begin(name, rpc)
            record.request_id = self.id_of(request)[:MAX_ID]
            try:
                response = await _admitted(self, method, request, rpc, record)
            except (NotPermitted, QuotaExceeded) as error:
                self.observer.turned_away(error)
                await abort(rpc, self, self.told(error, request))
                raise
            except HeadraceError as error:
                self.observer.failed(record, error, self.code_of(error))
                await abort(rpc, self, self.told(error, request), timings.trailing(record))
                raise
            except asyncio.CancelledError:
                self.observer.left(record)
                raise
            except Exception as error:  # a caller must never hang on, or read, an error of ours
                self.observer.broke(record, error)
                await abort(rpc, self, BrokenContract("internal error"), timings.trailing(record))
                raise
            self.observer.succeeded(record)
            rpc.set_trailing_metadata(timings.trailing(record))
            return response

        return answer

    return decorate


def answering(method: Method[Request, Response]) -> Method[Request, Response]:
    """Turn headrace's errors into gRPC statuses, and anything else into INTERNAL that tells nothing."""

    @functools.wraps(method)
    async def answer(self: Answers, request: Request, rpc: Call) -> Response:
        try:
            return await method(self, request, rpc)
        except HeadraceError as error:
            failure = error
        except aio.AbortError:
            raise
        except Exception as error:  # a caller must never hang on, or read, an error of ours
            log.exception("an RPC failed on an error of ours")
            failure = BrokenContract("internal error")
            failure.__cause__ = error
        await abort(rpc, self, failure)
        raise AssertionError("This is a bug.")  # abort raises

    return answer


async def abort(rpc: Call, service: Answers, error: HeadraceError, trailing: Trailing = ()) -> None:
    """End an RPC with the status of `error`."""
    if isinstance(error, Overloaded | NotServing | DeadlinePassed):
        trailing = (*trailing, ("grpc-retry-pushback-ms", PUSHBACK_MS))
    elif isinstance(error, QuotaExceeded):
        trailing = (*trailing, ("grpc-retry-pushback-ms", str(error.retry_ms or PUSHBACK_MS)))
    try:
        await rpc.abort(grpc.StatusCode[service.code_of(error)], short(str(error)), trailing)
    except aio.InternalError:  # the RPC was over: its deadline has passed in the core, and nobody listens any more
        raise asyncio.CancelledError from None


async def _admitted(
    service: Scores,
    method: ScoringMethod[Request, Response],
    request: Request,
    rpc: Call,
    record: RpcRecord,
) -> Response:
    service.admission.enter()
    try:
        if rpc.meter is not None:
            return await _metered(service, method, request, rpc, record)
        return await method(service, request, rpc, record)
    finally:
        service.admission.leave()


async def _metered(
    service: Scores,
    method: ScoringMethod[Request, Response],
    request: Request,
    rpc: Call,
    record: RpcRecord,
) -> Response:
    """Of a caller with a quota: a request of a stream takes its place now, any other has at the door."""
    with metered(rpc):
        try:
            return await method(service, request, rpc, record)
        finally:
            rpc.meter.spend(record.rows, record.tokens)
