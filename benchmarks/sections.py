"""What is measured on headrace alone: python benchmarks/sections.py NAME [--engine ray|local]. Prints JSON.

This is the one place to add a section: an async function of the engine. Each runs in a process of its own: Ray forks,
and a fork beside the gRPC threads of an earlier section may hang. Progress goes to stderr; the last line of stdout is
`{"found": …}`, or `{"note": why it failed}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import budget
import bursts
import clusters
import hot_path
import memory
import overload
import payments
import ragged
import scaling
import tracing_cost

from headrace.cluster import Cluster

Section = Callable[[str], Awaitable[Any]]
"""A list of rows joins the results' `runs`; anything else stands there under the section's name."""
LONGEST_S = 600.0
"""A section that hangs must not take the others' figures with it."""
W1, FRAUD = "w1-encoder", "fraud-tx"


def on_a_cluster(measure: Callable[[Cluster], Awaitable[Any]], *models: str) -> Section:
    """A section that measures a running cluster of these models."""

    async def section(engine: str) -> Any:
        with clusters.settings(engine, *models) as settings:
            async with Cluster(settings) as cluster:
                return await measure(cluster)

    return section


def without_a_cluster(measure: Callable[[], Any]) -> Section:
    async def section(_: str) -> Any:
        return await asyncio.to_thread(measure)

    return section


SECTIONS: dict[str, Section] = {
    "overload": on_a_cluster(overload.measure, FRAUD),
    "payments": on_a_cluster(payments.measure, FRAUD),
    "bursts": on_a_cluster(bursts.measure, W1),
    "scaling": scaling.measure,
    "budget": on_a_cluster(budget.measure, W1),
    "hot_path": without_a_cluster(hot_path.measure),
    "tracing": on_a_cluster(tracing_cost.measure, W1),
    "memory": on_a_cluster(memory.measure, W1),
    "ragged": without_a_cluster(ragged.measure),
}


async def outcome(section: Section, engine: str) -> dict[str, Any]:
    """What it found, or why it found nothing."""
    try:
        async with asyncio.timeout(LONGEST_S):
            return {"found": await section(engine)}
    except Exception as error:  # noqa: BLE001  whatever it was, the report says so and the other sections go on
        traceback.print_exc()
        return {"note": f"failed: {type(error).__name__}: {error}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(SECTIONS))
    parser.add_argument("--engine", default="ray", choices=["ray", "local"])
    options = parser.parse_args()
    print(json.dumps(asyncio.run(outcome(SECTIONS[options.name], options.engine))))


if __name__ == "__main__":
    main()
