"""What the machine says of itself and of processes: the hardware, free ports, children, processor time, memory."""

from __future__ import annotations

import os
import platform
import socket
from collections import defaultdict
from pathlib import Path

import torch

TICKS_S = os.sysconf("SC_CLK_TCK")


def hardware() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}, torch {torch.__version__}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on. Raises: OSError when there is no such process."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def cpu_seconds(pid: int) -> float:
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def family(root: int) -> list[int]:
    """`root`, all that descend from it, and whoever is left of the session that it led."""
    children, waiting = defaultdict(list), [root]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields, pid = stat_fields(int(entry.name)), int(entry.name)
            except OSError:  # gone since it was listed
                continue
            children[int(fields[1])].append(pid)
            if int(fields[3]) == root:
                waiting.append(pid)
    found: dict[int, None] = {}
    while waiting:
        if (pid := waiting.pop(0)) not in found:
            found[pid] = None
            waiting += children[pid]
    return list(found)


def spent_by(pids: list[int]) -> dict[int, float]:
    """Processor seconds so far of each that still lives."""
    spent = {}
    for pid in pids:
        try:
            spent[pid] = cpu_seconds(pid)
        except OSError:
            continue
    return spent
