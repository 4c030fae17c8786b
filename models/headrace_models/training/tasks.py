"""What there is to learn: which columns a row becomes, its target, and the logit that is compared with it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from headrace_models import wire
from headrace_models.attempts import AttemptTimeline
from headrace_models.events import Events
from headrace_models.history import Columns, Timeline
from headrace_models.training.split import Index, Keep, Split, answered, labelled, split_by_time

Tensors = tuple[dict[str, Tensor], dict[str, Tensor]]
SCORED_AT_ONCE = 512


class Task(Protocol):
    """Rows of some events as a network meets them."""

    events: Events

    def split(self, keep: Keep, seed: int) -> Split: ...

    def packed(self, rows: Index) -> tuple[Columns, dict[str, Index]]:
        """The wire columns of these rows, packed, and the lengths of the axes."""
        ...

    def target(self, rows: Index) -> npt.NDArray[np.float32]:
        """0 or 1 of each row."""
        ...

    def logit(self, module: nn.Module, tensors: Tensors, rows: Index) -> Tensor:
        """[rows]: the module's logit for what was observed."""
        ...


class FraudTask:
    """Whether a payment is fraud."""

    def __init__(self, events: Events, *, stale_us: int = 0) -> None:
        self.events = events
        self._timeline = Timeline(events, stale_us=stale_us)

    def split(self, keep: Keep, seed: int) -> Split:
        return split_by_time(self.events, *labelled(self.events), keep, seed)

    def packed(self, rows: Index) -> tuple[Columns, dict[str, Index]]:
        return self._timeline.packed(rows)

    def lengths(self, rows: Index) -> Index:
        """Events of each row's card, the payment in hand included; cut as the model sees them."""
        return self._timeline.lengths(rows)

    def target(self, rows: Index) -> npt.NDArray[np.float32]:
        target: npt.NDArray[np.float32] = (self.events.label[rows] == wire.LABEL_FRAUD).astype(np.float32)
        return target

    def logit(self, module: nn.Module, tensors: Tensors, rows: Index) -> Tensor:  # noqa: ARG002  one logit a row
        found: Tensor = module.logits(*tensors)  # type: ignore[operator]
        return found


class AcceptanceTask:
    """Whether an attempt will be approved. Learnt from the action that was taken; the others are counterfactual."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self._timeline = AttemptTimeline(events)

    def split(self, keep: Keep, seed: int) -> Split:
        return split_by_time(self.events, *answered(self.events, seed), keep, seed)

    def packed(self, rows: Index) -> tuple[Columns, dict[str, Index]]:
        return self._timeline.packed(rows)

    def target(self, rows: Index) -> npt.NDArray[np.float32]:
        target: npt.NDArray[np.float32] = (self.events.outcome[rows] == wire.APPROVED).astype(np.float32)
        return target

    def logit(self, module: nn.Module, tensors: Tensors, rows: Index) -> Tensor:
        taken = torch.from_numpy(self.events.action[rows].astype(np.int64))[:, None]
        found: Tensor = module.logits(*tensors).gather(1, taken)[:, 0]  # type: ignore[operator]
        return found


def tensors(task: Task, rows: Index) -> Tensors:
    """The rows as a module takes them."""
    inputs, lengths = task.packed(rows)
    return (
        {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in inputs.items()},
        {name: torch.from_numpy(values) for name, values in lengths.items()},
    )


def logits(module: nn.Module, task: Task, rows: Index) -> npt.NDArray[np.float64]:
    """The network's answer for many rows, in evaluation mode."""
    module.eval()
    parts = np.array_split(rows, len(rows) // SCORED_AT_ONCE + 1)
    with torch.inference_mode():
        found = [task.logit(module, tensors(task, part), part).numpy() for part in parts if len(part)]
    return np.concatenate(found).astype(np.float64)
