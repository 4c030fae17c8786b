"""Who is calling, and what they may: identities from certificates and bearer tokens, permissions from the settings.

Asked at every port before a message is read. Says in no error which callers or tokens there are.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, get_args

import grpc

from headrace.config import AccessSettings, Caller, Permission
from headrace.errors import NotPermitted, Refused, Unauthenticated
from headrace.permissions import needed
from headrace.rpc.messages import Failure
from headrace.rpc.methods import Rule

EVERYTHING: Final = frozenset(get_args(Permission))
READERS: Final = frozenset({"gateway", "replica", "admin"})
"""Who may do one of these may `read` too."""
URI: Final = "peer_uri"
DNS: Final = "peer_dns"
COMMON_NAME: Final = "x509_common_name"
SECURITY: Final = "transport_security_type"
"""Keys of a call's `auth_context`, with grpcio's names."""
COMMON: Final = "cn:"
"""What a pattern for common names begins with."""
MAX_OPEN: Final = 4096
"""Bytes of a message that anybody may send: names, and little else."""
STRANGER: Final = "this call needs an identity: a client certificate or a bearer token that is known here"
ALWAYS: Final = ""
"""In what a connection remembers: who its client is whatever token its calls bear, or None."""
NOTHING: Final = "-"
"""The same for calls without a token; no token is so short."""


class Connection(Protocol):
    """What is asked of the connection of a call."""

    remembered: dict[Any, Any]


class Asking(Protocol):
    """What is asked of a call: `headrace.rpc.call.Call` has it."""

    @property
    def connection(self) -> Connection: ...
    def peer(self) -> str: ...
    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...
    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller and what it may do."""

    name: str
    permissions: frozenset[str]
    models: frozenset[str] = frozenset()
    """Those that its replicas may serve; empty = all."""

    def assert_serves(self, model: str) -> None:
        """Raises: NotPermitted."""
        if self.models and model not in self.models:
            raise NotPermitted(f"this caller's replicas may not serve the model '{model[:256]}'")


LOCAL: Final = Identity("local", EVERYTHING)
ANONYMOUS: Final = Identity("anonymous", EVERYTHING)


class NamePattern:
    """Names of one kind in a certificate: of URIs with `://`, of common names after `cn:`, of DNS without either.

    An authority vouches for a name as what it is: one kind must never stand for another.
    """

    def __init__(self, pattern: str) -> None:
        common = pattern.startswith(COMMON)
        self._kind = COMMON_NAME if common else URI if "://" in pattern else DNS
        parts = pattern.removeprefix(COMMON).split("*")
        self._matches = re.compile(".*".join(map(re.escape, parts)), re.DOTALL).fullmatch

    def meets(self, context: Mapping[str, Iterable[bytes]]) -> bool:
        """Whether the certificate behind an `auth_context` has such a name."""
        return any(self._matches(name.decode()) for name in context.get(self._kind, ()))


@dataclass(frozen=True, slots=True)
class _Known:
    """A caller of the settings."""

    identity: Identity
    certificate: NamePattern | None
    digest: bytes


class Access:
    """The callers of one process's settings."""

    def __init__(self, settings: AccessSettings) -> None:
        self._mode = settings.mode
        self.refused: Counter[str] = Counter()
        """Calls that were not let in, by the name of the error."""
        self._known = [
            _Known(
                _identity(caller),
                NamePattern(caller.certificate) if caller.certificate else None,
                bytes.fromhex(caller.token_sha256),
            )
            for caller in settings.callers
        ]

    def require(self, call: Asking, permission: str) -> Identity:
        """Who calls. Raises: Unauthenticated, or NotPermitted when it lacks this permission."""
        identity = self.identify(call)
        if permission not in identity.permissions:
            raise NotPermitted(f"this caller may not do this: it needs the permission '{permission}'")
        return identity

    def rule_of(self, path: str) -> Rule:
        """What a server asks of those who call this method, before it reads what they send."""
        permission = needed(path)
        return Rule(max_message=MAX_OPEN) if permission is None else Rule(partial(self._admit, permission))

    def _admit(self, permission: str, call: Asking) -> None:
        """Raises: Failure."""
        try:
            self.require(call, permission)
        except Refused as refused:
            self.refused[type(refused).__name__] += 1
            raise Failure(grpc.StatusCode[refused.code], str(refused)) from None

    def identify(self, call: Asking) -> Identity:
        """Who calls: known once for a connection, or once for each token that its calls bear. Raises: Unauthenticated.

        A call with a token is its bearer's, whatever certificate its connection has shown.
        """
        remembered = call.connection.remembered
        if ALWAYS not in remembered:
            remembered[ALWAYS] = self._without_asking(call)
        always: Identity | None = remembered[ALWAYS]
        if always is not None:
            return always
        token = _token(call)
        found: Identity | None = remembered.get(token)
        if found is None:
            found = self._by_certificate(call) if token == NOTHING else self._by_token(call, token)
            remembered[token] = found  # there are no more of them than callers
        return found

    def _without_asking(self, call: Asking) -> Identity | None:
        """Who calls, where nobody need be known."""
        if self._mode == "open":
            return ANONYMOUS
        return LOCAL if self._mode == "auto" and is_loopback(call.peer()) else None

    def _by_certificate(self, call: Asking) -> Identity:
        shown = call.auth_context()
        for known in self._known:
            if known.certificate is not None and known.certificate.meets(shown):
                return known.identity
        raise Unauthenticated(STRANGER)

    def _by_token(self, call: Asking, token: str) -> Identity:
        if not (is_loopback(call.peer()) or is_encrypted(call.auth_context())):
            raise Unauthenticated("a token is taken over TLS only, or from this machine")
        digest = hashlib.sha256(token.encode()).digest()
        # All are compared, so that the time says nothing about where one is found.
        found = [known.identity for known in self._known if hmac.compare_digest(known.digest, digest)]
        if not found:
            raise Unauthenticated(STRANGER)
        return found[0]


def is_encrypted(context: Mapping[str, Iterable[bytes]]) -> bool:
    return b"ssl" in context.get(SECURITY, ())


def is_loopback(peer: str) -> bool:
    """Whether a peer (`ipv4:HOST:PORT`, `ipv6:[HOST]:PORT`) is on this machine."""
    try:
        address = ipaddress.ip_address(peer.partition(":")[2].rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _identity(caller: Caller) -> Identity:
    return Identity(caller.name, _all_of(caller.may), frozenset(caller.models))


def _all_of(may: Iterable[str]) -> frozenset[str]:
    found = frozenset(may)
    return found | {"read"} if found & READERS else found


def _token(call: Asking) -> str:
    """The bearer token of a call, or NOTHING. Raises: Unauthenticated for credentials of another kind."""
    for name, value in call.invocation_metadata():
        if name == "authorization":
            kind, _, token = str(value).partition(" ")
            if kind.lower() != "bearer" or len(token) <= len(NOTHING):
                raise Unauthenticated(STRANGER)
            return token
    return NOTHING
