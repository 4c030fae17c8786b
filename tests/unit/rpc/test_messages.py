"""gRPC's words in HTTP/2: messages out of pieces, timeouts, statuses and metadata."""

from __future__ import annotations

import gzip
import itertools
import zlib
from urllib.parse import unquote

import grpc
import pytest
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from headrace.rpc.messages import Failure, Reader, asked, entry, framed, seconds, status, timeout, trailers

CALL = ((b":method", b"POST"), (b":path", b"/a.B/C"), (b"content-type", b"application/grpc"))


def pressed(message: bytes) -> bytes:
    return b"\x01" + framed(message)[1:]


def read(reader: Reader, data: bytes) -> list[bytes]:
    reader.feed(data)
    found = []
    while (message := reader.next()) is not None:
        found.append(message)
    return found


# Messages ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=60), max_size=8), st.lists(st.integers(0, 200), max_size=12))
def test_messages_come_out_whole_however_they_were_cut(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(map(framed, messages))
    places = sorted({0, len(data), *[cut for cut in cuts if cut < len(data)]})
    reader = Reader(1000)

    found = [each for at, end in itertools.pairwise(places) for each in read(reader, data[at:end])]

    assert found == messages
    assert len(reader) == 0


def test_a_reader_says_when_a_message_is_whole_and_what_it_keeps() -> None:
    reader = Reader(100)
    reader.feed(framed(b"abc")[:-1])
    assert not reader.ready()
    assert len(reader) == 7

    reader.feed(b"c" + framed(b"d")[:3])

    assert reader.ready()
    assert reader.next() == b"abc"
    assert reader.next() is None
    assert len(reader) == 3


def test_a_message_that_will_be_too_large_is_refused_by_its_head() -> None:
    reader = Reader(100)
    reader.feed(framed(bytes(101))[:5])

    with pytest.raises(Failure, match=r"Received message larger than max \(101 vs. 100\)") as caught:
        reader.ready()

    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(("encoding", "press"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_a_compressed_message_is_expanded_up_to_the_limit(encoding: bytes, press: object) -> None:
    assert callable(press)
    assert read(Reader(1000, encoding), pressed(press(b"a" * 1000)) + framed(b"plain")) == [b"a" * 1000, b"plain"]
    with pytest.raises(Failure) as caught:
        read(Reader(1000, encoding), pressed(press(b"a" * 1001)))
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_bomb_waits_as_the_bytes_it_came_in() -> None:
    reader = Reader(1 << 24, b"gzip")
    reader.feed(pressed(gzip.compress(bytes(1 << 24))))

    assert reader.ready()
    assert len(reader) < 20_000


@pytest.mark.parametrize(
    ("encoding", "data", "code"),
    [
        (b"identity", pressed(b"a"), "INTERNAL"),
        (b"snappy", pressed(b"a"), "UNIMPLEMENTED"),
        (b"gzip", pressed(b"no gzip"), "INTERNAL"),
        (b"gzip", pressed(gzip.compress(b"abc")[:-1]), "INTERNAL"),
        (b"gzip", b"\x02" + framed(b"abc")[1:], "INTERNAL"),
    ],
)
def test_a_message_that_cannot_be_read_says_why(encoding: bytes, data: bytes, code: str) -> None:
    with pytest.raises(Failure) as caught:
        read(Reader(1000, encoding), data)

    assert caught.value.code.name == code


# What a call says -------------------------------------------------------------------------------------------------


def test_a_call_is_its_path_its_deadline_and_its_callers_metadata() -> None:
    plumbing = ((b"te", b"trailers"), (b"grpc-accept-encoding", b"gzip"))  # codespell:ignore te
    said = asked((*CALL, *plumbing, (b"grpc-timeout", b"250m"), (b"grpc-encoding", b"gzip"), (b"x", b"1")))

    assert (said.path, said.timeout_s, said.encoding) == ("/a.B/C", 0.25, b"gzip")
    assert said.metadata == (("x", "1"),)


@pytest.mark.parametrize("value", [b"AAEC", b"AAEC,AAEC", b"/w==", b"/w", b""])
def test_binary_metadata_is_read_padded_or_not_and_joined_by_commas(value: bytes) -> None:
    expected = {b"AAEC": [b"\0\1\2"], b"AAEC,AAEC": [b"\0\1\2"] * 2, b"/w==": [b"\xff"], b"/w": [b"\xff"], b"": [b""]}

    assert [one for _, one in asked((*CALL, (b"a-bin", value))).metadata] == expected[value]


@pytest.mark.parametrize("value", [b"A", b"a b=", b"\xff\xfe", b"AAEC=AAEC"])
def test_binary_metadata_that_is_not_base64_fails_the_call(value: bytes) -> None:
    with pytest.raises(Failure, match="a-bin") as caught:
        asked((*CALL, (b"a-bin", value)))

    assert caught.value.code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("kind", "method", "known"),
    [
        (b"application/grpc", b"POST", True),
        (b"application/grpc+proto", b"POST", True),
        (b"application/grpc;v=1", b"POST", True),
        (b"application/grpc-web", b"POST", False),
        (b"text/html", b"POST", False),
        (b"application/grpc", b"GET", False),
    ],
)
def test_only_a_posted_grpc_is_a_call(kind: bytes, method: bytes, *, known: bool) -> None:
    said = asked(((b":method", method), (b":path", b"/a.B/C"), (b"content-type", kind)))

    assert bool(said.path) is known


# Timeouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9), (b"99999999S", 99_999_999)],
)
def test_a_timeout_has_six_units(written: bytes, meant: float) -> None:
    assert seconds(written) == pytest.approx(meant)


@pytest.mark.parametrize("written", [b"", b"S", b"5", b"5s", b"-5S", b"1.5S", b"123456789S", b" 5S", b"\xb2S"])
def test_a_timeout_that_is_none_fails_the_call(written: bytes) -> None:
    with pytest.raises(Failure):
        seconds(written)


@given(st.floats(1e-6, 9e7))
def test_a_timeout_is_read_as_it_was_meant(wanted: float) -> None:
    assert seconds(timeout(wanted)) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("wanted", [-5.0, 0.0, 1e12])
def test_no_timeout_is_too_short_or_too_long_to_be_written(wanted: float) -> None:
    assert 0 < seconds(timeout(wanted)) <= 1e9


# Statuses ---------------------------------------------------------------------------------------------------------


@given(st.sampled_from(list(grpc.StatusCode)), st.text(max_size=80))
def test_a_status_is_read_as_it_was_meant(code: grpc.StatusCode, details: str) -> None:
    written = Decoder().decode(trailers(code, details, ()), raw=True)

    assert status(tuple(written)) == (code, details.encode(errors="replace").decode())


def test_details_are_percent_encoded_printable_ascii() -> None:
    found = dict(Decoder().decode(trailers(grpc.StatusCode.OK, "100 % ü\n~", ()), raw=True))

    assert found[b"grpc-message"] == b"100 %25 %C3%BC%0A~"
    assert unquote(found[b"grpc-message"].decode()) == "100 % ü\n~"


def test_details_that_are_no_unicode_are_told_nevertheless() -> None:
    found = Decoder().decode(trailers(grpc.StatusCode.OK, "a\udc80b", ()), raw=True)

    assert status(tuple(found)) == (grpc.StatusCode.OK, "a?b")


@pytest.mark.parametrize("code", [b"99", b"x", b"", b"-1", b"9" * 10_000])
def test_a_status_that_is_none_of_grpcs_is_unknown(code: bytes) -> None:
    assert status(((b"grpc-status", code),))[0] is grpc.StatusCode.UNKNOWN


def test_an_answer_without_a_status_is_unknown_and_says_what_http_said() -> None:
    assert status(((b":status", b"503"),)) == (grpc.StatusCode.UNKNOWN, "HTTP status 503")


@given(st.binary(max_size=100))
def test_binary_metadata_goes_through_unpadded(value: bytes) -> None:
    ((_, written),) = Decoder().decode(entry("a-bin", value), raw=True)

    assert b"=" not in written
    assert asked((*CALL, (b"a-bin", written))).metadata == (("a-bin", value),)


@pytest.mark.parametrize("value", ["ü", "a\nb", "\x00"])
def test_text_metadata_that_is_not_printable_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="not printable"):
        entry("a", value)
