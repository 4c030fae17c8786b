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
from headrace.permissions import TELLING, needed
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
    infer_models: tuple[re.Pattern[str], ...] = ()
    """Those that it may ask; empty = all."""

    def may_ask(self, model: str) -> bool:
        return not self.infer_models or any(pattern.fullmatch(model) for pattern in self.infer_models)

    def assert_may_ask(self, model: str) -> None:
        """Raises: NotPermitted, in the same words whether there is such a model or not."""
        if self.infer_models and not self.may_ask(model):
            raise NotPermitted(f"this caller may not ask the model '{model[:256]}'")

    def assert_may(self, permission: str) -> None:
        """Raises: NotPermitted."""
        if permission not in self.permissions:
            raise NotPermitted(f"this caller may not do this: it needs the permission '{permission}'")

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
        self._matches = starred(pattern.removeprefix(COMMON)).fullmatch

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
        self._metadata = settings.metadata
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
        identity.assert_may(permission)
        return identity

    def rule_of(self, path: str) -> Rule:
        """What a server asks of those who call this method, before it reads what they send."""
        permission = needed(path)
        if permission is not None:
            return Rule(partial(self._admit, permission))
        return Rule(self._recognise if path in TELLING else None, MAX_OPEN)

    def _admit(self, permission: str, call: Asking) -> Identity:
        """Raises: Failure."""
        try:
            return self.require(call, permission)
        except Refused as refused:
            raise self._failure(refused) from None

    def _recognise(self, call: Asking) -> Identity | None:
        """Who calls, where a stranger may: None. Raises: Failure where he may not, by `access.metadata`."""
        try:
            return self.identify(call)
        except Unauthenticated as refused:
            if self._metadata == "open":
                return None
            raise self._failure(refused) from None

    def _failure(self, refused: Refused) -> Failure:
        self.refused[type(refused).__name__] += 1
        return Failure(grpc.StatusCode[refused.code], str(refused))

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


class Admitted(Protocol):
    """A call whose rule has asked who it is from: `headrace.rpc.call.Call` is one."""

    caller: Any


def assert_may(call: Admitted, permission: str) -> None:
    """For a handler whose method is open to others too. Raises: Unauthenticated, NotPermitted."""
    if call.caller is None:
        raise Unauthenticated(STRANGER)
    call.caller.assert_may(permission)


def name_of(call: Admitted) -> str:
    """The caller's, as the settings give it; empty = nobody's who is known."""
    return "" if call.caller is None else str(call.caller.name)


def sees(call: Admitted, model: str) -> bool:
    """Whether whoever calls may be told of a model: strangers, where they may ask at all, and readers of every one."""
    caller: Identity | None = call.caller
    return caller is None or "read" in caller.permissions or caller.may_ask(model)


def assert_sees(call: Admitted, model: str) -> None:
    """Raises: NotPermitted, as for an inference."""
    if not sees(call, model):
        call.caller.assert_may_ask(model)


def starred(pattern: str) -> re.Pattern[str]:
    """`*` stands for any characters, nothing else is special."""
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


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
    models = tuple(starred(pattern) for pattern in caller.infer_models)
    return Identity(caller.name, _all_of(caller.may), frozenset(caller.models), models)


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
