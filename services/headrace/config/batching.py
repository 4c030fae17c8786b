"""How the requests of one model wait, and what rides together. Read by a lane of the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from headrace.config.section import Section


class QueuePolicy(Section):
    """How the requests of one priority level wait. Names and meaning are those of Triton's `ModelQueuePolicy`."""

    max_queue_size: int = Field(0, ge=0)
    """Rows of this level that may wait. 0 = as many as the model's queue holds."""
    default_timeout_us: int = Field(10_000_000, ge=0)
    """Microseconds a request may wait for its batch; what it waits for its answer is up to its deadline. 0 = no end."""
    allow_timeout_override: bool = True
    """A request's `timeout` parameter counts where it is shorter than the default; it can't lengthen it."""
    timeout_action: Literal["reject", "delay"] = "reject"
    """When that time is over: refuse, or serve it after all of its level that have time left."""


class BatchingSettings(Section):
    """How one model is batched; budgets can only be tighter than the model's own limits."""

    max_rows: int | None = Field(None, ge=1)
    """Rows in a batch, and so in a request. None = the model's limit. Lower it when a full batch takes too long for the
    deadline."""
    max_tokens: int | None = Field(None, ge=1)
    """Events in a batch. None = the model's limit."""
    max_queue_delay_us: int = Field(0, ge=0)
    """Wait for company, microseconds. 0: whatever waits goes as soon as a replica has room. Triton's meaning."""
    preferred_batch_size: tuple[int, ...] = ()
    """Rows that end the wait for company: the largest that the queue can fill goes at once. Triton's meaning."""
    preserve_ordering: bool = False
    """Answers leave in the order in which their requests came. Refusals don't wait for anybody."""
    max_queue_rows: int = Field(2048, ge=1)
    """Rows that may wait. Full = refused at once. Raise it for longer deadlines, lower it for faster refusals."""
    default_timeout_ms: float = Field(10_000, gt=0)
    """Deadline of a caller that gave none: nothing waits for ever."""
    priority_levels: int = Field(1, ge=1, le=16)
    """Levels of the `priority` parameter: level 1 goes before level 2; inside a level, first come first served."""
    default_priority_level: int = Field(1, ge=1)
    """The level of requests that name none, or one that is not there."""
    lowest_level_share: float = Field(0.05, ge=0, lt=1)
    """Share of the rows that the lowest level gets whatever waits above it: it is slow under load, never starved."""
    max_sequences: int = Field(8192, ge=1)
    """Sequences of each version whose state one gateway keeps, where the model carries one. A sequence that begins when
    there are as many waits until one has ended, up to its timeout."""
    max_sequence_idle_us: int = Field(1_000_000, ge=1)
    """A sequence for which nobody has asked anything for so many microseconds is forgotten. Triton's meaning."""
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policy: Mapping[int, QueuePolicy] = Field(default_factory=dict)
    """Level → its policy, where it is not the default one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        levels = range(1, self.priority_levels + 1)
        if self.default_priority_level not in levels:
            raise ValueError(f"default_priority_level must lie in 1..{self.priority_levels}")
        if unknown := [level for level in self.priority_queue_policy if level not in levels]:
            raise ValueError(f"priority_queue_policy names level {unknown[0]}, there are {self.priority_levels}")
        if any(size < 1 for size in self.preferred_batch_size):
            raise ValueError("preferred_batch_size must be positive")
        if self.preserve_ordering and self.priority_levels > 1:
            raise ValueError("preserve_ordering needs one priority level: a second one is there to overtake")
        if self.preserve_ordering and any(self.queue_policy(level).timeout_action == "delay" for level in levels):
            raise ValueError("preserve_ordering can't go with timeout_action: delay")
        return self

    def queue_policy(self, level: int) -> QueuePolicy:
        """The policy of a level, counted from 1."""
        return self.priority_queue_policy.get(level, self.default_queue_policy)
