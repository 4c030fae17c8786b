"""Triton's restricted protocol groups: RPCs of the Open Inference Protocol that demand a secret in their metadata.

Asked before anything else of a call, and beside what `access` says. Our own services have no group: what they need is
in `headrace.permissions`. Source: Triton's `--grpc-restricted-protocol`, its codes and sentences.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

import grpc

from headrace.config import Group, Restriction
from headrace.credentials import read_token
from headrace.errors import StartupError
from headrace.permissions import INFERENCE
from headrace.rpc.call import Call
from headrace.rpc.health import SERVICE as HEALTH
from headrace.rpc.messages import Failure
from headrace.rpc.tls import TlsError

PREFIX: Final = "triton-grpc-protocol-"
_SHARED_MEMORY: Final = tuple(
    f"{kind}SharedMemory{what}" for kind in ("System", "Cuda") for what in ("Status", "Register", "Unregister")
)
GROUPS: Final[dict[Group, tuple[tuple[str, tuple[str, ...]], ...]]] = {
    "health": ((INFERENCE, ("ServerLive", "ServerReady", "ModelReady")), (HEALTH, ("Check", "Watch", "List"))),
    "metadata": ((INFERENCE, ("ServerMetadata", "ModelMetadata")),),
    "inference": ((INFERENCE, ("ModelInfer", "ModelStreamInfer")),),
    "shared-memory": ((INFERENCE, _SHARED_MEMORY),),
    "model-config": ((INFERENCE, ("ModelConfig",)),),
    "model-repository": ((INFERENCE, ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")),),
    "statistics": ((INFERENCE, ("ModelStatistics",)),),
    "trace": ((INFERENCE, ("TraceSetting",)),),
    "logging": ((INFERENCE, ("LogSettings",)),),
}
"""Group → services and their methods."""


class Secret:
    """One restriction: the metadata it looks for, and the digest of what must be there."""

    def __init__(self, restriction: Restriction) -> None:
        """Raises: StartupError when its file cannot be used."""
        self._header = PREFIX + restriction.key
        self._sentence = f"This protocol is restricted, expecting header '{self._header}'"
        self._digest = bytes.fromhex(restriction.value_sha256) if restriction.value_sha256 else _of_file(restriction)
        self.refused = 0

    def check(self, call: Call) -> None:
        """Raises: Failure, Triton's, for a call without it."""
        for name, value in call.invocation_metadata():
            # Digests, in a time that says nothing of where they differ, or how long either is.
            if name == self._header and hmac.compare_digest(_digest(value), self._digest):
                return
        self.refused += 1
        raise Failure(grpc.StatusCode.UNAVAILABLE, self._sentence)


class Restrictions:
    """Of one gateway: which paths demand which secret."""

    def __init__(self, restrictions: Iterable[Restriction]) -> None:
        """Raises: StartupError."""
        self._by_path: dict[str, Secret] = {}
        self._secrets: list[Secret] = []
        for restriction in restrictions:
            secret = Secret(restriction)
            self._secrets.append(secret)
            for group in restriction.groups:
                self._by_path |= dict.fromkeys(paths(group), secret)

    def of(self, path: str) -> Secret | None:
        return self._by_path.get(path)

    @property
    def refused(self) -> int:
        """Calls without their secret."""
        return sum(secret.refused for secret in self._secrets)


def paths(group: Group) -> list[str]:
    return [f"/{service}/{method}" for service, methods in GROUPS[group] for method in methods]


def _of_file(restriction: Restriction) -> bytes:
    assert restriction.value_file is not None, "This is a bug."
    try:
        return _digest(read_token(restriction.value_file))
    except TlsError as error:
        raise StartupError(f"gateway.restricted: {error}") from error


def _digest(value: str | bytes) -> bytes:
    return hashlib.sha256(value if isinstance(value, bytes) else value.encode("latin-1", "replace")).digest()
