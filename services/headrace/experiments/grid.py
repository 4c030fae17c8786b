"""One fixed grid for values of any scale, and counts on it that merge by addition.

Cells of about one per cent, evenly apart in `asinh(x / 1e-6)`: alike on both sides of zero, linear around it,
logarithmic further out. Integers from 0 to 99 fall into cells of their own, and so do probabilities that differ by one
per cent. It knows neither pairs nor figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import asinh
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SCALE: Final = 1e-6
"""What is smaller is as good as zero."""
TO_ONE: Final = 1451
"""Cells from 0 to 1, a whole number: one is the middle of a cell."""
STEP: Final = asinh(1 / SCALE) / TO_ONE
REACH: Final = 3000
"""Cells to either side of zero's own: up to five million; what is further out counts in the last."""
CELLS: Final = 2 * REACH + 1
MIDDLES: Final[Floats] = SCALE * np.sinh(STEP * np.arange(-REACH, REACH + 1))
"""The value that each cell stands for."""


def cells(values: Floats) -> Ints:
    """The cell of each finite value."""
    at = np.rint(np.arcsinh(values / SCALE) / STEP)
    found: Ints = (np.clip(at, -REACH, REACH) + REACH).astype(np.int64)
    return found


def quantile(counts: Ints, rank: float) -> float:
    """The value that a share of `rank` of what was counted does not exceed. **Raises** ValueError of nothing."""
    seen = np.cumsum(counts)
    if not seen[-1]:
        raise ValueError("nothing was counted")
    return float(MIDDLES[np.searchsorted(seen, max(1.0, rank * seen[-1]))])


def pack(counts: Ints) -> list[int]:
    """Counts of which most are zero, as JSON likes them: distance to the one before and count, in turn."""
    filled = np.flatnonzero(counts != 0)  # five times as fast as of numbers
    packed: list[int] = np.column_stack((np.diff(filled, prepend=0), counts.ravel()[filled])).ravel().tolist()
    return packed


def unpack(packed: Iterable[Any], size: int) -> Ints:
    """What was packed. **Raises** ValueError: it was not."""
    pairs = np.array(list(packed), np.int64).reshape(-1, 2)
    at = np.cumsum(pairs[:, 0])
    if len(at) and not 0 <= at.min() <= at.max() < size:
        raise ValueError("a count lies outside of its grid")
    counts = np.zeros(size, np.int64)
    counts[at] = pairs[:, 1]
    return counts
