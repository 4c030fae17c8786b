"""What every section of the settings is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen, and deaf to unknown keys: a typo stops the start."""

    model_config = ConfigDict(frozen=True, extra="forbid")
