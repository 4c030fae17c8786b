"""How our processes and our clients reach a port: how grpcio keeps a channel, and how a token goes along.

A peer that is dead or stopped is noticed within 2 s. Part of the base install: needs grpcio alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
from grpc import aio

from headrace.credentials import NOBODY, ClientCredentials, Headers

STAMPS: Final = "headrace-stamps-bin"
"""Trailing metadata of a batch that failed at its replica: `headrace.v1.Stamps`, as far as it got."""
ERROR: Final = "headrace-error"
"""Trailing metadata of what control refuses or fails at: the error's name, where a status alone says too little."""
OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),  # without it a stopped peer keeps its connection for a minute (grpcio 1.85)
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),  # whoever is meant to have the token is reached straight
    ("grpc.enable_retries", 0),  # what to try again, and where, is decided by whoever holds the channel
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)
REFUSALS: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
"""What a peer answers that does not let us in."""

Options = Sequence[tuple[str, Any]]


def connect(address: str, credentials: ClientCredentials = NOBODY, options: Options = OPTIONS) -> aio.Channel:
    """A channel for asyncio, with the files as they are now: make another for those that come later.

    Raises: StartupError when a file cannot be used, or a token would go to another machine in plain text.
    """
    headers = _headers(address, credentials)
    bearing = [kind(headers) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)] if headers else None
    if not credentials.secure:
        return aio.insecure_channel(address, options, interceptors=bearing)
    with_name = [*options, *_expected(credentials)]
    return aio.secure_channel(address, credentials.for_grpcio(), with_name, interceptors=bearing)


def connect_blocking(address: str, credentials: ClientCredentials = NOBODY, options: Options = OPTIONS) -> grpc.Channel:
    """The same, blocking."""
    headers = _headers(address, credentials)
    if credentials.secure:
        with_name = [*options, *_expected(credentials)]
        channel = grpc.secure_channel(address, credentials.for_grpcio(), with_name)
    else:
        channel = grpc.insecure_channel(address, options)
    return grpc.intercept_channel(channel, _Blocking(headers)) if headers else channel


def _headers(address: str, credentials: ClientCredentials) -> Headers:
    """Raises: StartupError."""
    credentials.check(address)
    return credentials.metadata(address)


def _expected(credentials: ClientCredentials) -> Options:
    return [("grpc.ssl_target_name_override", credentials.name)] if credentials.name else []


# grpcio's call credentials need TLS, and a token may go to this machine without: so interceptors add it.


class _Bearing:
    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def _with_headers(self, details: Any) -> Any:
        return details._replace(metadata=(*(details.metadata or ()), *self._headers))


class _UnaryUnary(_Bearing, aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._with_headers(client_call_details), request)


class _UnaryStream(_Bearing, aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._with_headers(client_call_details), request)


class _StreamUnary(_Bearing, aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._with_headers(client_call_details), request_iterator)


class _StreamStream(_Bearing, aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._with_headers(client_call_details), request_iterator)


class _Details(grpc.ClientCallDetails):
    """A call's details with other metadata."""

    def __init__(self, details: Any, metadata: Headers) -> None:
        for name in ("method", "timeout", "credentials", "wait_for_ready", "compression"):
            setattr(self, name, getattr(details, name, None))
        self.metadata = metadata


class _Blocking(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def _intercept(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:  # all four are alike
        return continuation(_Details(details, (*(details.metadata or ()), *self._headers)), request)

    intercept_unary_unary = _intercept  # type: ignore[assignment]
    intercept_unary_stream = _intercept  # type: ignore[assignment]
    intercept_stream_unary = _intercept  # type: ignore[assignment]
    intercept_stream_stream = _intercept  # type: ignore[assignment]
