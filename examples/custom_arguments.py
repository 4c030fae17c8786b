"""What a caller may say besides its tensors: channel arguments, headers, deadlines, compression, parameters."""

from __future__ import annotations

import sys

import numpy as np
import tritonclient.grpc as triton
from infer import Integers, tensors

CHANNEL_ARGUMENTS = [
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.primary_user_agent", "my-service/1.0"),
    ("grpc.lb_policy_name", "round_robin"),  # over all addresses of a name: `dns:///gateways.example:8001`
    ("grpc.enable_http_proxy", 0),
]


def infer_with_arguments(address: str, left: Integers, right: Integers) -> triton.InferResult:
    """One request with all of it. Arguments replace tritonclient's own: leave none out that you rely on."""
    with triton.InferenceServerClient(address, channel_args=CHANNEL_ARGUMENTS) as client:
        return client.infer(
            "sum-difference",
            tensors(left, right),
            request_id="order-66",
            priority=1,
            timeout=500_000,  # microseconds that it may wait for a batch
            client_timeout=2.0,  # seconds until nobody waits any more: gRPC's deadline
            headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
            compression_algorithm="gzip",
            parameters={"headrace_entity": "card-1", "my_own": 7},
        )


if __name__ == "__main__":
    ones = np.ones((1, 16), np.int32)
    print(infer_with_arguments(sys.argv[1], ones * 7, ones).as_numpy("OUTPUT0"))
