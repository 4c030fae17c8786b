"""Two pictures: misses against replica-hours of every trace, and replicas over time while a sale opens."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scale_sim.curves import LEAST, Curve
from scale_sim.policies import OURS
from scale_sim.replay import Replayed
from scale_sim.traces import Trace
from scale_sim.world import TICK_S

STYLES: Final = (("#0b6e4f", "o"), ("#c1121f", "s"), ("#e09f3e", "D"), ("#8d6a9f", "v"), ("#3d5a98", "^"))
"""Colour and marker of each contender: told apart in grey as well."""
FLOOR: Final = 1e-6
"""Where shares below it are drawn: less than a hundred requests of a day."""
mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "headrace"})


def draw_curves(path: Path, found: list[tuple[Trace, list[Curve]]], shipped: float) -> None:
    figure = Figure(figsize=(10, 8), layout="constrained")
    for axes, (trace, curves) in zip(figure.subplots(2, 2).flat, found, strict=True):
        for curve, (colour, marker) in zip(curves, STYLES, strict=True):
            _draw_curve(axes, curve, colour, marker, shipped)
        axes.set(xscale="log", yscale="log", ylim=(FLOOR / 1.6, 1.0), xlabel="replica-hours", ylabel="requests missed")
        axes.set_title(f"{trace.name}: {trace.says}", fontsize=9, loc="left")
        axes.grid(which="major", alpha=0.25)
        _plain(axes)
    lines, labels = axes.get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)


def _draw_curve(axes: Axes, curve: Curve, colour: str, marker: str, shipped: float) -> None:
    """Every setting, its seeds from lowest to highest, and a line through the settings that no other beats."""
    hours = np.median(curve.hours, axis=1)
    missed = np.maximum(curve.missed, FLOOR)
    middle = np.median(missed, axis=1)
    bars = np.stack([middle - missed.min(axis=1), missed.max(axis=1) - middle])
    axes.errorbar(hours, middle, bars, color=colour, marker=marker, markersize=4.5, lw=0, elinewidth=0.8, alpha=0.75)
    best_hours, best = curve.best()
    axes.plot(
        best_hours, np.maximum(best, FLOOR), color=colour, marker=marker, markersize=4.5, lw=1.4, label=curve.name
    )
    if curve.name == OURS:
        at = curve.settings.index(shipped)
        ring = {"markersize": 11, "mfc": "none", "mec": colour, "lw": 0}
        axes.plot(hours[at], middle[at], marker="o", label="headrace as shipped", **ring)


def _plain(axes: Axes) -> None:
    """Few round numbers instead of powers of ten."""
    low, high = axes.get_xlim()
    ticks = [tick for tick in (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 80, 150, 300) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    shares = 10.0 ** np.arange(-5, 1)
    axes.set_yticks([FLOOR, *shares], ["none", *(f"{share:.3g} %" for share in 100 * shares)])
    axes.set_yticks([], minor=True)


def draw_time(path: Path, trace: Trace, replayed: Replayed, shown: list[tuple[int, str]], needed: float) -> None:
    """`shown` are entries of the runs and their labels; `needed` is how many replicas a request a second keeps busy."""
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    seconds = np.arange(len(replayed.rates)) * TICK_S
    above.fill_between(
        seconds, replayed.rates * needed, color="0.88", label="replicas that full batches would keep busy"
    )
    for (run, label), (colour, _) in zip(shown, STYLES, strict=True):
        above.plot(seconds, replayed.serving[:, run], color=colour, lw=1.5, drawstyle="steps-post", label=label)
        missed = replayed.missed[:, run].reshape(-1, round(5 / TICK_S)).sum(axis=1) / 5
        below.plot(seconds[:: round(5 / TICK_S)], np.maximum(missed, LEAST), color=colour, lw=1.5)
    above.set(ylabel="replicas that serve", ylim=(0, None), title=f"{trace.name}: {trace.says}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    below.set(
        xlabel="seconds",
        ylabel="missed a second (means of 5 s)",
        yscale="symlog",
        ylim=(0, 1.2e5),
        xlim=(0, seconds[-1]),
    )
    for axes in (above, below):
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=110)
