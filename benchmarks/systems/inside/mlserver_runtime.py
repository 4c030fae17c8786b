"""A custom runtime of MLServer, whose adaptive batching joins requests along the first axis before it sees them."""

from __future__ import annotations

import numpy as np
from encoder import Encoder
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        self.encoder = Encoder()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        columns = {given.name: NumpyCodec.decode_input(given) for given in payload.inputs}
        events = columns["events"]
        if "length" in columns:  # callers padded: take the padding off again, so that the module can bucket
            rows = [row[:length] for row, length in zip(events, columns["length"][:, 0], strict=True)]
        else:
            rows = list(events)
        score = np.ascontiguousarray(self.encoder(rows))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("score", score)])
