"""What became of every request of an open loop, as its generator leaves it behind for whoever measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import outcomes

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trail:
    """One entry a request, in the order of their intended arrivals."""

    start_s: float
    """On `perf_counter`, which all processes of a machine share."""
    intended_s: npt.NDArray[np.float64]
    """From the start."""
    sent_s: npt.NDArray[np.float64]
    ended_s: npt.NDArray[np.float64]
    """Infinite where it did not end."""
    outcome: npt.NDArray[np.int8]
    """Places in `outcomes.CLASSES`."""

    @classmethod
    def of(cls, requests: Sequence[outcomes.Sent], judged: Sequence[tuple[str, str]], start_s: float) -> Self:
        times = np.array([(r.intended_s, r.sent_s, r.ended_s or np.inf) for r in requests]).reshape(-1, 3) - start_s
        kinds = np.array([outcomes.CLASSES.index(kind) for kind, _ in judged], np.int8)
        return cls(start_s, times[:, 0], times[:, 1], times[:, 2], kinds)

    @classmethod
    def read(cls, path: Path) -> Self:
        with np.load(path) as file:
            return cls(float(file["start_s"]), *(file[name] for name in ("intended_s", "sent_s", "ended_s", "outcome")))

    def write(self, path: Path) -> None:
        np.savez(path, **{name: getattr(self, name) for name in self.__slots__})

    @property
    def latency_s(self) -> npt.NDArray[np.float64]:
        """From the intended arrival."""
        return self.ended_s - self.intended_s

    def ended(self, *kinds: str) -> Mask:
        """Those that ended in one of these classes."""
        return np.isin(self.outcome, [outcomes.CLASSES.index(kind) for kind in kinds])
