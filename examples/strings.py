"""BYTES tensors: numbers as words in, their sums and differences as words out. The model is `simple_string`."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton

Words = npt.NDArray[np.object_]


def infer_strings(
    address: str, left: list[list[str]], right: list[list[str]]
) -> tuple[list[list[str]], list[list[str]]]:
    """The sums and the differences. Shapes: both [rows, 16]; a BYTES tensor is an array of objects to numpy."""
    inputs = []
    for name, words in (("INPUT0", left), ("INPUT1", right)):
        values = np.array([[word.encode() for word in row] for row in words], np.object_)
        inputs.append(triton.InferInput(name, list(values.shape), "BYTES"))
        inputs[-1].set_data_from_numpy(values)
    with triton.InferenceServerClient(address) as client:
        result = client.infer("simple_string", inputs, client_timeout=5)
    return _words(result.as_numpy("OUTPUT0")), _words(result.as_numpy("OUTPUT1"))


def _words(values: Words) -> list[list[str]]:
    return [[word.decode() for word in row] for row in values]


if __name__ == "__main__":
    print(*infer_strings(sys.argv[1], [["7"] * 16], [["1"] * 16]), sep="\n")
