"""Where a replica listens: an address of its machine, and a port that nobody else has."""

from __future__ import annotations

import errno
import logging

from headrace.credentials import is_local
from headrace.doors import Doors
from headrace.errors import StartupError
from headrace.rpc.server import Server

log = logging.getLogger(__name__)


def listen(behind: Doors, server: Server, host: str, ports: tuple[int, int] | None) -> int:
    """Open the first free port of the range, or any; its number. Raises: StartupError.

    Where `host` says; on all interfaces only if that is no address of this machine: a node's may be mapped.
    """
    try:
        return _first_free(behind, server, host, ports)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL or is_local(f"{host}:0"):
            raise StartupError(f"replica.host: {host} can't be listened on ({error})") from error
    log.warning("%s is no address of this machine: the replica listens on all it has", host)
    return _first_free(behind, server, "0.0.0.0", ports)  # noqa: S104  its registered address leads to one of them


def _first_free(behind: Doors, server: Server, host: str, ports: tuple[int, int] | None) -> int:
    """Raises: StartupError when all are taken, OSError for whatever else is wrong with the address."""
    if ports is None:
        return behind.open(server, f"{host}:0")
    first, last = ports
    for number in range(first, last + 1):
        try:
            return behind.open(server, f"{host}:{number}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise StartupError(f"replica.ports: all of {first} to {last} are taken on {host}: more replicas than ports?")
