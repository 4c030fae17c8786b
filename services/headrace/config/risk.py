"""Where the bands of a score begin."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from headrace.config.section import Section


class RiskSettings(Section):
    """Where the bands of a score begin on RiskService: a score of so many or more. Below `normal` it is low.

    A score says how rare a payment is among the model's reference traffic: 25 is its top 10 %, 50 its top 1 %, 75 its
    top 0.1 %. Raise them when a band holds more payments than your analysts can look at.
    """

    normal: int = Field(25, ge=0, le=99)
    elevated: int = Field(50, ge=0, le=99)
    highest: int = Field(75, ge=0, le=99)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.normal < self.elevated < self.highest:
            raise ValueError("the cut points must ascend: normal < elevated < highest")
        return self

    @property
    def cuts(self) -> tuple[int, int, int]:
        return self.normal, self.elevated, self.highest
