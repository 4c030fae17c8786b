"""Header fields, against RFC 7541's examples and the hpack library's encoder."""

from __future__ import annotations

from typing import Final

import pytest
from hpack import Decoder, Encoder, HPACKError
from hypothesis import given
from hypothesis import strategies as st

from headrace.rpc.fields import LONGEST_REMEMBERED, FieldsDecoder, literal

REQUESTS: Final = (
    ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")),
    (
        (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com"),
        (b"cache-control", b"no-cache"),
    ),
    (
        (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ),
)  # fmt: skip
C_3: Final = (
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
)
C_4: Final = (
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
)
C_6: Final = (
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
    (
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af"
        "27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
    ),
)

names = st.sampled_from([b":path", b":method", b"x-a", b"x-b", b"grpc-timeout", b"traceparent", b"user-agent"])
values = st.one_of(st.sampled_from([b"", b"POST", b"/a.B/C", b"1S"]), st.binary(max_size=200))
kinds = st.sampled_from(["indexed", "never", "plain", "ours"])
blocks = st.tuples(
    st.lists(st.tuples(names, values, kinds), max_size=8),
    st.booleans(),
    st.lists(st.integers(0, 4096), max_size=2),
)


@pytest.mark.parametrize("written", [C_3, C_4], ids=["plain", "Huffman"])
def test_the_requests_of_rfc_7541_are_read(written: tuple[str, ...]) -> None:
    decoder = FieldsDecoder()

    assert tuple(decoder.decode(bytes.fromhex(block)) for block in written) == REQUESTS


def test_the_responses_of_rfc_7541_are_read_from_a_table_that_evicts() -> None:
    decoder = FieldsDecoder()
    first = b"\x3f\xe1\x01" + bytes.fromhex(C_6[0])  # 256 bytes of table

    found = [decoder.decode(first), *[decoder.decode(bytes.fromhex(block)) for block in C_6[1:]]]

    assert [fields[0] for fields in found] == [(b":status", b"302"), (b":status", b"307"), (b":status", b"200")]
    assert found[1][1:] == (found[0][1], found[0][2], found[0][3])
    assert found[2][-1] == (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")


@given(st.lists(blocks, max_size=12))
def test_what_another_encoder_writes_is_read_block_after_block(
    session: list[tuple[list[tuple[bytes, bytes, str]], bool, list[int]]],
) -> None:
    encoder, decoder = Encoder(), FieldsDecoder()
    for fields, huffman, sizes in session:
        for size in sizes:
            if size != encoder.header_table_size:  # the library forgets a change that such a one follows
                encoder.header_table_size = size
        written = encoder.encode([], huffman=huffman)
        for name, value, kind in fields:
            if kind == "ours":
                written += literal(name, value)
            elif kind == "plain":
                written += encoder._encode_literal(name, value, b"\x00", huffman)
            else:
                written += encoder.encode([(name, value, kind == "never")], huffman=huffman)

        expected = tuple((name, value) for name, value, _ in fields)
        assert decoder.decode(written) == expected
        repeated = b"".join(encoder.add((name, value), sensitive=False) for name, value in expected)
        assert decoder.decode(repeated) == expected
        again = b"".join(encoder.add((name, value), sensitive=False) for name, value in expected)
        assert decoder.decode(again) == expected


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_an_hpack_error(block: bytes) -> None:
    decoder = FieldsDecoder()
    try:
        mine = decoder.decode(block)
    except HPACKError:
        return
    assert mine == tuple(Decoder().decode(block, raw=True))


def test_a_reference_means_what_the_table_holds_now() -> None:
    decoder = FieldsDecoder()
    decoder.decode(b"\x40\x01a\x011")
    assert decoder.decode(b"\xbe") == ((b"a", b"1"),)

    decoder.decode(b"\x40\x01a\x012")

    assert decoder.decode(b"\xbe") == ((b"a", b"2"),)


def test_a_reference_into_a_table_that_was_emptied_is_an_error() -> None:
    decoder = FieldsDecoder()
    decoder.decode(b"\x40\x01a\x011")
    assert decoder.decode(b"\xbe") == ((b"a", b"1"),)
    decoder.decode(b"\x20")

    with pytest.raises(HPACKError):
        decoder.decode(b"\xbe")


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # entry 0
        b"\xbe",  # an empty table's first
        b"\x82\x20",  # resized after a field
        b"\x00\x01a\x011\x20",
        b"\x20\x20\x20",  # resized thrice
        b"\x20\x3f\xe1\x1f\x3f\xe2\x1f",  # to more than 4,096
        b"\x00\x05abc",  # cut short
        b"\x00\x81\xff\x00",  # no Huffman code
        b"\xff\xff\xff\xff\xff\xff\x0f",  # a number without end
    ],
)
def test_a_block_that_is_none_is_an_error(block: bytes) -> None:
    with pytest.raises(HPACKError):
        FieldsDecoder().decode(block)


def test_a_block_may_resize_the_table_twice() -> None:
    assert FieldsDecoder().decode(b"\x20\x3f\xe1\x1f\x82") == ((b":method", b"GET"),)


def test_fields_that_grow_when_they_are_decoded_end_early() -> None:
    decoder = FieldsDecoder()
    decoder.decode(b"\x40\x01a\x7f\x81\x1e" + bytes(3968))

    with pytest.raises(HPACKError):
        decoder.decode(b"\xbe" * 20)


def test_what_is_remembered_stays_small() -> None:
    decoder = FieldsDecoder()
    for count in range(1, 700):
        decoder.decode(b"\x82" * count)

    assert sum(map(len, decoder._remembered)) <= LONGEST_REMEMBERED * (LONGEST_REMEMBERED + 1) / 2


@given(st.binary(max_size=300), st.integers(0, 20_000))
def test_a_literal_is_read_by_another_decoder(name: bytes, size: int) -> None:
    assert Decoder(100_000).decode(literal(name, bytes(size)), raw=True) == [(name, bytes(size))]
