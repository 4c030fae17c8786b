"""First in the PYTHONPATH of the processes of this suite: the wall clock of each can be stepped while it runs.

By writing nanoseconds into FAULTS_CLOCKS/<process id>. What is written in C and reads the clock by itself sees no step:
nothing of ours is, and monotonic clocks are left alone, as a step of the machine's own clock leaves them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

FOLDER = os.environ.get("FAULTS_CLOCKS")


def step_ns() -> int:
    """How far this process is off."""
    try:
        return int(Path(f"{FOLDER}/{os.getpid()}").read_text())
    except (OSError, ValueError):
        return 0


if FOLDER:
    unstepped_s, unstepped_ns = time.time, time.time_ns
    time.time_ns = lambda: unstepped_ns() + step_ns()
    time.time = lambda: unstepped_s() + step_ns() / 1e9
