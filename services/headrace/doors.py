"""A process's doors, as its settings say: what its ports speak, who may come in, how it shows itself to the others.

Composed by gateway, control and replica alike, so that none of them has TLS or identities of its own.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from grpc_health.v1 import health_pb2_grpc

from headrace.access import Access
from headrace.config import AccessSettings, Settings, TlsSettings
from headrace.credentials import NOBODY, ClientCredentials
from headrace.errors import StartupError
from headrace.rpc.age import Age
from headrace.rpc.bounds import USUAL, Bounds
from headrace.rpc.health import Health
from headrace.rpc.methods import Rule
from headrace.rpc.packing import Compression
from headrace.rpc.server import Server
from headrace.rpc.tls import TlsError, TlsFiles, Watched, server_context


@dataclass(frozen=True)
class Doors:
    """Without settings: plain text, and whoever is on this machine may do everything."""

    access: Access
    credentials: ClientCredentials
    tls: Watched[ssl.SSLContext] | None

    def server(
        self,
        *,
        share_port: bool = False,
        age: Age | None = None,
        rule_of: Callable[[str], Rule] | None = None,
        bounds: Bounds = USUAL,
        compression: Compression = "none",
    ) -> Server:
        """A server that lets in who may, before it reads what they send; `rule_of` = by more than `access` says."""
        return Server(
            share_port=share_port,
            rule_of=rule_of or self.access.rule_of,
            age=age,
            bounds=bounds,
            compression=compression,
        )

    def health_server(self, health: Health, address: str) -> Server:
        """One that answers health alone, in plain text: who probes has no certificate, and so a port of its own.

        Raises: OSError when the port is taken.
        """
        server = self.server()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        server.add_insecure_port(address)
        return server

    def open(self, server: Server, address: str) -> int:
        """Bind a port of this process; the number it got. Raises: OSError when it is taken."""
        if self.tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self.tls)


def of(settings: Settings) -> Doors:
    """Raises: StartupError when a file cannot be used."""
    shown = credentials(settings)
    shown.check()
    return Doors(Access(settings.access), shown, _server_tls(settings.tls))


def unlocked() -> Doors:
    """As without settings."""
    return Doors(Access(AccessSettings()), NOBODY, None)


def credentials(settings: Settings) -> ClientCredentials:
    """How a process with these settings shows itself to the others."""
    tls = settings.tls
    return ClientCredentials(
        authorities=tls.authorities,
        certificate=tls.certificate,
        key=tls.key,
        name=tls.name,
        token_file=settings.access.token_file,
    )


def _server_tls(settings: TlsSettings) -> Watched[ssl.SSLContext] | None:
    if settings.certificate is None:
        return None
    files = TlsFiles(settings.certificate, settings.key, settings.authorities)
    required = settings.require_client_certificate
    try:
        return Watched(files.all(), lambda: server_context(files, require_client_certificate=required))
    except TlsError as error:
        raise StartupError(f"tls: {error}") from error
