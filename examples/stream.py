"""Many requests on one stream. Answers come in the order of the requests, an error in the place of its answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from queue import Queue
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio_triton
from infer import Integers, tensors

Outcome = triton.InferResult | triton.InferenceServerException


def infer_on_a_stream(address: str, lefts: list[Integers], right: Integers) -> list[Outcome]:
    """A result or an error for each, whichever model they ask: an error does not end the stream."""
    outcomes: Queue[Outcome] = Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: outcomes.put(error or result), stream_timeout=30)
        for place, left in enumerate(lefts):
            client.async_stream_infer("sum-difference", tensors(left, right), request_id=str(place))
        found = [outcomes.get(timeout=10) for _ in lefts]
        client.stop_stream()
    return found


async def infer_on_a_stream_with_asyncio(address: str, lefts: list[Integers], right: Integers) -> list[Integers]:
    """The sums."""

    async def questions() -> AsyncIterator[dict[str, Any]]:
        for left in lefts:
            yield {"model_name": "sum-difference", "inputs": tensors(left, right)}

    found = []
    async with aio_triton.InferenceServerClient(address) as client:
        async for result, error in client.stream_infer(questions(), stream_timeout=30):
            if error is not None:
                raise error
            found.append(result.as_numpy("OUTPUT0"))
    return found


def stop_at_the_first_error(address: str, lefts: list[Integers], right: Integers) -> triton.InferenceServerException:
    """What ends a stream whose caller asks for statuses: the first error, as the status of the stream."""
    outcomes: Queue[Outcome] = Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(
            lambda result, error: outcomes.put(error or result),
            headers={"triton_grpc_error": "true"},
            stream_timeout=30,
        )
        for left in lefts:
            client.async_stream_infer("sum-difference", tensors(left, right))
        while not isinstance(outcome := outcomes.get(timeout=10), triton.InferenceServerException):
            pass
        client.stop_stream(cancel_requests=True)
    return outcome


if __name__ == "__main__":
    ones = np.ones((1, 16), np.int32)
    print(*(each.as_numpy("OUTPUT0") for each in infer_on_a_stream(sys.argv[1], [ones] * 4, ones)), sep="\n")
    print(*asyncio.run(infer_on_a_stream_with_asyncio(sys.argv[1], [ones] * 4, ones)), sep="\n")
