"""Header fields on the wire (HPACK, RFC 7541): a decoder that remembers, and an encoder without a memory.

The Huffman code and the tables are the `hpack` library's. A gRPC client opens every call with the same few references
to the table, so what these stand for is looked up once.
"""

from __future__ import annotations

import logging
import re
from typing import Final

from hpack import Decoder, HPACKError
from hpack.table import HeaderTable

# At DEBUG the library writes every field that it decodes, and tokens are among them.
logging.getLogger("hpack").setLevel(logging.INFO)

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]

MAX_DECODED: Final = 32_768
"""Bytes of a block's fields, decoded: names, values and 32 a field. One with more ends the connection."""
MAX_REMEMBERED: Final = 64
LONGEST_REMEMBERED: Final = 64
"""Bytes: a call begins with far fewer; more would only fill memory, up to a thousandfold."""
REFERENCES: Final = re.compile(rb"[\x80-\xfe]*")
"""References of one byte to entries of the table: most blocks begin with several, many have nothing else."""
THREE_SIZES: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){3}")
"""The table is resized twice in a block at most (RFC 7541, 4.2): the smallest size, and the last."""


class FieldsDecoder:
    """The fields of one connection, in the order in which their blocks have come."""

    def __init__(self) -> None:
        self._table = _Table()
        self._decoder = Decoder(MAX_DECODED)
        self._decoder.header_table = self._table
        self._remembered: dict[bytes, Fields] = {}

    def decode(self, block: bytes) -> Fields:
        """The fields of one block. Raises: hpack.HPACKError; the connection's table is then lost."""
        match = REFERENCES.match(block)
        assert match is not None, "This is a bug."
        references = match.group()
        fields = self._remembered.get(references) or self._look_up(references)
        if len(references) == len(block):
            return fields
        plain, at = _plain(block, len(references))
        fields += plain
        if at < len(block):
            fields += self._decode(block[at:], first=not at)
        return fields

    def _decode(self, block: bytes, *, first: bool) -> Fields:
        """Anything at all. `first` = nothing has gone before in its block."""
        resized = block[0] & 0xE0 == 0x20
        if resized and (not first or THREE_SIZES.match(block)):
            raise HPACKError("the table is resized within a block, or again and again")
        fields = tuple(self._decoder.decode(block, raw=True))
        if resized or self._table.changed:
            self._table.changed = False
            self._remembered.clear()
        return fields

    def _look_up(self, references: bytes) -> Fields:
        fields: Fields = tuple(self._decoder.decode(references, raw=True))
        if len(self._remembered) < MAX_REMEMBERED and len(references) <= LONGEST_REMEMBERED:
            self._remembered[references] = fields
        return fields


class _Table(HeaderTable):
    """Says when it has taken an entry: what references stood for until then may mean something else now."""

    changed = False

    def add(self, name: bytes, value: bytes) -> None:
        self.changed = True
        super().add(name, value)


def _plain(block: bytes, at: int) -> tuple[Fields, int]:
    """The literals that follow, and where they end: short, neither indexed nor Huffman-coded, as metadata mostly is."""
    found = []
    end = len(block) - 3
    while at <= end and block[at] in (0x00, 0x10):
        name_end = at + 2 + block[at + 1]
        if block[at + 1] >= 0x7F or name_end >= len(block) or block[name_end] >= 0x7F:
            break
        value_end = name_end + 1 + block[name_end]
        if value_end > len(block):
            break
        found.append((block[at + 2 : name_end], block[name_end + 1 : value_end]))
        at = value_end
    return tuple(found), at


def literal(name: bytes, value: bytes) -> bytes:
    """A field that neither needs nor alters a table, not Huffman-coded (RFC 7541, 6.2.2): right in any order."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    """A length in seven bits, or in as many groups of seven as it takes (RFC 7541, 5.1)."""
    if size < 0x7F:
        return bytes((size,))
    groups = bytearray((0x7F,))
    size -= 0x7F
    while size >= 0x80:
        groups.append(0x80 | size & 0x7F)
        size >>= 7
    groups.append(size)
    return bytes(groups)
