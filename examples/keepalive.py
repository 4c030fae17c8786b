"""A connection that finds out by itself that its server is gone: pings while calls are open."""

from __future__ import annotations

import sys

import numpy as np
import tritonclient.grpc as triton
from infer import Integers, tensors

KEEPALIVE = triton.KeepAliveOptions(
    keepalive_time_ms=10_000,  # a silent connection is asked after so long
    keepalive_timeout_ms=5_000,  # and given up after as long again without an answer
    keepalive_permit_without_calls=False,
    http2_max_pings_without_data=2,
)


def infer_with_keepalive(address: str, left: Integers, right: Integers) -> Integers:
    """The sum, over a connection that is watched."""
    with triton.InferenceServerClient(address, keepalive_options=KEEPALIVE) as client:
        sums: Integers = client.infer("sum-difference", tensors(left, right), client_timeout=5).as_numpy("OUTPUT0")
    return sums


if __name__ == "__main__":
    ones = np.ones((1, 16), np.int32)
    print(infer_with_keepalive(sys.argv[1], ones * 7, ones))
