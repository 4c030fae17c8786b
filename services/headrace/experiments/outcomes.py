"""What matured outcomes say of both sides."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headrace.v1 import experiments_pb2 as pb

Floats = npt.NDArray[np.float64]


def labelled(
    incumbent: Floats,
    challenger: Floats,
    fraud: npt.NDArray[np.bool_],
    entity: npt.NDArray[np.uint64],
    p_incumbent: Floats | None = None,
    p_challenger: Floats | None = None,
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> pb.LabelledFigures:
    """Quality of both sides, and the challenger's gain. Arrays have an entry a pair; entity 0: none."""
    raise NotImplementedError
