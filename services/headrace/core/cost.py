"""What a batch will cost a replica: seconds ≈ a + b·tokens, learnt from the batches that came back.

One per lane. Read by the policy (who still makes it), by dispatch (least work, when a call is overdue).
"""

from __future__ import annotations

DECAY = 0.98
"""Weight that the past keeps at each new batch: about the last 50 batches count."""
OUTLIER = 3.0
"""A batch that took longer than this times its prediction counts as that much: a pause is not a trend."""
TRUSTED_AFTER = 10
"""Batches before predictions clip what is observed."""


class CostModel:
    """Least squares over a fading window, with both coefficients held at zero or above."""

    def __init__(self, initial_s: float = 0.005) -> None:
        self._initial_s = initial_s
        self.observed = 0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._a = initial_s
        self._b = 0.0

    def predict_s(self, tokens: float) -> float:
        """Seconds a batch of `tokens` events will keep a replica busy."""
        return self._a + self._b * tokens

    def drain_s(self, batches: float, tokens: float) -> float:
        """Seconds that so many batches of so many events in all will keep a replica busy."""
        return self._a * batches + self._b * tokens

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from one answered batch: its tokens, and the seconds from sending to its answer."""
        if seconds <= 0:  # a clock has jumped: that says nothing about the replica
            return
        if self.observed >= TRUSTED_AFTER:
            seconds = min(seconds, OUTLIER * self.predict_s(tokens))
        self.observed += 1
        self._weight = self._weight * DECAY + 1
        self._x = self._x * DECAY + tokens
        self._y = self._y * DECAY + seconds
        self._xx = self._xx * DECAY + tokens * tokens
        self._xy = self._xy * DECAY + tokens * seconds
        self._fit()

    def _fit(self) -> None:
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean_x * mean_x
        covariance = self._xy / self._weight - mean_x * mean_y
        spread = variance > 1e-6 * mean_x * mean_x  # batches of one size say nothing about the slope
        self._b = max(0.0, covariance / variance) if spread else 0.0
        self._a = mean_y - self._b * mean_x
        if self._a < 0:  # a line through the origin is the best fit that predicts no negative time
            self._a, self._b = 0.0, self._xy / self._xx
