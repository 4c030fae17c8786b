"""The world that every policy lives in: what a batch costs, how patient callers are, how long a replica takes to come.

Seconds everywhere. Costs are this repository's own on a processor core (docs/benchmarks.md); `GPU` is an assumption.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Cost:
    """A batch of n rows keeps a replica busy for `batch_s + row_s * n`."""

    batch_s: float
    row_s: float
    max_rows: int

    def batch(self, rows: float) -> float:
        return self.batch_s + self.row_s * rows

    @property
    def full_s(self) -> float:
        """What a full batch takes."""
        return self.batch(self.max_rows)

    @property
    def full_row_s(self) -> float:
        """Replica-seconds of a row at full batches: the unit of work."""
        return self.full_s / self.max_rows


CPU: Final = Cost(batch_s=0.00080, row_s=0.00028, max_rows=64)
"""fraud-tx on one core. A full batch of 64 takes 18.7 ms: 3,420 rows/s ("What padding costs"). What a batch costs
beside its rows is W1's ("The budget": 0.90 ms for one row, 3.98 for 33, unpacked, run and packed): 0.80 ms."""

GPU: Final = Cost(batch_s=0.0020, row_s=0.000025, max_rows=256)
"""An assumption, not a measurement: 8.4 ms for 256 rows, 30,500 rows/s."""


@dataclass(frozen=True, slots=True)
class World:
    cost: Cost = CPU
    deadline_s: float = 0.05
    start_s: float = 4.0
    """From the decision to the first batch, on a pod that is there: an actor of Serve (1 s) and the model's loading."""
    node_s: float = 180.0
    """Until a pod of a new node is there."""
    warm_pods: int = 1_000
    """Pods that are there whoever needs them."""
    idle_s: float = 300.0
    """A pod beyond those goes when it has been empty for so long: `idleTimeoutSeconds` of Ray's autoscaler."""
    notice_s: float = 3.0
    """Until lost replicas are ordered anew: three health checks."""
    min_replicas: int = 2
    max_replicas: int = 400

    def busy(self, rate: float) -> float:
        """How many replicas so many rows a second keep busy, at full batches."""
        return rate * self.cost.full_row_s


STEP_S: Final = 0.005
"""Of the lanes: a tenth of a deadline."""
TICK_S: Final = 0.5
"""Of everything slower: metrics, decisions, starts. Serve's controller decides every 0.1 s; half a second costs each
of its policies at most 0.4 s."""
