"""Blocks of header fields one after the other: what the hpack library makes of them, or its error."""

from __future__ import annotations

from typing import Final

from hpack import Decoder, Encoder, HPACKError
from tests.fuzz.targets.target import Target

from headrace.rpc.fields import FieldsDecoder, literal

LARGE: Final = 1 << 20
"""Bytes: the bound on what is decoded is ours, and asked for elsewhere."""


def blocks(data: bytes) -> list[bytes]:
    """Each behind a byte that says how long it is."""
    found = []
    while data:
        found.append(data[1 : 1 + data[0]])
        data = data[1 + data[0] :]
    return found


def joined(*written: bytes) -> bytes:
    return b"".join(bytes([len(block)]) + block for block in written)


def check(data: bytes) -> None:
    ours, theirs = FieldsDecoder(), Decoder(LARGE)
    for block in blocks(data):
        try:
            mine = ours.decode(block)
        except HPACKError as error:
            _check_refusal(theirs, block, error)
            return
        assert mine == tuple(theirs.decode(block, raw=True))


def _check_refusal(theirs: Decoder, block: bytes, error: HPACKError) -> None:
    """The other one refuses it as well, but for what we are stricter in."""
    if "resized within a block" in str(error):
        return
    try:
        found = theirs.decode(block, raw=True)
    except HPACKError:
        return
    size = sum(32 + len(name) + len(value) for name, value in found)
    assert size > 32_768, "a good block was refused"


def _seeds() -> list[bytes]:
    encoder = Encoder()
    path = [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), ("te", "trailers")]  # codespell:ignore te
    first, again = encoder.encode(path), encoder.encode([*path, ("grpc-timeout", "1S")], huffman=False)
    own = b"\x83\x86" + literal(b":path", b"/t.T/unary") + literal(b"x-bin", b"\xff\0")
    return [joined(first, again, first), joined(own, own), joined(b"\x20\x3f\xe1\x1f\x82", b"\x40\x01a\x011", b"\xbe")]


TARGET: Final = Target(_seeds(), check, ("headrace.rpc.fields", "hpack.hpack"))
