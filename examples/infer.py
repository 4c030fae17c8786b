"""One request, one answer: the sum and the difference of two rows of sixteen integers."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton

Integers = npt.NDArray[np.int32]


def tensors(left: Integers, right: Integers) -> list[triton.InferInput]:
    """What goes in. Shapes: both int32 [rows, 16]."""
    found = []
    for name, values in (("INPUT0", left), ("INPUT1", right)):
        found.append(triton.InferInput(name, list(values.shape), "INT32"))
        found[-1].set_data_from_numpy(values)
    return found


def infer(address: str, left: Integers, right: Integers) -> tuple[Integers, Integers]:
    """The sum and the difference, in that order; `outputs` may name fewer than there are."""
    wanted = [triton.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
    with triton.InferenceServerClient(address) as client:
        result = client.infer("sum-difference", tensors(left, right), outputs=wanted, request_id="1", client_timeout=5)
    assert result.get_response().id == "1"
    return result.as_numpy("OUTPUT0"), result.as_numpy("OUTPUT1")


def infer_wrongly(address: str) -> str:
    """What the server says of a request that is none: a status, and a sentence that names what is wrong."""
    short = np.zeros((1, 15), np.int32)
    with triton.InferenceServerClient(address) as client:
        try:
            client.infer("sum-difference", tensors(short, short))
        except triton.InferenceServerException as error:
            return f"{error.status()}: {error.message()}"
    raise AssertionError("fifteen are not sixteen")


if __name__ == "__main__":
    ones = np.ones((1, 16), np.int32)
    print(*infer(sys.argv[1], ones * 7, ones), infer_wrongly(sys.argv[1]), sep="\n")
