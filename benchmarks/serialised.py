"""Requests serialised once, and the answers they must get: one file, which a generator reads without any model.

FILE.npz: `blob` (all requests, one after the other), `ends` (where each ends), and `expected.<output>` [count, …] with
`tolerance.<output>`, how far an answer may be away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

FP32_BATCHED = 1e-4
"""How far an answer moves, at most, when its row is computed with others; a spec's own tolerance where it is larger."""


@dataclass(frozen=True, slots=True)
class Questions:
    requests: Sequence[bytes]
    expected: Mapping[str, np.ndarray]
    tolerance: Mapping[str, float]

    def is_right(self, place: int, answer: bytes) -> bool:
        """Whether a serialised ModelInferResponse has every output, each as near to the expected one as it must be."""
        response = service_pb2.ModelInferResponse.FromString(answer)
        if len(response.outputs) != len(self.expected) or len(response.raw_output_contents) != len(self.expected):
            return False
        pairs = zip(response.outputs, response.raw_output_contents, strict=True)
        return all(self._is_near(place, output.name, raw) for output, raw in pairs)

    def _is_near(self, place: int, name: str, raw: bytes) -> bool:
        if name not in self.expected:
            return False
        wanted = self.expected[name][place]
        if len(raw) != wanted.nbytes:
            return False
        found = np.frombuffer(raw, wanted.dtype)
        # Written so that NaN is never near.
        return bool((np.abs(found - wanted.ravel()) <= self.tolerance[name]).all())


def save(path: Path, questions: Questions) -> None:
    blob = np.frombuffer(b"".join(questions.requests), np.uint8)
    ends = np.cumsum([len(request) for request in questions.requests])
    arrays: dict[str, Any] = {"blob": blob, "ends": ends}
    arrays |= {f"expected.{name}": values for name, values in questions.expected.items()}
    arrays |= {f"tolerance.{name}": np.array(value) for name, value in questions.tolerance.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def load(path: Path) -> Questions:
    with np.load(path) as file:
        arrays = dict(file)
    blob, ends = arrays["blob"].tobytes(), arrays["ends"].tolist()
    return Questions(
        [blob[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)],
        {name.removeprefix("expected."): values for name, values in arrays.items() if name.startswith("expected.")},
        {name.removeprefix("tolerance."): float(x) for name, x in arrays.items() if name.startswith("tolerance.")},
    )
