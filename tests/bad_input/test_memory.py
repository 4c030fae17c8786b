"""What a caller sends decides how much memory it takes, and only for as long as its request is there."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.targets import codec as target

from headrace.core.inference import Inference
from headrace.gateway.codec import Decoder, asked
from headrace_models import wire

FACTOR: Final = 20
"""Bytes of memory for a byte of a message: an integer of one byte becomes one of eight, held twice for a moment."""
PLAIN: Final = 64 << 10
"""Bytes, whatever comes: sentences, and numpy's own."""
SIZES: Final = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 4, 8, 2**16, 2**31, 2**32, 2**33, 2**62, 2**63 - 1])


def most_bytes(work: Callable[[], object]) -> int:
    """How much more memory there is at the worst moment than before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def kept_bytes(work: Callable[[], object]) -> int:
    """How much more there is afterwards."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def decoded(message: Any) -> Inference | None:
    """None = refused."""
    try:
        return Decoder(target.SPEC).decode(message, 0.0, asked(message))
    except target.REFUSALS:
        return None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.lists(SIZES, max_size=5)), min_size=1, max_size=4), st.booleans())
def test_shapes_that_promise_anything_take_no_memory(shapes: list[tuple[int, list[int]]], raw: bool) -> None:  # noqa: FBT001
    """Negative, huge, and such that their product is small again in 64 bits."""
    message = target.good(target.arrays(2, 2, 1, optional=True))
    if not raw:
        del message.raw_input_contents[:]
    for place, shape in shapes:
        message.inputs[place].ClearField("shape")
        message.inputs[place].shape.extend(shape)

    assert most_bytes(lambda: decoded(message)) <= PLAIN + FACTOR * message.ByteSize()


@pytest.mark.parametrize("datatype", ["FP32", "UINT8", "INT64", "BOOL", "INT8", "UINT64"])
def test_contents_that_nobody_has_announced_are_not_converted(datatype: str) -> None:
    message = target.good(
        {name: column for name, column in target.arrays(1, 1, 1, optional=True).items() if name != "half"}, typed=True
    )
    given = next(one for one in message.inputs if one.datatype == datatype)
    getattr(given.contents, target.CONTENTS[datatype]).extend([1] * 500_000)

    assert most_bytes(lambda: decoded(message)) <= PLAIN


def test_typed_contents_take_a_multiple_of_their_message() -> None:
    columns = target.arrays(8, 20_000, 1, optional=False)
    columns["at"] %= 100
    message = target.good(columns, typed=True)

    def work() -> None:
        assert decoded(message) is not None

    assert most_bytes(work) <= PLAIN + FACTOR * message.ByteSize()


def test_a_decoder_remembers_no_more_of_an_input_than_a_line() -> None:
    """What an input says of itself may hold whatever a caller invents: it is kept for the next request that says so."""
    decoder, columns = Decoder(target.SPEC), target.arrays(1, 1, 1, optional=True)
    unknown = b"\x9a\x06\xff\xff\x03"  # field 99, a string of 65,535 bytes

    def work() -> None:
        for number in range(40):
            message = target.good(columns)
            message.inputs[0].MergeFromString(unknown + number.to_bytes(2, "big") + bytes(65_533))
            assert decoder.decode(message, 0.0).rows == 1

    assert kept_bytes(work) < 1 << 20


def test_a_long_name_of_a_device_is_read_and_not_remembered() -> None:
    found = set()

    def work() -> None:
        for number in range(40):
            event = {"ts": 2, "amount": 1.0, "card_id": "c", "device_id": f"{number:05}" + "d" * 65_536}
            found.add(int(wire.payment_columns(event)["card_ids"][0, 0, 1]))

    assert kept_bytes(work) < 1 << 20
    assert len(found) == 40
