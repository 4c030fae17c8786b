"""Triton's restricted protocol groups: RPCs of the Open Inference Protocol that demand a secret in their metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from headrace.config.section import Section

Group = Literal[
    "health",
    "metadata",
    "inference",
    "shared-memory",
    "model-config",
    "model-repository",
    "statistics",
    "trace",
    "logging",
]
"""Triton's names. Which RPCs each of them has is in `headrace.gateway.restricted`."""


class Restriction(Section):
    """Calls of these groups need metadata `triton-grpc-protocol-<key>` with the secret."""

    groups: tuple[Group, ...] = Field(min_length=1)
    key: str = Field(pattern=r"^[a-z0-9_.-]{1,64}$")
    """As clients name it: lower case, as names of metadata are."""
    value_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$", repr=False)
    """SHA-256 of the secret, in hexadecimal: the secret itself stands nowhere in the settings."""
    value_file: Path | None = None
    """Or a file that holds the secret, one word; read at the start."""

    @model_validator(mode="after")
    def _secret(self) -> Self:
        if bool(self.value_sha256) == (self.value_file is not None):
            raise ValueError(f"the restriction with key '{self.key}' needs value_sha256 or value_file, one of them")
        if self.key.endswith("-bin"):
            raise ValueError(f"key '{self.key}': what ends in -bin is binary metadata, and a secret is a word")
        return self
