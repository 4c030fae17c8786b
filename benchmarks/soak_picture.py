"""The picture of a soak with faults: what callers saw, what was done to the cluster, and what its processes held."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOURS: Final = ("#0b6e4f", "#c1121f", "#e09f3e", "#8d6a9f", "#3d5a98", "#4a4a4a", "#2a9d8f")
LEAST_MIB: Final = 50.0
"""Below it lie processes that have only just started."""
RULED: Final = {"alpha": 0.55, "lw": 1.0}
mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "headrace"})


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """`found` as soak_faults.py writes it."""
    figure = Figure(figsize=(10, 10.8), layout="constrained")
    times, rates, paces, levels = figure.subplots(4, 1, sharex=True, height_ratios=(3, 2, 1, 3))
    _draw_latencies(times, found["seconds"])
    _draw_rates(rates, found)
    paces.plot(*zip(*[(at_s / 60, pace) for at_s, pace in found["paces"]], strict=True), ".-", color=COLOURS[5], lw=0.9)
    paces.set(ylabel="machine,\nMiB hashed\na second", ylim=(0, None))
    for place, (name, samples) in enumerate(found["samples"].items()):
        _draw_memory(levels, name, samples, COLOURS[place % len(COLOURS)])
    levels.set(xlabel="minutes", ylabel="resident memory, MiB", yscale="log")
    levels.set_yticks(ticks := [100, 200, 400, 800], [str(tick) for tick in ticks])
    levels.set_yticks([], minor=True)
    levels.legend(loc="upper center", ncols=3, frameon=False)
    levels.set_ylim(LEAST_MIB, levels.get_ylim()[1] * 1.8)  # room for the legend
    names = sorted({fault["name"] for fault in found["faults"]})
    for axes in (times, rates, paces, levels):
        axes.grid(alpha=0.25)
        for fault in found["faults"]:
            axes.axvline(fault["at_s"] / 60, color=COLOURS[names.index(fault["name"])], **RULED)
    marks = [Line2D([], [], color=COLOURS[place], label=name, **RULED) for place, name in enumerate(names)]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, frameon=False, title="faults")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_latencies(axes: Axes, seconds: Sequence[Mapping[str, Any]]) -> None:
    minutes = [one["at_s"] / 60 for one in seconds]
    for rank, colour in (("p99", COLOURS[1]), ("p50", COLOURS[0])):
        values = [np.nan if one[f"{rank}_ms"] is None else one[f"{rank}_ms"] for one in seconds]
        axes.plot(minutes, values, color=colour, lw=0.9, label=f"{rank} of each second")
    axes.set(yscale="log", ylabel="ms from the intended arrival\nto the answer, retries included")
    decades = [tick for tick in (1, 10, 100, 1000, 10000) if tick <= axes.get_ylim()[1]]
    axes.set_yticks(decades, [f"{tick:,}" for tick in decades])
    axes.set_yticks([], minor=True)
    axes.legend(loc="upper right", frameon=False)


def _draw_rates(axes: Axes, found: Mapping[str, Any]) -> None:
    minutes = [one["at_s"] / 60 for one in found["seconds"]]
    axes.plot(minutes, [one["answered"] for one in found["seconds"]], color=COLOURS[4], lw=0.9, label="answered")
    axes.plot(
        minutes, [one["refused"] for one in found["seconds"]], color=COLOURS[2], lw=0.9, label="attempts made again"
    )
    counts = found["counts"]
    lost = counts["payments"] - counts["right"]
    title = f"{counts['payments']:,} payments at {found['offered_rps']:,.0f}/s, {lost:,} without their answer"
    axes.set(ylabel="payments a second,\nby intended arrival", ylim=(0, None))
    axes.set_title(title, fontsize=9, loc="left")
    axes.legend(loc="lower right", frameon=False)


def _draw_memory(axes: Axes, name: str, samples: Sequence[tuple[float, int, float]], colour: str) -> None:
    """A line for each life."""
    lives: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for at_s, pid, mib in samples:
        lives[pid].append((at_s / 60, mib))
    for place, life in enumerate(lives.values()):
        axes.plot(*zip(*life, strict=True), color=colour, lw=1.3, label=name if not place else None)
