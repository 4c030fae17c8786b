"""Where replicas listen that share an address: no two on one port, and a clear end of the range."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from headrace import doors
from headrace.errors import StartupError
from headrace.rpc.server import Server
from headrace.serving.listening import listen

HOST = "127.0.0.1"


@pytest.fixture
def ports() -> tuple[int, int]:
    """Three neighbouring ports that nobody has."""
    with ExitStack() as stack:
        while True:
            probes = [stack.enter_context(socket.socket()) for _ in range(3)]
            probes[0].bind((HOST, 0))
            first = probes[0].getsockname()[1]
            try:
                for offset in (1, 2):
                    probes[offset].bind((HOST, first + offset))
            except OSError:
                continue
            break
    return first, first + 2


def replica(ports: tuple[int, int] | None) -> tuple[Server, int]:
    behind = doors.unlocked()
    server = behind.server()
    return server, listen(behind, server, HOST, ports)


def test_replicas_that_share_an_address_take_one_port_each_in_turn(ports: tuple[int, int]) -> None:
    """None of them listens yet, which is when two sockets could still be bound to one port."""
    found = [replica(ports) for _ in range(3)]

    assert [port for _, port in found] == [ports[0], ports[0] + 1, ports[0] + 2]


def test_a_range_that_is_used_up_is_said_in_one_line(ports: tuple[int, int]) -> None:
    one = ports[0], ports[0]
    taken = replica(one)

    with pytest.raises(
        StartupError, match=f"all of {one[0]} to {one[1]} are taken on {HOST}: more replicas than ports"
    ):
        replica(one)
    assert taken[1] == one[0]


def test_without_a_range_any_free_port_does() -> None:
    first, second = replica(None)[1], replica(None)[1]

    assert first != second


def test_an_address_of_another_machine_is_listened_on_within_the_range_all_the_same(ports: tuple[int, int]) -> None:
    """A node's address may be mapped to it."""
    behind = doors.unlocked()
    server = behind.server()

    assert listen(behind, server, "203.0.113.9", ports) == ports[0]
