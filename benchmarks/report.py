"""What results.json says: medians over rounds, headrace against each peer round by round, and which bars are met.

    python benchmarks/report.py [RESULTS.json]

Prints tables and writes them as markdown to report.md beside the results.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import alone
from rich.console import Console
from sheet import Sheet

Run = dict[str, Any]
OURS = "headrace"
NOT_RUN = "-"
"""The load of a row that says why a system was not measured."""


@dataclass(frozen=True)
class Bar:
    """What headrace must reach of a peer's figure in the same round."""

    workload: str
    load: str
    metric: str
    peer: str
    bound: float

    @property
    def wanted(self) -> str:
        return f"{'≥' if self.metric == 'rps' else '≤'} {self.bound:g}"

    def met_by(self, ratio: float) -> bool:
        """More requests are better, more milliseconds are not."""
        return ratio >= self.bound if self.metric == "rps" else ratio <= self.bound


BARS = (
    Bar("W1", "closed-64", "rps", "ray-serve", 3.5),
    Bar("W1", "closed-64", "rps", "mlserver", 1.8),
    Bar("W1", "closed-64", "rps", "triton", 0.75),
    Bar("W1", "closed-1", "p50_ms", "triton", 2.2),
    Bar("W2", "closed-64", "rps", "triton-stock", 2.5),
    Bar("W2", "closed-64", "rps", "triton-expert", 0.75),
)


def publish(results: dict[str, Any], path: Path) -> None:
    compared = [run for run in results["runs"] if is_compared(run)]
    sheets = [figures(compared), bars(compared), *alone.sheets(results)]
    # A file or a pipe has no width of its own, and 80 columns would cut the figures off.
    console = Console(width=None if sys.stdout.isatty() else 160)
    parts = [f"# Benchmarks\n\n{results['hardware']}"]
    console.print(results["hardware"], highlight=False)
    for sheet in sheets:
        console.print(sheet.rich())
        parts.append(sheet.markdown())
    path.write_text("\n\n".join(parts) + "\n")


def is_compared(run: Run) -> bool:
    """Of the comparison with the peers: one gateway, one replica, the peers' workloads."""
    return run.get("workload") in ("W1", "W2") and "replicas" not in run and "gateways" not in run


def figures(runs: list[Run]) -> Sheet:
    """Every workload, load, system and generator: medians over rounds, and how far throughput spread."""
    columns = ("workload", "load", "system", "generator", "inferences/s", "lowest–highest", "p50 ms", "p99 ms")
    columns += ("CPU ms each, about", "errors", "wrong")
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        if "system" in run:
            groups[(run["workload"], run["load"], run["system"], run.get("generator", ""))].append(run)
    ordered = sorted(groups.items(), key=lambda item: place(*item[0]))
    return Sheet("Medians over rounds", columns, [(*key, *cells(found)) for key, found in ordered])


def place(workload: str, load: str, system: str, generator: str) -> tuple[Any, ...]:
    """By workload, concurrency, generator; headrace first; what was not run last."""
    number = load.rsplit("-", 1)[-1]
    return workload, load == NOT_RUN, int(number) if number.isdigit() else 0, load, generator, system != OURS, system


def cells(found: list[Run]) -> tuple[str, ...]:
    # Our own generator tells apart what perf_analyzer calls an error.
    counts = alone.total(found, "errors", "lost", "deadline", "refused"), alone.total(found, "wrong")
    if not (rates := present(found, "rps")):
        return f"not run: {reason(found)}", "", "", "", "", *counts
    spread = f"{min(rates):,.0f}–{max(rates):,.0f}"
    times = (f"{median(values):.2f}" if (values := present(found, name)) else "" for name in ("p50_ms", "p99_ms"))
    return f"{median(rates):,.0f}", spread, *times, cpu_each(found), *counts


def reason(found: list[Run]) -> str:
    """The first line of why: the whole of it is in results.json."""
    lines = str(next((run["note"] for run in found if run.get("note")), "no reason given")).strip().splitlines()
    return lines[0] if lines else "no reason given"


def present(found: list[Run], name: str) -> list[float]:
    return [run[name] for run in found if run.get(name) is not None]


def cpu_each(found: list[Run]) -> str:
    """The system's processor time a request, a little too low: the generator's own start counts as time, at no load."""
    whole = [run for run in found if run.get("rps") and run.get("cpu_s") is not None and run.get("wall_s")]
    return f"{median(run['cpu_s'] / run['wall_s'] / run['rps'] for run in whole) * 1e3:.2f}" if whole else ""


def bars(runs: list[Run]) -> Sheet:
    columns = ("workload", "load", "of", "headrace ÷", "median", "lowest–highest", "rounds", "bar", "met")
    return Sheet("headrace against its peers, paired by round", columns, [bar_row(bar, runs) for bar in BARS])


def bar_row(bar: Bar, runs: list[Run]) -> tuple[str, ...]:
    named = bar.workload, bar.load, bar.metric, bar.peer
    if not (found := ratios(bar, runs)):
        return *named, "", "", "0", bar.wanted, "not measured"
    middle = median(found)
    spread = f"{min(found):.2f}–{max(found):.2f}"
    return *named, f"{middle:.2f}", spread, str(len(found)), bar.wanted, "yes" if bar.met_by(middle) else "**no**"


def ratios(bar: Bar, runs: list[Run]) -> list[float]:
    """headrace ÷ peer for each round in which both were measured, by the same generator."""
    mine = [run for run in runs if (run.get("workload"), run.get("load")) == (bar.workload, bar.load)]
    generator = preferred(mine)
    ours, theirs = (values(mine, system, generator, bar.metric) for system in (OURS, bar.peer))
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())]


def preferred(runs: list[Run]) -> str:
    """perf_analyzer where it measured anything: it takes less of the machine than our own."""
    used = {run.get("generator") for run in runs if run.get("rps")}
    return "perf_analyzer" if "perf_analyzer" in used else OURS


def values(runs: list[Run], system: str, generator: str, metric: str) -> dict[int, float]:
    return {
        run["round"]: run[metric]
        for run in runs
        if (run.get("system"), run.get("generator")) == (system, generator) and run.get(metric)
    }


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "build/bench/results.json")
    publish(json.loads(path.read_text()), path.with_name("report.md"))


if __name__ == "__main__":
    main()
