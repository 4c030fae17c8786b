"""Traces of up to 100,000 requests a second against headrace's scaling, Serve's own and the CPU's HPA.

    python benchmarks/scale_simulation.py [--quick] [--out build/scale-sim] [--gpu] [--cold]

Prints a table; writes table.md, TRACE.json and two pictures into the folder. The world is in `scale_sim/world.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from scale_sim import pictures
from scale_sim.curves import GOOD, Curve, compared, curves
from scale_sim.policies import CONTENDERS
from scale_sim.replay import Replayed, replay
from scale_sim.traces import TRACES, Trace
from scale_sim.world import CPU, GPU, World
from sheet import Sheet

from headrace.serving import scaling

SEEDS: Final = (1, 2, 3)
PROCESSES: Final = 2
FLASH: Final = "flash-sale"
HURRY_S: Final = 60.0
Found = tuple[Trace, Replayed, list[Curve]]


def main() -> None:
    asked = _arguments()
    world = World(cost=GPU if asked.gpu else CPU, warm_pods=24 if asked.cold else 1_000)
    traces = tuple(trace.within(HURRY_S, HURRY_S / 2) for trace in TRACES) if asked.quick else TRACES
    found = run(world, traces, (1,) if asked.quick else SEEDS)
    asked.out.mkdir(parents=True, exist_ok=True)
    for trace, replayed, drawn in found:
        (asked.out / f"{trace.name}.json").write_text(json.dumps(told(world, trace, replayed, drawn), indent=1) + "\n")
    pictures.draw_curves(asked.out / "misses.png", [(trace, drawn) for trace, _, drawn in found], scaling.BUSY)
    draw_flash(asked.out / "flash-sale.png", world, found)
    table = sheet(found)
    (asked.out / "table.md").write_text(table.markdown() + "\n")
    Console(width=140).print(table.rich())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each trace hurried through within a minute, one seed")
    parser.add_argument("--out", type=Path, default=Path("build/scale-sim"), help="folder of figures and pictures")
    parser.add_argument("--gpu", action="store_true", help="costs of a GPU that nobody has measured")
    parser.add_argument("--cold", action="store_true", help="24 pods are warm: those of new nodes take three minutes")
    return parser.parse_args()


def run(world: World, traces: tuple[Trace, ...], seeds: tuple[int, ...]) -> list[Found]:
    """Each trace in a process of its own, the longest first."""
    jobs = sorted(((world, trace, seeds) for trace in traces), key=lambda job: -job[1].length_s)
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        found = dict(pool.imap_unordered(_replayed, jobs))
    return [(trace, found[trace.name], curves(found[trace.name], CONTENDERS)) for trace in traces]


def _replayed(job: tuple[World, Trace, tuple[int, ...]]) -> tuple[str, Replayed]:
    world, trace, seeds = job
    return trace.name, replay(trace, world, CONTENDERS, seeds)


def told(world: World, trace: Trace, replayed: Replayed, drawn: list[Curve]) -> dict[str, Any]:
    """What a file says of a trace."""
    return {
        "trace": trace.name,
        "says": trace.says,
        "world": dataclasses.asdict(world),
        "compared": compared(drawn, scaling.BUSY),
        "runs": [
            {"policy": name, "setting": setting, **_sums(replayed, number)}
            for number, (name, setting) in enumerate(replayed.runs)
        ],
    }


def _sums(replayed: Replayed, run: int) -> dict[str, list[float]]:
    names = ("arrived", "answered", "refused", "late", "replica_s")
    return {name: [round(float(value), 3) for value in getattr(replayed, name)[run]] for name in names}


def sheet(found: list[Found]) -> Sheet:
    columns = ("trace", "policy", "replica-hours", "missed, %", "lowest–highest", f"replica-hours for {GOOD:.1%}")
    rows = [_row(trace.name, one) for trace, _, drawn in found for one in compared(drawn, scaling.BUSY)]
    return Sheet("Misses at equal replica-hours, or at the least that a policy takes (*)", columns, rows)


def _row(trace: str, one: dict[str, Any]) -> tuple[str, ...]:
    middle, low, high = (f"{100 * share:.3f}" for share in one["missed"])
    hours = f"{one['hours'][0]:.1f}{' *' if one['least'] else ''}"
    good = f"{one['hours_for_good'][0]:.1f}" if one["hours_for_good"] else "-"
    return trace, one["policy"], hours, middle, f"{low}–{high}", good


def draw_flash(path: Path, world: World, found: list[Found]) -> None:
    """Each policy at the setting whose replica-hours come nearest to those of headrace as shipped."""
    trace, replayed, drawn = next(one for one in found if one[0].name == FLASH)
    ours = drawn[0].hours[drawn[0].settings.index(scaling.BUSY), 0]
    shown, begin = [], 0
    for curve in drawn:
        at = int(np.abs(np.log(curve.hours[:, 0] / ours)).argmin())
        label = (
            f"{curve.name}, {curve.knob} {curve.settings[at]:g}: {curve.hours[at, 0]:.1f} h, {curve.missed[at, 0]:.2%}"
        )
        shown.append((begin + at, label))
        begin += len(curve.settings)
    pictures.draw_time(path, trace, replayed, shown, world.cost.full_row_s)


if __name__ == "__main__":
    main()
