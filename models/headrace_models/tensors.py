"""Arrays ⇄ tensors, by the datatype that a spec declares. Needs torch; `values` does not."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


def to_tensor(values: npt.NDArray[Any], datatype: str) -> Tensor:
    """The array's own memory as a module takes it."""
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if datatype == "BF16" else tensor


def to_array(tensor: Tensor, datatype: str) -> npt.NDArray[Any]:
    """What a module gave, on the host. Of another datatype than it should be: as it is, for whoever checks that."""
    found = tensor.cpu()
    if datatype == "BF16" and found.dtype is torch.bfloat16:
        found = found.view(torch.uint16)
    array: npt.NDArray[Any] = found.numpy()
    return array
