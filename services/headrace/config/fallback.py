"""What a model is answered by when the version in charge cannot answer in time. Off where nothing says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from headrace.config.section import Section

Reason = Literal["deadline", "overload", "replica_loss"]
Number = Annotated[float, Field(allow_inf_nan=False)]

RESERVE_ASKING_MS: Final = 20.0
RESERVE_PRIOR_MS: Final = 5.0


class FallbackSettings(Section):
    """Who answers instead: another version or another model, and a fixed prior where there is neither or it fails too.

    Such an answer has status OK and says what it is. A request that names its version never gets one.
    """

    version: str = Field("", pattern=r"^(previous|[1-9][0-9]{0,17})?$")
    """Of the same model: a number, or `previous`, the highest ready one below the one that failed. Empty = none."""
    model: str = ""
    """Another model, by the version in charge of it: a small one on a CPU. It must have the outputs that were asked
    for, by name, type and shape, and need no input that the request does not have. Empty = none."""
    prior: Mapping[str, Number | tuple[Number, ...]] = Field(default_factory=dict)
    """Output → its value in every row: each output of the model, as one number or as many as a row of it has. The last
    resort where `version` or `model` is set as well. Empty = none."""
    reasons: tuple[Reason, ...] = ("deadline", "overload", "replica_loss")
    """Why it may answer: no answer would come, or came, in time; the queue is full; there is no replica, or it was
    lost. A model that fails, or answers what is no number, is never covered up."""
    reserve_ms: float | None = Field(None, gt=0)
    """How long before its caller's deadline the version in charge is given up, half of the time at most. None = 20
    where somebody else is asked, 5 where there is a prior alone. Raise it where fallback answers come too late."""
    max_in_flight_rows: int = Field(64, ge=1)
    """Rows that one gateway may have with the other version or model at a time, for each version that fails: an
    overload is not handed on. Beyond it the prior answers, or the caller gets the first error."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.version and self.model:
            raise ValueError("fallback names a version and a model: say one of them")
        if not (self.version or self.model or self.prior):
            raise ValueError("fallback needs a version, a model or a prior")
        if not self.reasons:
            raise ValueError("fallback.reasons is empty: leave the fallback out instead")
        return self

    @property
    def reserve_s(self) -> float:
        """What is kept of a deadline, seconds."""
        default = RESERVE_ASKING_MS if self.version or self.model else RESERVE_PRIOR_MS
        return (self.reserve_ms or default) / 1000
