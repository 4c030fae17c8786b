"""How our processes and our clients reach a port: whom they believe, as whom they come, how grpcio keeps a channel.

A peer that is dead or stopped is noticed within 2 s. Part of the base install: needs grpcio alone.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import grpc
from grpc import aio

from headrace.errors import StartupError
from headrace.rpc.tls import TlsError, TlsFiles, Watched, client_context, read

STAMPS: Final = "headrace-stamps-bin"
"""Trailing metadata of a batch that failed at its replica: `headrace.v1.Stamps`, as far as it got."""
OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),  # without it a stopped peer keeps its connection for a minute (grpcio 1.85)
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
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
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ClientCredentials:
    """How a client shows itself, and whom it believes. Without any of it: in plain text, as nobody."""

    authorities: Path | None = None
    """PEM: who signs the certificates of servers. None = this machine's authorities, or without `tls` none."""
    certificate: Path | None = None
    """PEM: the client's own."""
    key: Path | None = None
    name: str = ""
    """The name expected in the server's certificate; empty = its address."""
    token_file: Path | None = None
    """Holds the token that every call bears: over TLS, or to this machine."""
    tls: bool = False
    """Speak TLS although there is neither certificate nor authorities of one's own."""

    @property
    def secure(self) -> bool:
        """Connections are TLS."""
        return self.tls or self.authorities is not None or self.certificate is not None

    def check(self, address: str = "") -> None:
        """Raises: StartupError when a file cannot be used, or a token could not go to this address."""
        try:
            self.context()
            self.token()
        except TlsError as error:
            raise StartupError(str(error)) from error
        if address and self.token_file is not None and not self.metadata(address):
            raise StartupError(f"{address}: a token goes over TLS, or to this machine, never in plain text to another")

    def context(self) -> ssl.SSLContext | None:
        """For the next connection, by the files as they are now; None = in plain text. Raises: TlsError."""
        if not self.secure:
            return None
        self._made.look()
        return self._made.value[0]

    def for_grpcio(self) -> grpc.ChannelCredentials:
        """The same for grpcio, where connections are `secure`. Raises: TlsError."""
        self._made.look()
        return self._made.value[1]

    def token(self) -> str:
        """As the file has it now; "" = none. Raises: TlsError."""
        if self.token_file is None:
            return ""
        self._token.look()
        return self._token.value

    def metadata(self, address: str) -> Headers:
        """Of every call to this address. A token never goes to another machine in plain text."""
        token = self.token() if self.secure or is_local(address) else ""
        return (("authorization", f"Bearer {token}"),) if token else ()

    @cached_property
    def _made(self) -> Watched[tuple[ssl.SSLContext, grpc.ChannelCredentials]]:
        files = TlsFiles(self.certificate, self.key, self.authorities)

        def make() -> tuple[ssl.SSLContext, grpc.ChannelCredentials]:
            context = client_context(files)  # first: it says what is wrong, where grpcio would only fail to connect
            parts = (self.authorities, self.key, self.certificate)
            return context, grpc.ssl_channel_credentials(*(None if path is None else read(path) for path in parts))

        return Watched(files.all(), make)

    @cached_property
    def _token(self) -> Watched[str]:
        assert self.token_file is not None, "This is a bug."
        path = self.token_file
        return Watched([path], lambda: _read_token(path))


NOBODY: Final = ClientCredentials()


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


def is_local(address: str) -> bool:
    """Whether all of a gRPC target is on this machine: loopback addresses, `localhost`, a Unix socket."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    hosts = [_host(one) for one in address.removeprefix("ipv4:").removeprefix("ipv6:").split(",")]
    return all(host == "localhost" or _is_loopback(host) for host in hosts)


def _host(address: str) -> str:
    host, _, port = address.rpartition(":")
    return (host if port.isdigit() and host else address).strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_token(path: Path) -> str:
    try:
        token = read(path).decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise TlsError(f"{path}: expected a token, one word of printable ASCII")
    return token


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
