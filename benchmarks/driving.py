"""Runs the generator as a process of its own, and gives back what it found."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PATIENT_MS = 10_000.0
"""The deadline of a closed loop: its callers wait for their answer before they ask again."""


async def open_loop(address: str, questions: Path, rate: float, seconds: float, **options: Any) -> dict[str, Any]:
    """Poisson arrivals at `rate` a second. `options`: the other flags of open_loop.py, with underscores."""
    return await _generate(address, questions, rate=rate, seconds=seconds, **options)


async def closed_loop(
    address: str, questions: Path, concurrency: int, seconds: float, deadline_ms: float = PATIENT_MS
) -> dict[str, Any]:
    return await _generate(address, questions, concurrency=concurrency, seconds=seconds, deadline_ms=deadline_ms)


async def _generate(address: str, questions: Path, **options: Any) -> dict[str, Any]:
    """Raises: RuntimeError when the generator failed. Cancellation: it is killed."""
    command = [str(HERE / "open_loop.py"), "--address", address, "--questions", str(questions)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    try:
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the generator ended with {process.returncode}")
    result: dict[str, Any] = json.loads(printed)
    return result
