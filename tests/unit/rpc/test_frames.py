"""Frames as bytes, against RFC 9113's layouts."""

from __future__ import annotations

import pytest

from headrace.rpc import frames


def parsed(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each."""
    found = []
    while data:
        high, low, kind, flags, number = frames.HEAD.unpack_from(data)
        end = 9 + (high << 16 | low)
        found.append((kind, flags, number, data[9:end]))
        data = data[end:]
    return found


def test_a_frame_is_nine_bytes_and_its_payload() -> None:
    assert frames.frame(frames.PING, frames.ACK, 0, b"12345678") == b"\x00\x00\x08\x06\x01\x00\x00\x00\x0012345678"
    assert frames.reset(3, frames.CANCEL) == b"\x00\x00\x04\x03\x00\x00\x00\x00\x03\x00\x00\x00\x08"
    assert frames.window_update(0, 65_536) == b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x01\x00\x00"
    assert (
        frames.settings({frames.INITIAL_WINDOW_SIZE: 10})
        == b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x0a"
    )
    assert frames.goaway(5, frames.ENHANCE_YOUR_CALM, "why") == (
        b"\x00\x00\x0b\x07\x00\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x0bwhy"
    )


def test_a_payload_of_more_than_two_bytes_of_length_is_written_as_such() -> None:
    assert parsed(frames.frame(frames.DATA, 0, 1, bytes(70_000))) == [(frames.DATA, 0, 1, bytes(70_000))]


@pytest.mark.parametrize("size", [0, 16_384, 16_385, 32_768, 50_000])
def test_a_block_of_any_size_goes_out_in_frames_that_every_peer_takes(size: int) -> None:
    block = bytes(i % 251 for i in range(size))

    found = parsed(frames.fields(7, block, frames.END_STREAM))

    first, *more = found
    assert first[0] == frames.HEADERS
    assert first[1] & frames.END_STREAM
    assert all(kind == frames.CONTINUATION and not flags & frames.END_STREAM for kind, flags, _, _ in more)
    assert [bool(flags & frames.END_HEADERS) for _, flags, _, _ in found] == [False] * len(more) + [True]
    assert {number for _, _, number, _ in found} == {7}
    assert max(len(payload) for *_, payload in found) <= frames.DEFAULT_FRAME
    assert b"".join(payload for *_, payload in found) == block
