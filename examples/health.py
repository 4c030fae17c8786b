"""Is the server there, is it ready, what does it serve, and what has it done so far."""

from __future__ import annotations

import sys
from typing import Any

import tritonclient.grpc as triton


def is_ready(address: str, model: str = "sum-difference") -> bool:
    """Live: it answers. Ready: every model of it has a replica. A model, or a version of it, may be ready by itself."""
    with triton.InferenceServerClient(address) as client:
        return bool(
            client.is_server_live()
            and client.is_server_ready()
            and client.is_model_ready(model)
            and not client.is_model_ready("nobody")
        )


def describe(address: str, model: str = "sum-difference") -> dict[str, Any]:
    """What it says of itself, of a model, and of what it has answered."""
    with triton.InferenceServerClient(address) as client:
        return {
            "server": client.get_server_metadata(as_json=True),
            "model": client.get_model_metadata(model, as_json=True),
            "config": client.get_model_config(model, as_json=True)["config"],
            "index": client.get_model_repository_index(as_json=True),
            "statistics": client.get_inference_statistics(model, as_json=True),
        }


if __name__ == "__main__":
    print(is_ready(sys.argv[1]))
    for what, said in describe(sys.argv[1]).items():
        print(what, said)
