"""What the values of an array are, where its dtype does not say: bfloat16, which numpy has not, and strings.

Outside of a module BF16 is its two bytes, as unsigned integers: in golden rows, in columns, on the wire. numpy only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_models import strings
from headrace_models.schema import TensorSpec


def numbers(values: npt.NDArray[Any], datatype: str) -> npt.NDArray[Any]:
    """The numbers that they are: of BF16 the FP32 that it is the upper half of."""
    return (values.astype("<u4") << 16).view("<f4") if datatype == "BF16" else values


def too_long(tensor: TensorSpec, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which strings say that they are longer than the spec allows: as long as anybody may read, they are not."""
    return strings.lengths_of(values) > tensor.max_bytes
