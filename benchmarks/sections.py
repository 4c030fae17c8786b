"""What is measured on headrace alone: python benchmarks/sections.py NAME [--engine ray|local]. Prints JSON.

This is the one place to add a section: an `async def measure(cluster)` over a running cluster that serves its models.
Each runs in a process of its own: Ray forks, and a fork beside the gRPC threads of an earlier section may hang.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import memory
import tracing_cost

from headrace import config
from headrace.cluster import Cluster

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    measure: Callable[[Cluster], Awaitable[Any]]
    """A list of rows joins the results' `runs`; anything else stands there under the section's name."""
    models: tuple[str, ...] = ("w1-encoder",)


SECTIONS = {
    "tracing": Section(tracing_cost.measure),
    "memory": Section(memory.measure),
}


async def measure(name: str, engine: str) -> Any:
    section = SECTIONS[name]
    with tempfile.TemporaryDirectory() as traces:
        async with Cluster(settings(section.models, engine, Path(traces))) as cluster:
            return await section.measure(cluster)


def settings(models: tuple[str, ...], engine: str, traces: Path) -> config.Settings:
    return config.load(
        None,
        {},
        engine=engine,
        model_dirs=[HERE / "repository"],
        only=list(models),
        gateway__port=0,
        gateway__metrics_port=0,
        control__port=0,
        telemetry__trace_dir=traces,
        telemetry__log_level="ERROR",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(SECTIONS))
    parser.add_argument("--engine", default="ray", choices=["ray", "local"])
    options = parser.parse_args()
    json.dump(asyncio.run(measure(options.name, options.engine)), sys.stdout)


if __name__ == "__main__":
    main()
