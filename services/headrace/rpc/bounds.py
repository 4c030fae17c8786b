"""How much a server takes from those who connect: how many at a time, from one address, how long a message may take.

Counts and decides; who is turned away, and how, is for ports and connections. Each bound is one of the process: where
several share a port, each has its own.
"""

from __future__ import annotations

import ipaddress
import resource
from collections import Counter
from typing import Final, NamedTuple

SHARE_OF_FILES: Final = 0.75
"""Of the files a process may open, for its callers: the rest is for replicas, traces, the ledger and scrapers."""
MOST_FILES: Final = 1 << 20
"""Where a process may open as many as it likes."""
MAX_HANDSHAKES: Final = 1024
"""Of TLS at a time on one port, 20 s each at most: a cryptographic operation and some 50 KB each."""
NETWORK_BITS: Final = 64
"""Of an IPv6 address, beside those of its network (RFC 6177)."""
BOUNDS: Final = (
    "connections", "address", "handshakes", "calls", "message", "metadata", "kept", "slow", "calm", "protocol",
)  # fmt: skip
"""What a peer can run into, as the counter of it is labelled."""


class Bounds(NamedTuple):
    """Of a server. 0 = the default that the field names."""

    connections: int = 0
    """At a time. 0 = three quarters of the files that the process may open."""
    connections_of_one: int = 0
    """From one address. 0 = as many as there may be in all: behind a proxy all callers have one."""
    message_s: float = 30.0
    """For a message from its call's first fields, and for each further one of a stream from its first byte."""

    @property
    def most(self) -> int:
        """Connections at a time."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return self.connections or int((MOST_FILES if files == resource.RLIM_INFINITY else files) * SHARE_OF_FILES)


USUAL: Final = Bounds()


class Crowd:
    """Who is here now, by address."""

    def __init__(self, most: int, most_of_one: int = 0) -> None:
        self._most = most
        self._most_of_one = most_of_one or most
        self._here: Counter[str] = Counter()
        self.size = 0

    def enter(self, address: str) -> str:
        """Let somebody in; else the bound that is reached, and nobody has entered."""
        if self.size >= self._most:
            return "connections"
        if self._here[address] >= self._most_of_one:
            return "address"
        self._here[address] += 1
        self.size += 1
        return ""

    def leave(self, address: str) -> None:
        """Somebody who has entered is gone."""
        self.size -= 1
        self._here[address] -= 1
        if not self._here[address]:
            del self._here[address]


def address_of(host: str) -> str:
    """What connections are counted under: an IPv4 address, or the network of an IPv6 one, which is one customer's."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address) >> NETWORK_BITS << NETWORK_BITS))
