"""What is read of a block of trailers, and how a message is cut into frames."""

from __future__ import annotations

import http2
import pytest


def test_a_status_and_its_message_are_found() -> None:
    block = http2.literal(b"grpc-message", b"50%25 full") + http2.literal(b"grpc-status", b"14")
    assert http2.status(block) == (14, "50% full")


def test_a_message_of_more_than_126_bytes_is_read_whole() -> None:
    words = b"x" * 300
    long = b"\x00\x0cgrpc-message\x7f" + bytes([(300 - 127) & 0x7F | 0x80, (300 - 127) >> 7]) + words
    assert http2.status(long + http2.literal(b"grpc-status", b"3")) == (3, words.decode())


def test_a_call_without_a_status_says_how_it_ended() -> None:
    assert http2.status(b"reset 8") == (-1, "reset 8")


def test_a_huffman_coded_status_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="Huffman"):
        http2.status(b"\x00\x0bgrpc-status\x81\x07")


@pytest.mark.parametrize("size", [0, 10, http2.DEFAULT_FRAME - 5, http2.DEFAULT_FRAME - 4, 40_000])
def test_the_last_frame_of_a_message_ends_it(size: int) -> None:
    message, data = bytes(range(256)) * (size // 256) + bytes(size % 256), b""
    frames, flags = http2.body_frames(5, message), []
    while frames:
        high, low, kind, flag, stream = http2.HEAD.unpack_from(frames)
        length = high << 16 | low
        assert (kind, stream) == (http2.DATA, 5)
        assert length <= http2.DEFAULT_FRAME
        data, frames = data + frames[9 : 9 + length], frames[9 + length :]
        flags.append(flag)
    assert data[5:] == message
    assert int.from_bytes(data[1:5]) == size
    assert flags == [0] * (len(flags) - 1) + [http2.END_STREAM]
