"""What a server answers, by path: the handlers that servicers bring, and what each method asks of its callers.

A rule is kept before a message is: whoever may not call costs a few fields, however much it sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from headrace.rpc import frames
from headrace.rpc.messages import MAX_MESSAGE, Failure, Metadata

if TYPE_CHECKING:
    from headrace.rpc.call import Call

HEAD: Final = 5
"""Bytes before a message: whether it is compressed, and its length."""
PATIENCE_TICKS: Final = 2
"""A message that takes longer is not waited for."""


class Rule(NamedTuple):
    """What a method asks of those who call it. Without one: nothing, and no larger messages than any may have."""

    admit: Callable[[Call], object] | None = None
    """Called when a call's fields are there, and nothing else of it. What it returns, who calls, is kept as the call's
    `caller`. Raises: Failure for a caller who may not."""
    max_message: int = MAX_MESSAGE
    """Bytes of a message, compressed or not."""
    check: Callable[[bytes], None] | None = None
    """Called before a message is parsed. Raises: Failure for one that would cost more than it may."""
    check_above: int = 0
    """Bytes of a message that is parsed without."""


class Details(NamedTuple):
    """What a generic handler is asked about."""

    method: str
    invocation_metadata: Metadata


class Method(NamedTuple):
    """A handler with its rule."""

    handler: Any
    rule: Rule


class Methods:
    """Found by path, and then remembered."""

    def __init__(self, rule_of: Callable[[str], Rule]) -> None:
        self._rule_of = rule_of
        self._generic: list[Any] = []
        self._found: dict[str, Method] = {}

    def add(self, handlers: Iterable[Any]) -> None:
        self._generic.extend(handlers)

    def find(self, path: str) -> Method | None:
        """The method of this name, or None."""
        return self._found.get(path) or self._look_up(path)

    def _look_up(self, path: str) -> Method | None:
        details = Details(path, ())
        handler = next((each for each in (one.service(details) for one in self._generic) if each is not None), None)
        if handler is None:
            return None
        rule = self._rule_of(path)
        handler = handler._replace(
            request_deserializer=_checked(handler.request_deserializer or bytes, rule),
            response_serializer=handler.response_serializer or bytes,
        )
        found = self._found[path] = Method(handler, rule)
        return found


def _checked(parse: Callable[[bytes], Any], rule: Rule) -> Callable[[bytes], Any]:
    check, above = rule.check, rule.check_above
    if check is None:
        return parse

    def checked(message: bytes) -> Any:
        if len(message) > above:
            check(message)
        return parse(message)

    return checked


class TurnedAway:
    """A call of somebody who may not: the bytes of its first message are counted and let go, then `failure` is due.

    Not before: grpc.aio's client makes INTERNAL of a status that overtakes the first message of a stream.
    """

    __slots__ = ("_head", "_left", "_ticks", "failure")

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        self._head = b""
        self._left = HEAD
        self._ticks = 0

    def ends_with(self, data: bytes) -> bool:
        """Whether the message is over after these bytes."""
        if len(self._head) < HEAD:
            self._head += data[: HEAD - len(self._head)]
            if len(self._head) == HEAD:
                self._left += min(frames.UINT32.unpack_from(self._head, 1)[0], MAX_MESSAGE)
        self._left -= len(data)
        return self._left <= 0

    def tick(self) -> bool:
        """Whether it has had time enough."""
        self._ticks += 1
        return self._ticks >= PATIENCE_TICKS
