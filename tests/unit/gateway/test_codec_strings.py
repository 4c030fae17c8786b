"""Strings at the codec: whatever comes in comes out, and whatever is malformed is refused in words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from headrace.core.batch import split
from headrace.core.inference import Answer
from headrace.core.tensors import Axis, ModelSpec, TensorSpec
from headrace.errors import BrokenContract, InvalidInference
from headrace.gateway import codec
from headrace_models import strings

WIDTH = 6
CAP = 3
SPEC = ModelSpec(
    name="m",
    version="1",
    digest="",
    inputs=(
        TensorSpec("tags", "BYTES", (-1, 2), axis="tags", max_bytes=WIDTH),
        TensorSpec("name", "BYTES", (1,), max_bytes=WIDTH),
        TensorSpec("amount", "FP32", (-1,), axis="tags"),
    ),
    outputs=(TensorSpec("said", "BYTES", (2,), max_bytes=WIDTH), TensorSpec("p", "FP32", (1,))),
    axes=(Axis("tags", CAP),),
    max_rows=4,
)
TEXT = st.binary(max_size=WIDTH)


def protocol(texts: list[bytes]) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def ask(tags: list[list[bytes]], names: list[bytes], *, typed: bool = False) -> service_pb2.ModelInferRequest:
    """`tags`: of each row, two an entry."""
    rows, length = len(names), len(tags[0]) // 2
    flat = [tag for row in tags for tag in row]
    message = service_pb2.ModelInferRequest(model_name="m")
    message.inputs.add(name="tags", datatype="BYTES", shape=(rows, length, 2))
    message.inputs.add(name="name", datatype="BYTES", shape=(rows, 1))
    message.inputs.add(name="amount", datatype="FP32", shape=(rows, length))
    amounts = np.arange(rows * length, dtype=np.float32)
    if typed:
        message.inputs[0].contents.bytes_contents.extend(flat)
        message.inputs[1].contents.bytes_contents.extend(names)
        message.inputs[2].contents.fp32_contents.extend(amounts.tolist())
    else:
        message.raw_input_contents.extend([protocol(flat), protocol(names), amounts.tobytes()])
    return message


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[list[bytes]], list[bytes]]:
    rows, length = draw(st.integers(1, 4)), draw(st.integers(0, CAP + 3))
    tags = [draw(st.lists(TEXT, min_size=2 * length, max_size=2 * length)) for _ in range(rows)]
    return tags, draw(st.lists(TEXT, min_size=rows, max_size=rows))


@given(drawn=requests(), typed=st.booleans())
def test_a_column_holds_the_strings_of_every_row_and_of_long_ones_the_newest(
    *, drawn: tuple[list[list[bytes]], list[bytes]], typed: bool
) -> None:
    tags, names = drawn
    inference = codec.Decoder(SPEC).decode(ask(tags, names, typed=typed), 0.0)
    length = len(tags[0]) // 2
    kept = [row[max(0, len(row) - 2 * CAP) :] for row in tags]
    array = np.frombuffer(inference.columns[0], np.uint8).reshape(-1, 4 + WIDTH)

    assert strings.decode(array) == [tag for row in kept for tag in row]
    assert inference.columns[0] == strings.encode([tag for row in kept for tag in row], WIDTH).tobytes()
    assert inference.columns[1] == strings.encode(names, WIDTH).tobytes()
    assert inference.lengths == (min(length, CAP),)
    assert inference.truncated == ({"tags": length - CAP} if length > CAP else {})


@given(said=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), turned=st.booleans())
def test_a_callers_answer_is_its_own_strings_as_the_protocol_has_them(
    *, said: list[tuple[bytes, bytes]], turned: bool
) -> None:
    column = strings.encode([text for row in said for text in row], WIDTH).tobytes()
    numbers = np.arange(len(said), dtype="<f4").tobytes()
    message = ask([[]], [b""])
    message.outputs.add(name="p" if turned else "said")
    message.outputs.add(name="said" if turned else "p")
    for row, texts in enumerate(said):
        inference = codec.Decoder(SPEC).decode(message, 0.0)
        response = codec.encode(inference, Answer(split(SPEC, [column, numbers], row, 1), 1, len(said), 0))
        place = int(turned)

        assert response.raw_output_contents[place] == protocol(list(texts))
        assert response.raw_output_contents[1 - place] == np.float32(row).tobytes()
        assert (response.outputs[place].datatype, list(response.outputs[place].shape)) == ("BYTES", [1, 2])


@given(st.binary(max_size=64), st.integers(1, 4))
def test_any_bytes_at_all_are_strings_or_are_refused_in_words(data: bytes, rows: int) -> None:
    message = ask([[]] * rows, [b""] * rows)
    message.raw_input_contents[1] = data
    column = _column(message)

    assert isinstance(column, str) or protocol(strings.decode(column)) == data
    assert not isinstance(column, str) or "'name'" in column


def _column(message: service_pb2.ModelInferRequest) -> np.ndarray | str:
    """Of the second input, or why there is none."""
    try:
        inference = codec.Decoder(SPEC).decode(message, 0.0)
    except InvalidInference as refused:
        return str(refused)
    return np.frombuffer(inference.columns[1], np.uint8).reshape(-1, 4 + WIDTH)


def test_a_request_that_was_understood_once_is_read_by_its_own_bytes_the_next_time() -> None:
    """What an input says of itself is remembered; how long its strings are is not."""
    decoder = codec.Decoder(SPEC)
    first = decoder.decode(ask([[b"a", b"bc"]], [b"x"]), 0.0)
    second = decoder.decode(ask([[b"", b"123456"]], [b"yz"]), 0.0)

    assert strings.decode(np.frombuffer(first.columns[0], np.uint8).reshape(-1, 10)) == [b"a", b"bc"]
    assert strings.decode(np.frombuffer(second.columns[0], np.uint8).reshape(-1, 10)) == [b"", b"123456"]
    assert second.columns[1] == b"\2\0\0\0yz\0\0\0\0"


def test_a_million_entries_that_are_not_there_cost_nothing() -> None:
    message = ask([[]], [b""])
    message.inputs[0].shape[1] = 10**12
    message.inputs[2].shape[1] = 10**12

    with pytest.raises(InvalidInference, match="expected 2000000000000 string elements for inference input 'tags'"):
        codec.Decoder(SPEC).decode(message, 0.0)


def test_what_is_longer_than_the_cap_never_takes_its_width_in_memory() -> None:
    """A caller's four bytes an entry would become ten each."""
    inference = codec.Decoder(SPEC).decode(ask([[b""] * 200_000], [b""]), 0.0)

    assert len(inference.columns[0]) == 2 * CAP * (4 + WIDTH)
    assert inference.truncated == {"tags": 100_000 - CAP}


def test_a_string_that_no_spec_allows_breaks_the_contract() -> None:
    inference = codec.Decoder(SPEC).decode(ask([[]], [b""]), 0.0)
    column = b"\7\0\0\0abcdef" + bytes(10)

    with pytest.raises(BrokenContract):
        codec.encode(inference, Answer([column, bytes(4)], 1, 1, 0))


@pytest.mark.parametrize("longest", [1, 255, 65_536])
def test_the_longest_string_that_a_spec_allows_goes_through(longest: int) -> None:
    tensor = TensorSpec("x", "BYTES", (1,), max_bytes=longest)
    spec = ModelSpec("m", "1", "", (tensor,), (tensor,))
    message = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[protocol([b"z" * longest])])
    message.inputs.add(name="x", datatype="BYTES", shape=(1, 1))

    inference = codec.Decoder(spec).decode(message, 0.0)
    response = codec.encode(inference, Answer(inference.columns, 1, 1, 0))

    assert list(response.raw_output_contents) == [protocol([b"z" * longest])]
