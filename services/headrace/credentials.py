"""How a client shows itself, and whom it believes: files that are read again when they change. Makes no connection.

Part of the base install. A token is only ever shown over TLS, or to this machine.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headrace.errors import StartupError
from headrace.rpc.tls import TlsError, TlsFiles, Watched, client_context, read

if TYPE_CHECKING:
    import grpc

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

    @property
    def tokenless(self) -> ClientCredentials:
        """The same for calls that anybody may make, to whoever it is."""
        return replace(self, token_file=None)

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
        import grpc  # noqa: PLC0415  costs a third of a second, and a command line without a call needs none

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
        return Watched([path], lambda: read_token(path))


NOBODY: Final = ClientCredentials()


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


def read_token(path: Path) -> str:
    """The one word in this file. Raises: TlsError."""
    try:
        token = read(path).decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise TlsError(f"{path}: expected a token, one word of printable ASCII")
    return token
