"""Any bytes at all: no error of ours, nothing left behind, and a good client gets right answers beside them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rpc import Raw, Run, good_neighbour, nothing_left, serving
from tests.unsocketed import SESSION, fed

from headrace.rpc import frames


def mutated(source: random.Random) -> bytes:
    """The session with a few bytes changed, cut out, doubled or put elsewhere."""
    found = bytearray(SESSION)
    for _ in range(source.randrange(1, 8)):
        at, size = source.randrange(len(found)), source.randrange(1, 40)
        match source.randrange(4):
            case 0:
                found[at] = source.randrange(256)
            case 1:
                del found[at : at + size]
            case 2:
                found[at:at] = found[at : at + size]
            case 3:
                found[at:at] = source.randbytes(size)
    return bytes(found)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans(), st.lists(st.integers(0, 500), max_size=5))
def test_random_bytes_end_a_connection_and_nothing_else(sent: bytes, opened: bool, cuts: list[int]) -> None:  # noqa: FBT001
    asyncio.run(fed((frames.PREFACE + frames.settings({}) if opened else b"") + sent, cuts))


def test_no_mutation_of_a_session_meets_an_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for seed in range(1500):
            source = random.Random(seed)
            sent = frames.PREFACE + frames.settings({}) + mutated(source)
            await fed(sent, [source.randrange(len(sent)) for _ in range(source.randrange(6))])

    with caplog.at_level(logging.ERROR, "headrace.rpc"):
        asyncio.run(main())

    assert "a connection failed on an error of ours" not in caplog.text


def test_a_good_client_gets_right_answers_beside_any_mutation(run: Run) -> None:
    async def main() -> Counter[str]:
        async with serving() as served:
            async with good_neighbour(served) as results:
                for seed in range(200):
                    async with Raw.to(served) as raw:
                        raw.send(mutated(random.Random(seed)))
                        with contextlib.suppress(EOFError, ConnectionError, TimeoutError):
                            while True:
                                await raw.frame(0.01)
            await nothing_left(served)
            return results

    results = run(main())

    assert results["right"] > 50
