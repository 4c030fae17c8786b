"""TLS for both sides of the rpc room: contexts made of files, and again when they change; who is at the other end.

A new file that cannot be used is logged, and what was made before stays. RFC 9113, section 9.2.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

log = logging.getLogger(__name__)

Made = TypeVar("Made")

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; HTTP/2 takes no others (RFC 9113, appendix A). TLS 1.3 has none to choose from that are bad."""
NAME_KINDS: Final = {"URI": "peer_uri", "DNS": "peer_dns", "IP Address": "peer_ip"}
"""As Python names the kinds of alternative names, and as gRPC's `auth_context` does."""


class TlsError(Exception):
    """A file cannot be used. One sentence, with its name."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one process. None = there is none."""

    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None

    def all(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.authorities) if path is not None]


class Watched(Generic[Made]):
    """What is made of files. `look` now and then: when they have changed, it is made anew."""

    def __init__(self, files: Sequence[Path], make: Callable[[], Made]) -> None:
        """Raises: TlsError."""
        self._files = tuple(files)
        self._make = make
        self._seen = self._stamps()
        self._complained: object = None
        self.value = make()

    def look(self) -> bool:
        """Whether `value` is new. Files that are half-way through a change are tried again at the next look."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        try:
            self.value = self._make()
        except TlsError as error:
            if stamps != self._complained:
                self._complained = stamps
                log.error("%s; going on with what was read before", error)  # noqa: TRY400  its frames say nothing
            return False
        self._seen = stamps
        return True

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._files)


def server_context(files: TlsFiles, *, require_client_certificate: bool = False) -> ssl.SSLContext:
    """For a port. With authorities, clients are asked for a certificate, and a bad one is refused. Raises: TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    # A session that is resumed is not verified again, and connections that live for days gain little from it.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    _load_certificate(context, files)
    if files.authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED if require_client_certificate else ssl.CERT_OPTIONAL
        _load_authorities(context, files.authorities)
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For a connection; the server's name is checked. Raises: TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False  # a host is a DNS name or an address, whatever a subject is called
    _restrict(context)
    if files.authorities is None:
        context.load_default_certs()
    else:
        _load_authorities(context, files.authorities)
    if files.certificate is not None:
        _load_certificate(context, files)
    return context


def read(path: Path) -> bytes:
    """Raises: TlsError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror}") from error


def auth_context(connection: ssl.SSLObject | None) -> dict[str, list[bytes]]:
    """Who is at the other end, under grpcio's names: nothing of a plain connection, no names without a certificate."""
    if connection is None:
        return {}
    found: dict[str, list[bytes]] = {"transport_security_type": [b"ssl"]}
    certificate: dict[str, Any] = connection.getpeercert() or {}
    names = [(NAME_KINDS.get(kind), name) for kind, name in certificate.get("subjectAltName", ())]
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    names += [("x509_common_name", name) for kind, name in subject if kind == "commonName"]
    for key, name in names:
        if key is not None:
            found.setdefault(key, []).append(name.encode())
    return found


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["h2"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION


def _load_certificate(context: ssl.SSLContext, files: TlsFiles) -> None:
    if files.certificate is None or files.key is None:
        raise TlsError("a certificate and its key go together")
    read(files.certificate)
    read(files.key)
    try:
        context.load_cert_chain(files.certificate, files.key, password="")  # or it would be asked for at the terminal
    except (ssl.SSLError, ValueError) as error:
        raise TlsError(f"{files.certificate}: no certificate to the key in {files.key}") from error


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    read(path)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, ValueError) as error:
        raise TlsError(f"{path}: no certificates of authorities") from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
