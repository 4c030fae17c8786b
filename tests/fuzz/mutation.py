"""Good messages made bad, by a seed: fields at their extremes, left out, doubled, exchanged, cut, grown, or unknown.

Works on any protobuf message by its description alone. What comes out is a message again, and may by chance be a good
one: whoever uses it knows by other means what the right answer would be.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

SIGNED: Final = (0, 1, -1, 2, 127, 128, -(2**31), 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63))
UNSIGNED: Final = (0, 1, 2, 255, 256, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
FLOATS: Final = (0.0, -0.0, 1.5, -1.0, float("nan"), float("inf"), float("-inf"), 3.4e38, -3.4e38, 1e-45)
DOUBLES: Final = (*FLOATS, 1e308, -1e308, 5e-324)
TEXTS: Final = (
    "",
    " ",
    "\0",
    "0",
    "-1",
    "NaN",
    "%s%n",
    "\u202e",
    "é" * 40,
    "😀" * 2000,
    "a" * 5000,
    "1" * 4400,
    "../../x",
)
UNKNOWN: Final = b"\x9a\x06"
"""Field 99, a string: of no message here."""
BITS: Final = {
    Field.CPPTYPE_INT32: (SIGNED, -(2**31), 2**31 - 1),
    Field.CPPTYPE_INT64: (SIGNED, -(2**63), 2**63 - 1),
    Field.CPPTYPE_UINT32: (UNSIGNED, 0, 2**32 - 1),
    Field.CPPTYPE_UINT64: (UNSIGNED, 0, 2**64 - 1),
    Field.CPPTYPE_ENUM: (SIGNED, -(2**31), 2**31 - 1),
}


def mutated(message: M, source: random.Random, sparing: frozenset[str] = frozenset()) -> M:
    """A copy with one to six changes; fields whose names are in `sparing` stay as they are."""
    found = type(message)()
    found.CopyFrom(message)
    for _ in range(source.choice((1, 1, 1, 2, 3, 6))):
        _change(source.choice(list(_within(found))), source, sparing)
    return found


def _within(message: Message) -> Iterator[Message]:
    """The message, and every message inside of it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if _is_map(field):
            inner = value.values() if field.message_type.fields_by_name["value"].message_type else ()
        else:
            inner = value if field.is_repeated else (value,)
        for one in inner:
            yield from _within(one)


def _change(message: Any, source: random.Random, sparing: frozenset[str]) -> None:
    fields = [field for field in message.DESCRIPTOR.fields if field.name not in sparing]
    if not fields or source.random() < 0.05:
        size = source.choice((0, 1, 100))
        message.MergeFromString(UNKNOWN + bytes([size]) + source.randbytes(size))
        return
    field = source.choice(fields)
    if source.random() < 0.1:
        message.ClearField(field.name)
    elif _is_map(field):
        _change_map(message, field, source)
    elif field.is_repeated:
        _change_list(message, field, source)
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, _hostile(field, getattr(message, field.name), source))


def _change_map(message: Any, field: Any, source: random.Random) -> None:
    entries = getattr(message, field.name)
    key_field, value_field = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    key = source.choice(list(entries)) if entries and source.random() < 0.5 else _hostile(key_field, "", source)
    if key in entries and source.random() < 0.3:
        del entries[key]
    elif value_field.message_type is None:
        entries[key] = _hostile(value_field, entries.get(key, 0), source)
    else:
        _change(entries[key], source, frozenset())


def _change_list(message: Any, field: Any, source: random.Random) -> None:
    values = getattr(message, field.name)
    place = source.randrange(len(values)) if len(values) else -1
    what = source.randrange(4)
    if place >= 0 and what == 0:
        del values[place]
    elif place >= 0 and what == 1:
        _append(values, field, values[place])
    elif place >= 0 and what == 2 and field.message_type is None:
        values[place] = _hostile(field, values[place], source)
    elif place >= 0 and what == 2:
        held = list(values)
        source.shuffle(held)
        copies = [type(one).FromString(one.SerializeToString()) for one in held]
        del values[:]
        values.extend(copies)
    elif field.message_type is None:
        values.append(_hostile(field, values[place] if place >= 0 else None, source))
    else:
        values.add()


def _append(values: Any, field: Any, value: Any) -> None:
    if field.message_type is None:
        values.append(value)
    else:
        values.add().CopyFrom(value)


def _hostile(field: Any, now: Any, source: random.Random) -> Any:
    kind = field.cpp_type
    if kind in BITS:
        extremes, least, most = BITS[kind]
        nearby = (now or 0) + source.choice((-1, 1)) if isinstance(now, int) else 0
        value = source.choice((*extremes, nearby, source.randint(least, most)))
        return min(max(value, least), most)
    if kind == Field.CPPTYPE_BOOL:
        return not now
    if kind in (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE):
        return source.choice(FLOATS if kind == Field.CPPTYPE_FLOAT else DOUBLES)
    if field.type == Field.TYPE_BYTES:
        return _hostile_bytes(now or b"", source)
    return source.choice((*TEXTS, (now or "")[:-1], (now or "") + "x", (now or "").upper()))


def _hostile_bytes(now: bytes, source: random.Random) -> bytes:
    cut = source.randrange(len(now) + 1)
    flipped = bytearray(now)
    if flipped:
        flipped[cut % len(flipped)] ^= 1 << source.randrange(8)
    noise = source.randbytes(source.choice((1, 8, 200)))
    return source.choice((b"", now[:cut], now + noise, now * 2, bytes(flipped), noise, b"\xff" * len(now)))


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
