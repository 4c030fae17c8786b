"""The report's tables of headrace alone: W3, W4, W5, scaling, and what else its sections found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from sheet import Sheet

Run = dict[str, Any]
GOODPUT_AT_2X, P99_AT_2X_MS, REFUSAL_AT_3X_MS = 0.90, 50.0, 5.0
NO_WORSE = 0.10
SETUPS = {(1, 1): "1 replica", (2, 1): "2 replicas", (4, 1): "4 replicas", (1, 2): "2 gateways"}
"""(replicas, gateways); a set is compared with the smaller ones, which stand before it and lie within it."""


def sheets(results: dict[str, Any]) -> list[Sheet]:
    """Of what was measured; one that was not has no table."""
    runs = results["runs"]
    made = [overload(of(runs, "W3")), payments(of(runs, "W4")), bursts(of(runs, "W5")), scaling(runs)]
    parts: tuple[tuple[str, Callable[[Any], Sheet]], ...] = (
        ("budget", budget),
        ("hot_path", hot_path),
        ("tracing", tracing),
        ("memory", memory),
        ("ragged", padding),
    )
    made += [make(results[name]) for name, make in parts if name in results]
    made.append(Sheet("Not measured", ("section", "why"), list(results.get("notes", {}).items())))
    return [sheet for sheet in made if sheet.rows]


def of(runs: list[Run], workload: str) -> list[Run]:
    return [run for run in runs if run.get("workload") == workload]


def verdict(met: bool | None) -> str:  # noqa: FBT001
    return "not measured" if met is None else "yes" if met else "**no**"


def middle(found: list[Run], name: str, digits: int = 1) -> str:
    return number(median_of(found, name), digits)


def median_of(found: list[Run], name: str) -> float | None:
    values = [run[name] for run in found if run.get(name) is not None]
    return median(values) if values else None


def number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def spread(found: list[Run], name: str, digits: int = 0) -> str:
    values = [run[name] for run in found if run.get(name) is not None]
    return f"{min(values):,.{digits}f}–{max(values):,.{digits}f}" if values else ""


def total(found: list[Run], *names: str) -> str:
    return str(sum(run.get(name) or 0 for run in found for name in names))


def by_load(runs: list[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: number_in(run["load"])):
        groups[run["load"]].append(run)
    return groups


def number_in(load: str) -> float:
    """`closed-64` → 64, `poisson-1.5x` → 1.5; bursts have none."""
    digits = load.rsplit("-", 1)[-1].removesuffix("x")
    return float(digits) if digits.replace(".", "", 1).isdigit() else 0.0


# W3 -------------------------------------------------------------------------------------------------------------------


def overload(runs: list[Run]) -> Sheet:
    columns = ("load", "offered/s", "goodput/s", "of that at 1x", "p50 ms", "p99 ms", "refused", "refusal p50 ms")
    columns += ("refusal p99 ms", "wrong", "lost", "bar", "met")
    rows = [overload_row(load, found, runs) for load, found in by_load(runs).items()]
    return Sheet("W3: fraud-tx under overload, deadlines of 50 ms; medians over rounds", columns, rows)


def overload_row(load: str, found: list[Run], runs: list[Run]) -> tuple[str, ...]:
    share = paired_share(found, runs)
    bar, met = overload_bar(load, found, share)
    return (
        load,
        middle(found, "offered_rps", 0),
        refusing(found) or middle(found, "goodput_rps", 0),
        number(share, 2),
        middle(found, "p50_ms"),
        middle(found, "p99_ms"),
        total(found, "refused"),
        middle(found, "refused_sent_p50_ms", 2),
        middle(found, "refused_sent_p99_ms", 2),
        total(found, "wrong"),
        total(found, "lost"),
        bar,
        met,
    )


def refusing(found: list[Run]) -> str:
    """Of the load that is only refused: how fast, and what each costs."""
    if "refuse_rps" not in found[0]:
        return ""
    cost = middle(found, "gateway_cpu_us_per_refusal", 0)
    return f"{middle(found, 'refuse_rps', 0)} refusals/s, {cost} µs of the gateway each"


def paired_share(found: list[Run], runs: list[Run]) -> float | None:
    """Goodput as a share of that at 1x in the same round."""
    base = {run["round"]: run["goodput_rps"] for run in runs if run["load"] == "poisson-1.0x"}
    shares = [run["goodput_rps"] / base[run["round"]] for run in found if base.get(run.get("round"))]
    return median(shares) if shares else None


def overload_bar(load: str, found: list[Run], share: float | None) -> tuple[str, str]:
    if load == "poisson-2.0x":
        p99 = median_of(found, "p99_ms")
        met = None if share is None or p99 is None else share >= GOODPUT_AT_2X and p99 <= P99_AT_2X_MS
        return f"goodput ≥ {GOODPUT_AT_2X:.2f} of 1x, p99 ≤ {P99_AT_2X_MS:g} ms", verdict(met)
    if load == "poisson-3.0x":
        p99 = median_of(found, "refused_sent_p99_ms")
        return f"refusal p99 ≤ {REFUSAL_AT_3X_MS:g} ms", verdict(None if p99 is None else p99 <= REFUSAL_AT_3X_MS)
    return "", ""


# W4, W5 ---------------------------------------------------------------------------------------------------------------


def payments(runs: list[Run]) -> Sheet:
    columns = ("load", "inferences/s", "p50 ms", "p99 ms", "wrong", "errors, lost")
    rows = [
        (
            load,
            middle(found, "rps", 0),
            middle(found, "p50_ms"),
            middle(found, "p99_ms"),
            total(found, "wrong"),
            total(found, "errors", "lost", "deadline", "refused"),
        )
        for load, found in by_load(runs).items()
    ]
    return Sheet("W4: fraud-tx on payments as they come", columns, rows)


def bursts(runs: list[Run]) -> Sheet:
    columns = ("load", "when", "right", "p50 ms", "p99 ms", "refused", "wrong", "lost", "recovered after ms")
    rows = [
        (
            load,
            where,
            middle(found, f"{where}_right_share", 4),
            middle(found, f"{where}_p50_ms"),
            middle(found, f"{where}_p99_ms"),
            total(found, f"{where}_refused"),
            total(found, "wrong"),
            total(found, "lost"),
            middle(found, "recovery_ms", 0) or "never",
        )
        for load, found in by_load(runs).items()
        for where in ("inside", "outside")
    ]
    return Sheet("W5: 0.3 of the capacity, ten times that for 200 ms every 2 s", columns, rows)


# Scaling --------------------------------------------------------------------------------------------------------------


def scaling(runs: list[Run]) -> Sheet:
    mine = [run for run in runs if "replicas" in run]
    columns = ("load", "set", "inferences/s", "lowest–highest", "p99 ms", "lowest–highest", "wrong", "errors, lost")
    title = f"W1 with more processes on the same cores; bar: within {NO_WORSE:.0%} of the best smaller set"
    rows = [row for load, found in by_load(mine).items() for row in scaling_rows(load, found)]
    return Sheet(title, (*columns, "met"), rows)


def scaling_rows(load: str, found: list[Run]) -> Iterator[tuple[str, ...]]:
    sets = {setup: [run for run in found if (run["replicas"], run["gateways"]) == setup] for setup in SETUPS}
    for setup, name in SETUPS.items():
        if not (mine := sets[setup]):
            continue
        figures = middle(mine, "rps", 0), spread(mine, "rps"), middle(mine, "p99_ms"), spread(mine, "p99_ms", 1)
        faults = total(mine, "wrong"), total(mine, "errors", "lost", "deadline", "refused")
        yield load, name, *figures, *faults, holds(setup, sets)


def holds(setup: tuple[int, int], sets: dict[tuple[int, int], list[Run]]) -> str:
    """Whether a set is no worse than the best smaller one, in throughput and in p99."""
    smaller = [runs for other, runs in sets.items() if runs and is_smaller(other, setup)]
    if not smaller:
        return ""
    rps, p99_ms = median_of(sets[setup], "rps"), median_of(sets[setup], "p99_ms")
    best_rps = max(median_of(runs, "rps") or 0.0 for runs in smaller)
    best_p99_ms = min(median_of(runs, "p99_ms") or float("inf") for runs in smaller)
    if rps is None or p99_ms is None:
        return verdict(None)
    return verdict(rps >= best_rps * (1 - NO_WORSE) and p99_ms <= best_p99_ms * (1 + NO_WORSE))


def is_smaller(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]


# The rest -------------------------------------------------------------------------------------------------------------


def budget(found: dict[str, Any]) -> Sheet:
    """A column a load."""
    loads = list(found.values())
    rows = [
        (f"{name}, µs", *(number(load["stages_us"].get(name)) for load in loads)) for name in names(loads, "stages_us")
    ]
    rows.append(("rows per batch", *(number(load["rows_per_batch"], 0) for load in loads)))
    rows += [
        (f"CPU of {name}, µs", *(number(load["cpu_us"].get(name)) for load in loads)) for name in names(loads, "cpu_us")
    ]
    rows.append(("inferences/s", *(number(load["rps"], 0) for load in loads)))
    return Sheet("Where a request's time goes (W1, medians of each stage)", ("", *found), rows)


def hot_path(found: dict[str, dict[str, float]]) -> Sheet:
    steps = dict.fromkeys(step for column in found.values() for step in column)
    rows = [(step, *(number(column.get(step)) for column in found.values())) for step in steps]
    return Sheet("The gateway's own Python apart from grpc, µs a request", ("step", *found), rows)


def names(loads: list[dict[str, Any]], part: str) -> list[str]:
    return list(dict.fromkeys(name for load in loads for name in load[part]))


def tracing(found: dict[str, Any]) -> Sheet:
    columns = ("metric", "on ÷ off", "lowest–highest", "on − off")
    rows = [
        (name, f"{at['ratio']:.2f}", f"{at['lowest']:.2f}–{at['highest']:.2f}", f"{at['difference']:+.1f}")
        for name, at in found["median"].items()
    ]
    return Sheet("What tracing costs, medians over pairs", columns, rows)


def memory(found: dict[str, float]) -> Sheet:
    return Sheet("The gateway's memory", ("", "MiB"), [(name, number(mib)) for name, mib in found.items()])


def padding(found: dict[str, Any]) -> Sheet:
    columns = ("model", "bucketed, rows/s", "padded to the cap, rows/s", "ratio", "lowest–highest")
    rows = [
        (
            model,
            number(at["bucketed_rows_s"], 0),
            number(at["padded_rows_s"], 0),
            number(at["ratio"], 2),
            f"{at['lowest']:.2f}–{at['highest']:.2f}",
        )
        for model, at in found.items()
    ]
    return Sheet("What padding costs", columns, rows)
