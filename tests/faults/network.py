"""A network that loses packets, on loopback: nobody is told that a connection is no more."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAY_DROP: Final = os.geteuid() == 0 and shutil.which("iptables") is not None
ESTABLISHED: Final = "01"


@contextlib.contextmanager
def dropped(port: int) -> Iterator[None]:
    """Inside, no packet from or to this port arrives. The rules go with the process that made them, however it ends."""
    rules = [f"INPUT -i lo -p tcp --{side} {port} -j DROP" for side in ("sport", "dport")]
    put, take = (" && ".join(f"iptables -w {act} {rule}" for rule in rules) for act in ("-I", "-D"))
    script = f"trap '' INT TERM; {put} && echo there; read -r _; {take}"
    process = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"there\n", "the rules could not be made"
        yield
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def connected(local: int, remote: int) -> bool:
    """The kernel holds a connection between these ports of loopback, as seen from `local`."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = tuple(int(field.split(":")[1], 16) for field in fields[1:3])
        if ports == (local, remote) and fields[3] == ESTABLISHED:
            return True
    return False
