"""What a target of the suite is: good inputs to begin with, and a law that holds for any bytes at all."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from google.protobuf.message import Message

NAMES: Final = ("codec", "payments", "packed", "fields", "server", "client", "registrations", "pairs")


class Target(NamedTuple):
    """One door that bytes come in by."""

    seeds: Sequence[bytes]
    """Good inputs, or what comes near them."""
    check: Callable[[bytes], None]
    """Raises: whatever is not as it must be, AssertionError mostly."""
    about: Sequence[str]
    """Modules that read such bytes: how much of them was reached says how far the search has come."""
    message: type[Message] | None = None
    """What the bytes are, where they are one protobuf message: it can be changed field by field."""


def load(name: str) -> Target:
    """The target of this name: each imports what it is about, and torch is not for all."""
    found: Target = importlib.import_module(f"tests.fuzz.targets.{name}").TARGET
    return found


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


@contextlib.contextmanager
def no_error_of_ours(logger: str, *, but: str = "\0") -> Iterator[None]:
    """Nothing is logged as an error inside, beside lines that begin with `but`."""
    errors, told = _Errors(), logging.getLogger(logger)
    told.addHandler(errors)
    propagates, told.propagate = told.propagate, False
    try:
        yield
    finally:
        told.propagate = propagates
        told.removeHandler(errors)
    found = [line for line in errors.found if not line.startswith(but)]
    assert not found, found
