"""`make bench`: headrace beside its peers, then headrace alone. Writes build/bench/results.json and report.md.

QUICK (`make bench QUICK=1`) is the comparison alone, in fewer and shorter rounds. `make bench-setup` comes first:
without it the peers' rows say that they were not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ceiling
import comparison
import machine
import report
import sections
from rich.console import Console

HERE = Path(__file__).parent
OUT = Path("build/bench")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    plan = comparison.QUICK if options.quick else comparison.FULL
    plan = dataclasses.replace(plan, names=tuple(options.systems), rounds=options.rounds or plan.rounds)
    # Below /tmp: a perf_analyzer in a container sees that much of the machine.
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder:
        runs = comparison.compare(plan, options.engine, Path(folder))
    results = {"hardware": machine.hardware(), "engine": options.engine, "quick": options.quick, "runs": runs}
    if options.quick:
        return results
    runs += ceiling.measure(plan.seconds)
    for name in sections.SECTIONS:
        add(results, name, in_a_process(name, options.engine))
    return results


def add(results: dict[str, Any], name: str, outcome: dict[str, Any]) -> None:
    if "note" in outcome:
        results.setdefault("notes", {})[name] = outcome["note"]
    elif isinstance(outcome["found"], list):
        results["runs"] += outcome["found"]
    else:
        results[name] = outcome["found"]


def in_a_process(name: str, engine: str) -> dict[str, Any]:
    """A section's outcome. Its stderr, with its progress, is ours."""
    Console(stderr=True).rule(name)
    command = [sys.executable, str(HERE / "sections.py"), name, "--engine", engine]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"note": f"failed: its process ended with {done.returncode}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="ray", choices=["ray", "local"], help="of headrace's replicas")
    parser.add_argument("--quick", action="store_true", default=bool(os.environ.get("QUICK")))
    parser.add_argument("--rounds", type=int, help="instead of the plan's")
    parser.add_argument("--systems", nargs="*", default=[], metavar="NAME", help="measure these systems only")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    results = measure(options)
    (OUT / "results.json").write_text(json.dumps(results, indent=1))
    report.publish(results, OUT / "report.md")


if __name__ == "__main__":
    main()
