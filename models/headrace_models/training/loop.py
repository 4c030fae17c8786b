"""The training loop: batches, checkpoints, early stop. A run that is killed goes on where it last wrote, to the bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from headrace_models.figures import Judged, average_precision
from headrace_models.training.split import Index, Keep, Split
from headrace_models.training.tasks import Task, logits, tensors

CHECKPOINT_S: Final = 20.0
PATIENCE: Final = 2
"""Epochs in a row without a better average precision after which training stops."""
WARM_UP: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """How a network learns."""

    epochs: int
    batch_rows: int = 256
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    keep: Keep = field(default_factory=Keep)
    seed: int = 7


@dataclass(slots=True)
class Progressed:
    """Where a run stands."""

    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that are done."""
    best: float = -1.0
    worse: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)
    """Average precision on the validation block after each epoch."""


class Run:
    """One network learning one task."""

    def __init__(self, build: Callable[[], nn.Module], task: Task, split: Split, how: Hyperparameters) -> None:
        torch.manual_seed(how.seed)
        self.module = build()
        self._task = task
        self._split = split
        self._how = how
        self._batches = max(1, len(split.train) // how.batch_rows)
        self._optimiser = torch.optim.AdamW(
            self.module.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, how.learning_rate, max(how.epochs * self._batches, 2), pct_start=WARM_UP
        )
        self.at = Progressed()

    @property
    def over(self) -> bool:
        return self.at.epoch >= self._how.epochs or self.at.worse >= PATIENCE

    def fit(
        self, progress: Progress, checkpoint: Path | None = None, identity: str = "", every_s: float = CHECKPOINT_S
    ) -> nn.Module:
        """Learn, and return the module of the epoch with the best average precision on the validation block.

        `checkpoint` is written every `every_s` seconds and at the end of an epoch; one that is there already is taken
        up again if it is of the same `identity` (data, model, hyperparameters), else ignored.
        """
        if checkpoint is not None and self._restore(checkpoint, identity):
            progress.console.print(
                f"going on from {checkpoint}: epoch {self.at.epoch + 1}, batch {self.at.batch}", soft_wrap=True
            )
        bar = progress.add_task("training", total=self._how.epochs * self._batches)
        written = time.monotonic()
        while not self.over:
            self._step(self._batch())
            self.at.batch += 1
            if self.at.batch == self._batches:
                self._end_epoch(progress)
                written = 0.0
            if checkpoint is not None and time.monotonic() - written > every_s:
                self.save(checkpoint, identity)
                written = time.monotonic()
            progress.update(bar, completed=self.at.epoch * self._batches + self.at.batch)
        self.module.load_state_dict(self.at.best_state)
        return self.module.eval()

    def save(self, path: Path, identity: str) -> None:
        """Write everything a later run needs, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".new")
        torch.save(
            {
                "identity": identity,
                "module": self.module.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "schedule": self._schedule.state_dict(),
                "random": torch.get_rng_state(),
                "at": {name: getattr(self.at, name) for name in Progressed.__slots__},
            },
            aside,
        )
        aside.replace(path)

    def _restore(self, path: Path, identity: str) -> bool:
        if not path.exists():
            return False
        try:
            saved: dict[str, Any] = torch.load(path, weights_only=True)
        except Exception:  # noqa: BLE001  a checkpoint cut short by whatever killed the run is no checkpoint
            return False
        if saved["identity"] != identity:
            return False
        self.module.load_state_dict(saved["module"])
        self._optimiser.load_state_dict(saved["optimiser"])
        self._schedule.load_state_dict(saved["schedule"])
        torch.set_rng_state(saved["random"])  # dropout goes on where it was
        self.at = Progressed(**saved["at"])
        return True

    def _batch(self) -> Index:
        """The rows of the next batch: the order follows from seed and epoch alone."""
        shuffled = np.random.default_rng((self._how.seed, self.at.epoch)).permutation(self._split.train)
        batch: Index = np.array_split(shuffled, self._batches)[self.at.batch]
        return batch

    def _step(self, rows: Index) -> None:
        self.module.train()
        logit = self._task.logit(self.module, tensors(self._task, rows), rows)
        loss = binary_cross_entropy_with_logits(logit, torch.from_numpy(self._task.target(rows)))
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self._optimiser.step()
        self._schedule.step()

    def _end_epoch(self, progress: Progress) -> None:
        block = self._split.validation
        answers = logits(self.module, self._task, block.rows)
        found = average_precision(Judged(answers, self._task.target(block.rows) > 0, block.weight))
        at = self.at
        at.history.append(found)
        at.epoch, at.batch = at.epoch + 1, 0
        progress.console.print(
            f"epoch {at.epoch}: average precision {found:.4f} on the validation block", soft_wrap=True
        )
        if found > at.best:
            at.best, at.worse = found, 0
            at.best_state = {name: value.clone() for name, value in self.module.state_dict().items()}
        else:
            at.worse += 1
