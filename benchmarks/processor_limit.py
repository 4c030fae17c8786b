"""A control group that gives its processes a part of a processor, and little where others want it, as a pod's does.

Both versions of control groups; only who may write to them (root, mostly) can use it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
PERIOD_US: Final = 100_000
"""The kernel's own, and Kubernetes'."""
LEAST: Final = "2"
"""Of the shares, or of the weight. Not `cpu.idle`: beside a limit it made threads that wake up wait, on Linux 6.18."""


@contextlib.contextmanager
def limited(processors: float) -> Iterator[Sequence[str]]:
    """What to put before a command that is to be held so. Raises: OSError where there are no groups to be written."""
    quota_us = int(processors * PERIOD_US)
    legacy = (ROOT / "cpu" / "cpu.cfs_quota_us").parent if (ROOT / "cpu").is_dir() else None
    group = (legacy or ROOT) / f"headrace-{os.getpid()}"
    group.mkdir()
    try:
        if legacy:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        (group / ("cpu.shares" if legacy else "cpu.weight")).write_text(LEAST)
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "limited"]
    finally:
        group.rmdir()
