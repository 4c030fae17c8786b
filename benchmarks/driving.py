"""Runs a script here as a process of its own, the generator above all, and gives back what it printed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PATIENT_MS = 10_000.0
"""The deadline of a closed loop: its callers wait for their answer before they ask again."""
STOP_S = 30.0
"""A script that has started a cluster stops that first."""


async def open_loop(address: str, questions: Path, rate: float, seconds: float, **options: Any) -> dict[str, Any]:
    """Poisson arrivals at `rate` a second. `options`: the other flags of open_loop.py, with underscores."""
    return await _generate(address=address, questions=questions, rate=rate, seconds=seconds, **options)


async def closed_loop(
    address: str, questions: Path, concurrency: int, seconds: float, deadline_ms: float = PATIENT_MS
) -> dict[str, Any]:
    return await _generate(
        address=address, questions=questions, concurrency=concurrency, seconds=seconds, deadline_ms=deadline_ms
    )


async def _generate(**options: Any) -> dict[str, Any]:
    found: dict[str, Any] = await printed(script("open_loop.py", **options))
    return found


def script(name: str, **options: Any) -> list[str]:
    """The command that runs a script of this folder; `options` are its flags, with underscores."""
    words = [sys.executable, str(HERE / name)]
    for flag, value in options.items():
        words += [f"--{flag.replace('_', '-')}", str(value)]
    return words


async def printed(command: Sequence[str]) -> Any:
    """The JSON a process printed. Raises: RuntimeError when it failed. Cancellation: it is ended."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        said, _ = await process.communicate()
    finally:
        await _end(process)
    if process.returncode:
        raise RuntimeError(f"{Path(command[1]).name} ended with {process.returncode}")
    return json.loads(said)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
