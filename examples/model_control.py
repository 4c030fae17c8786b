"""Unload a model and load it again, where the server lets one (`control.model_control: explicit`)."""

from __future__ import annotations

import sys

import tritonclient.grpc as triton


def reload(address: str, model: str = "sum-difference") -> list[bool]:
    """Whether it is ready: before, after it was unloaded, and after it was loaded again. Both wait until it is so."""
    with triton.InferenceServerClient(address) as client:
        ready = [client.is_model_ready(model)]
        client.unload_model(model)
        ready.append(client.is_model_ready(model))
        client.load_model(model)
        ready.append(client.is_model_ready(model))
    return ready


def load_what_is_not_there(address: str) -> str:
    """What the server says of a model that lies nowhere."""
    with triton.InferenceServerClient(address) as client:
        try:
            client.load_model("nobody")
        except triton.InferenceServerException as error:
            return str(error.message())
    raise AssertionError("there is no such model")


if __name__ == "__main__":
    print(reload(sys.argv[1]), load_what_is_not_there(sys.argv[1]))
