"""What is seen in a message's bytes before it is parsed: as much as protobuf would make of it, and no less."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.payments import earlier, event
from tritonclient.grpc import service_pb2

from headrace.client import request
from headrace.gateway import envelope
from headrace.gateway.envelope import MAX_ELEMENTS, MAX_PARTS, check_of
from headrace.rpc.messages import Failure
from headrace.v1 import risk_pb2

INFER = check_of(service_pb2.ModelInferRequest.DESCRIPTOR)
BATCH = check_of(risk_pb2.ScoreBatchRequest.DESCRIPTOR)
INPUTS, OUTPUTS, PARAMETERS, RAW = 0x2A, 0x32, 0x22, 0x3A


def refused(check: Callable[[bytes], None], message: bytes) -> str:
    with pytest.raises(Failure) as caught:
        check(message)
    return f"{caught.value.code.name}: {caught.value}"


def within(tag: int, inside: bytes) -> bytes:
    size, head = len(inside), bytearray((tag,))
    while size >= 0x80:
        head.append(0x80 | size & 0x7F)
        size >>= 7
    head.append(size)
    return bytes(head) + inside


CONTENTS = 0x2A


@pytest.mark.parametrize(
    "message",
    [
        bytes((INPUTS, 0)) * (MAX_PARTS + 1),
        bytes((OUTPUTS, 0)) * (MAX_PARTS + 1),
        bytes((PARAMETERS, 0)) * (MAX_PARTS + 1),
        bytes((RAW, 0)) * (MAX_PARTS + 1),
        within(INPUTS, bytes((0x22, 0)) * (MAX_PARTS + 1)),
        within(INPUTS, within(CONTENTS, bytes((0x42, 0)) * (MAX_PARTS + 1))),
        within(INPUTS, bytes((0x18, 1)) * (MAX_PARTS + 1)),
        bytes((0xFA, 0x01, 0)) * (MAX_PARTS + 1),
    ],
    ids=["inputs", "outputs", "parameters", "raw", "of an input", "strings", "a shape unpacked", "fields of nobody"],
)
def test_more_parts_than_a_request_could_need_are_refused_unparsed(message: bytes) -> None:
    told = refused(INFER, message)

    assert told == f"RESOURCE_EXHAUSTED: the message has more than {MAX_PARTS} tensors, events and other parts"


@pytest.mark.parametrize(
    ("field", "ones"),
    [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 4), (7, 8)],
    ids=["bool", "int", "int64", "uint", "uint64", "fp32", "fp64"],
)
def test_more_typed_numbers_than_fit_are_refused_and_so_many_are_not(field: int, ones: int) -> None:
    most = 1000

    def typed(count: int) -> bytes:
        return within(INPUTS, within(CONTENTS, within(field << 3 | 2, bytes(count * ones))))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(envelope, "MAX_ELEMENTS", most)

        INFER(typed(most))
        assert "more than 1000 numbers that are not raw" in refused(INFER, typed(most + 1))


def test_large_numbers_are_one_each() -> None:
    message = service_pb2.ModelInferRequest()
    message.inputs.add().contents.int64_contents.extend([-1] * 20_000)
    packed = message.SerializeToString()
    assert len(packed) > 10 * 20_000, "ten bytes each"

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(envelope, "MAX_ELEMENTS", 20_000)
        INFER(packed)
        patched.setattr(envelope, "MAX_ELEMENTS", 19_999)
        refused(INFER, packed)


def test_raw_numbers_are_bytes_and_cost_nothing() -> None:
    message = request("m", {"events": np.zeros((64, 512, 256), np.float32)})
    assert len(message.raw_input_contents[0]) > MAX_ELEMENTS

    begun = time.perf_counter()
    INFER(message.SerializeToString())

    assert time.perf_counter() - begun < 0.5


def test_the_largest_batch_of_payments_is_let_in() -> None:
    history = earlier(1024)
    message = risk_pb2.ScoreBatchRequest(
        payments=[risk_pb2.Payment(event=event(), card_history=history, merchant_history=history)] * 64
    )

    BATCH(message.SerializeToString())


def test_more_empty_payments_than_any_model_takes_are_refused_unparsed() -> None:
    number = risk_pb2.ScoreBatchRequest.DESCRIPTOR.fields_by_name["payments"].number

    assert "more than" in refused(BATCH, bytes((number << 3 | 2, 0)) * (MAX_PARTS + 1))


def test_what_is_behind_a_group_is_not_let_past_unseen() -> None:
    group = b"\xfb\x01" + b"\xfc\x01"

    assert refused(INFER, group + bytes(100)).startswith("INVALID_ARGUMENT: the message has a group")


@settings(max_examples=60, deadline=None)
@given(
    inputs=st.lists(st.tuples(st.text(max_size=8), st.lists(st.integers(-9, 2**40), max_size=4)), max_size=6),
    limit=st.integers(1, 40),
)
def test_whatever_has_more_entries_than_the_bound_is_refused(inputs: list[tuple[str, list[int]]], limit: int) -> None:
    message = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[b"a", b""])
    for name, shape in inputs:
        message.inputs.add(name=name, datatype="FP32", shape=shape)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(envelope, "MAX_PARTS", limit)
        patched.setattr(envelope, "MAX_ELEMENTS", 10**9)
        let_in = True
        try:
            INFER(message.SerializeToString())
        except Failure:
            let_in = False

    assert not (let_in and len(message.inputs) + len(message.raw_input_contents) > limit)
    assert let_in or 3 + 4 * len(inputs) > limit  # its name and raw contents, and inputs of three fields


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_noise_is_left_to_the_parser(noise: bytes) -> None:
    """Nothing but a Failure ever comes of it, and what the parser takes is never called malformed here."""
    try:
        INFER(noise)
    except Failure as failure:
        assert "group" in str(failure)  # noqa: PT017  mostly there is none
        return
    try:
        service_pb2.ModelInferRequest.FromString(noise)
    except DecodeError:
        return
