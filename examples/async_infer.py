"""Many requests at a time on one connection, for the server to batch: with callbacks from a thread, with asyncio."""

from __future__ import annotations

import asyncio
import sys
from queue import Queue

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio_triton
from infer import Integers, tensors

Outcome = triton.InferResult | triton.InferenceServerException


def infer_with_callbacks(address: str, lefts: list[Integers], right: Integers) -> list[Integers]:
    """The sums. A callback runs in a thread of gRPC's: it should do little, and hand over what it got."""
    done: Queue[tuple[int, Outcome]] = Queue()
    sums: dict[int, Integers] = {}
    with triton.InferenceServerClient(address) as client:
        for place, left in enumerate(lefts):

            def arrived(
                result: triton.InferResult | None, error: triton.InferenceServerException | None, place: int = place
            ) -> None:
                done.put((place, error or result))

            client.async_infer("sum-difference", tensors(left, right), arrived, client_timeout=5)
        for _ in lefts:
            place, outcome = done.get(timeout=10)
            if isinstance(outcome, triton.InferenceServerException):
                raise outcome
            sums[place] = outcome.as_numpy("OUTPUT0")
    return [sums[place] for place in range(len(lefts))]


def cancel_one(address: str, left: Integers, right: Integers) -> bool:
    """Whether a request that is no longer wanted was given up: it may have been answered meanwhile."""
    outcomes: Queue[Outcome] = Queue()
    with triton.InferenceServerClient(address) as client:
        running = client.async_infer(
            "sum-difference", tensors(left, right), lambda result, error: outcomes.put(error or result)
        )
        running.cancel()
        return isinstance(outcomes.get(timeout=10), triton.InferenceServerException)


async def infer_with_asyncio(address: str, lefts: list[Integers], right: Integers) -> list[Integers]:
    """The sums."""
    async with aio_triton.InferenceServerClient(address) as client:
        results = await asyncio.gather(
            *(client.infer("sum-difference", tensors(left, right), client_timeout=5) for left in lefts)
        )
    return [result.as_numpy("OUTPUT0") for result in results]


if __name__ == "__main__":
    ones = np.ones((1, 16), np.int32)
    print(*infer_with_callbacks(sys.argv[1], [ones * place for place in range(4)], ones), sep="\n")
    print(*asyncio.run(infer_with_asyncio(sys.argv[1], [ones * place for place in range(4)], ones)), sep="\n")
