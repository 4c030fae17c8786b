"""model.py of Triton's Python backend: a list of requests in, a list of answers out.

W1, and W2 of `triton-expert`: with `allow_ragged_batch` the batcher puts requests of any length together, and the
backend hands each request's own tensor over. Their shapes are the lengths: `batch_input` would only repeat them.
"""

from __future__ import annotations

import triton_python_backend_utils as backend
from encoder import Encoder


class TritonPythonModel:
    def initialize(self, _: dict) -> None:
        self.encoder = Encoder()

    def execute(self, requests: list) -> list:
        inputs = [backend.get_input_tensor_by_name(request, "events").as_numpy() for request in requests]
        scores = self.encoder([row for rows in inputs for row in rows])
        answers, place = [], 0
        for rows in inputs:
            mine = scores[place : place + len(rows)]
            answers.append(backend.InferenceResponse([backend.Tensor("score", mine)]))
            place += len(rows)
        return answers
