"""Gateways and replicas between two decisions: rows that arrive are refused, wait, ride and are answered, or are late.

Batches as a flow, for many runs at once: replicas take what waits in batches as large as they must be to keep up, one
row at least and `max_rows` at most (work-conserving, as core/policy.py). Refused is whoever the forecast says would be
late; told late is who can no longer make it. `exact.py` plays the same rules one request at a time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from scale_sim.world import STEP_S, World

Array = NDArray[np.float64]


class Lanes:
    """One lane a run. Counts are rows since the beginning; arrived = answered + refused + late + waiting, always."""

    def __init__(self, shape: tuple[int, ...], world: World) -> None:
        cost = world.cost
        self._world = world
        self._patience = math.ceil(world.deadline_s / STEP_S) + 2
        self._let_in = np.zeros((self._patience, *shape))
        """Rows let in by the end of each of the last steps: how many have waited how long."""
        self._surely = math.floor((world.deadline_s - cost.full_s) / STEP_S + 0.5)
        """Steps that anybody can wait, however large its batch is."""
        self._at = 0
        self._runs = np.indices(shape)
        self._room_rows = (world.deadline_s - cost.full_s + STEP_S) / cost.full_row_s
        """So many rows a replica may wait, or go within the step, and still be answered in time."""
        self.arrived = np.zeros(shape)
        self.answered = np.zeros(shape)
        self.refused = np.zeros(shape)
        self.late = np.zeros(shape)
        self.waiting = np.zeros(shape)
        self.riding = np.zeros(shape)
        """On board of a batch, at the moment."""
        self.busy_s = np.zeros(shape)
        """Replica-seconds spent in batches."""
        self.batch_rows = np.ones(shape)
        """How large batches are, at the moment."""

    def step(self, arriving: Array, replicas: Array) -> None:
        """`STEP_S` goes by: `arriving` rows come, `replicas` serve."""
        self._admit(arriving, replicas)
        time_s = replicas * STEP_S
        run_s = self._close(time_s)
        self._give_up(run_s)
        served = np.minimum(self.waiting, time_s * self.batch_rows / run_s)
        self.waiting -= served
        self.answered += served
        self.busy_s += served * run_s / self.batch_rows
        self.riding = served * run_s / STEP_S

    def _admit(self, arriving: Array, replicas: Array) -> None:
        admitted = np.minimum(arriving, np.maximum(0.0, replicas * self._room_rows - self.waiting))
        self.arrived += arriving
        self.refused += arriving - admitted
        self.waiting += admitted
        before = self._let_in[self._at]
        self._at = (self._at + 1) % self._patience
        self._let_in[self._at] = before + admitted

    def _close(self, time_s: Array) -> Array:
        """What a batch takes now; batches are as large as what waits asks of the replicas' time."""
        cost = self._world.cost
        spare_s = time_s - cost.row_s * self.waiting
        rows = cost.batch_s * self.waiting / np.maximum(spare_s, 1e-12)
        self.batch_rows = np.minimum(np.maximum(rows, 1.0), cost.max_rows)
        return cost.batch_s + cost.row_s * self.batch_rows

    def _give_up(self, run_s: Array) -> None:
        """Whoever cannot be back in time is told now."""
        newest = self._let_in[self._at]
        if (self.waiting <= newest - self._let_in[self._at - self._surely]).all():
            return  # they came so lately that even a full batch brings them back
        patient = ((self._world.deadline_s - run_s) / STEP_S + 0.5).astype(np.int64)
        older = self._let_in[((self._at - patient - 1) % self._patience, *self._runs)]
        gone = newest - self.waiting
        late = np.minimum(np.maximum(older - gone, 0.0), self.waiting)
        self.waiting -= late
        self.late += late

    def slack_s(self) -> Array:
        """The least time that a row which waits has beyond its run; infinite where none waits."""
        gone = self._let_in[self._at] - self.waiting
        age = (self._let_in > gone + 1e-9).sum(axis=0) * STEP_S
        run_s = self._world.cost.batch_s + self._world.cost.row_s * self.batch_rows
        return np.where(self.waiting > 1e-9, self._world.deadline_s - age - run_s, np.inf)

    def backlog_s(self) -> Array:
        """Replica-seconds of work that wait."""
        return self.waiting * self._world.cost.full_row_s

    def settle(self) -> None:
        """The end: what still waits is answered or not as if nothing came any more; here, it is called answered."""
        self.answered += self.waiting
        self.waiting = np.zeros_like(self.waiting)
