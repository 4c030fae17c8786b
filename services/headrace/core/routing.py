"""Which version of a model answers, and which others are asked as well.

Pure; the gateway asks, control's policy decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from headrace.errors import InvalidInference

HASHES: Final = 2.0**64
MAX_DIGITS: Final = 18
"""What fits into 64 bits; Python itself refuses to read a number of thousands of digits."""
MAX_SHOWN: Final = 64
VERSION: Final = re.compile("[1-9][0-9]{0,17}")
"""As replicas register it: an integer that has one spelling, and fits into 64 bits."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that answers a share of the entities."""

    version: str
    share: float
    """Of the entities, 0 to 1."""
    salt: str = ""

    def takes(self, entity: str) -> bool:
        """Whether this entity is among them. One that is stays so while the share grows; nobody without a key is."""
        return bool(entity) and entity_hash(entity, self.salt) < self.share * HASHES


@dataclass(frozen=True, slots=True)
class Shadow:
    """A comparison: what one of two versions has answered, the other one is asked as well."""

    experiment_id: str
    incumbent: str
    challenger: str
    """The incumbent's own version: the noise floor."""
    share: float
    """Of the requests, 0 to 1; where a comparison has a noise floor, that one's is of the pairs."""
    timeout_s: float = 1.0
    """What a copy may take, from the moment it is taken."""
    max_rows: int = 256
    """Rows of copies that one gateway holds."""
    output: str = "score"
    """Of the model, one number a row: what is compared."""

    @property
    def noise(self) -> bool:
        return self.incumbent == self.challenger

    def other(self, version: str) -> str | None:
        """Whom to ask about what `version` has answered; None = nobody."""
        if version == self.incumbent:
            return self.challenger
        return self.incumbent if version == self.challenger else None


@dataclass(frozen=True, slots=True)
class Policy:
    """Who answers for one public model name. Replaced as a whole: a request sees one policy or the next, no mixture."""

    primary: str = ""
    """The version that answers. Empty = the highest that is ready."""
    canary: Canary | None = None
    shadows: tuple[Shadow, ...] = ()
    revision: int = 0


def entity_hash(entity: str, salt: str = "") -> int:
    """64 bits that are the same in every gateway, for ever. Source: RFC 7693, the salt's hash as its key."""
    return int.from_bytes(blake2b(entity.encode(), digest_size=8, key=_key(salt)).digest())


@lru_cache(maxsize=256)
def _key(salt: str) -> bytes:
    return blake2b(salt.encode(), digest_size=32).digest()


def primary(wanted: str, ready: Iterable[str]) -> str | None:
    """The version that answers: the one the policy names, else the highest that is ready; None = there is none.

    A policy that names a version which is not ready gets it all the same: answering with another model than
    the one in charge would be a silent change of decisions.
    """
    if wanted:
        return wanted
    return max(ready, key=int, default=None)


def is_version(text: str) -> bool:
    """Whether a replica may serve under this version: versions are ordered as the integers they are."""
    return VERSION.fullmatch(text) is not None


def parse_version(text: str) -> str:
    """The canonical form of a version in a request: "" = whichever the policy names, else an integer > 0.

    Raises: InvalidInference with Triton's sentence.
    """
    if not text:
        return ""
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise InvalidInference(
            f"failed to get model version from specified version string '{text[:MAX_SHOWN]}', "
            "version should be an integer value > 0"
        )
    return str(int(text))
