"""model.py of `triton-stock`: W2 as callers send it to be batched at all, padded to the cap, the lengths beside it."""

from __future__ import annotations

# First: it finds our environment for whatever comes after. The interpreter's own numpy may be 2, which garbles tensors.
import triton_python_backend_utils as backend  # isort: skip
import numpy as np
from encoder import Encoder


class TritonPythonModel:
    def initialize(self, _: dict) -> None:
        self.encoder = Encoder()

    def execute(self, requests: list) -> list:
        events, lengths = (
            [backend.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in ("events", "length")
        )
        scores = self.encoder.padded(np.concatenate(events), np.concatenate(lengths)[:, 0])
        answers, place = [], 0
        for rows in events:
            mine = scores[place : place + len(rows)]
            answers.append(backend.InferenceResponse([backend.Tensor("score", mine)]))
            place += len(rows)
        return answers
