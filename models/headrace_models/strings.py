"""Strings in a tensor: a BYTES column as bytes, and back. For whoever writes a module that takes or gives strings.

Inside headrace every string of a tensor is as wide as the longest that its spec allows (`max_bytes`): 4 bytes for its
length, little-endian, its own bytes, and zeros. A module sees uint8 `[rows, *dims, 4 + max_bytes]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

LENGTH_BYTES: Final = 4
MAX_STRING: Final = 65_536
"""What a spec may declare as its longest: each string takes that much memory, however short it is."""

Column = npt.NDArray[np.uint8]


def encode(texts: Iterable[bytes], max_bytes: int, dims: Sequence[int] = ()) -> Column:
    """The column of these strings, row-major. Shapes: `[rows, *dims, 4 + max_bytes]`.

    Raises: ValueError when one is longer than `max_bytes`.
    """
    each = [bytes(text) for text in texts]
    if longest := max((len(text) for text in each if len(text) > max_bytes), default=0):
        raise ValueError(f"a string of {longest} bytes does not fit into {max_bytes}")
    width = LENGTH_BYTES + max_bytes
    raw = b"".join([(len(text).to_bytes(LENGTH_BYTES, "little") + text).ljust(width, b"\0") for text in each])
    return np.frombuffer(bytearray(raw), np.uint8).reshape(-1, *dims, width)


def decode(column: Column | torch.Tensor) -> list[bytes]:
    """The strings of a column, row-major, without what was filled in behind them."""
    values: Any = column if isinstance(column, np.ndarray) else column.cpu().numpy()
    raw, width = values.tobytes(), values.shape[-1]
    lengths = lengths_of(values).ravel().tolist()
    starts = range(LENGTH_BYTES, len(raw) + LENGTH_BYTES, width)
    return [raw[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def lengths_of(column: Column) -> npt.NDArray[np.uint32]:
    """How long each string says it is. Shapes: `[..., 4 + max_bytes]` → `[...]`."""
    return np.ascontiguousarray(column[..., :LENGTH_BYTES]).view("<u4")[..., 0]
