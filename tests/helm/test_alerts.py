"""Every alert fires in a world that is wrong, and is silent in one that is nearly so: promtool evaluates the rules.

A world is a healthy one, two gateways and two versions of a model, with some of its series changed. What is expected is
always the whole set of alerts that fire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from tests.helm import promtool
from tests.helm.chart import merged
from tests.helm.conftest import Rendered
from tests.helm.promtool import needs_promtool
from tests.helm.release import Release

VALUES: Final = {
    "telemetry": {"rules": {"enabled": True}},
    "models": [
        {"name": "fraud-tx", "version": "1", "group": "cpu", "autoscaling": {"minReplicas": 1, "maxReplicas": 4}},
        {"name": "fraud-tx", "version": "2", "group": "cpu", "replicas": 1},
    ],
    "gateway": {"autoscaling": {"hpa": {"enabled": True, "minReplicas": 2, "maxReplicas": 2}}},
}
KEDA: Final = {"gateway": {"autoscaling": {"hpa": {"enabled": False}, "keda": {"enabled": True, "maxReplicas": 2}}}}
PODS: Final = ("a", "b")
ONE, TWO = {"model": "fraud-tx", "version": "1"}, {"model": "fraud-tx", "version": "2"}
CAUSES: Final = ("gateway", "replicas")
REQUESTS: Final = "headrace_request_duration_seconds"
LAG: Final = "headrace_event_loop_lag_seconds_bucket"


class Line(NamedTuple):
    """One series: a value a minute, in promtool's notation (`0+60x30`: from 0, 60 more each minute, 30 times)."""

    name: str
    labels: Mapping[str, str]
    values: str


class Change(NamedTuple):
    """Other values for every series of a name that has these labels; None: there is no such series."""

    name: str
    values: str | None
    labels: Mapping[str, str] = {}


def each_gateway() -> Iterable[Line]:
    yield Line("headrace_control_connected", {}, "1x200")
    yield Line("headrace_event_loop_busy_ratio", {}, "0.5x200")
    yield Line("headrace_policy_revision", {"model": "fraud-tx"}, "3x200")
    yield Line("headrace_telemetry_spans_total", {"result": "exported"}, "0+9000x200")
    yield Line("headrace_telemetry_spans_total", {"result": "failed"}, "0x200")
    yield Line("headrace_telemetry_spans_total", {"result": "rejected"}, "0x200")
    yield Line("headrace_telemetry_dropped_requests_total", {}, "0x200")
    yield Line("headrace_pairs_waiting", {}, "40x200")
    yield Line("headrace_pairs_total", {"result": "told"}, "0+600x200")
    yield Line("headrace_pairs_total", {"result": "lost"}, "7x200")
    yield Line("headrace_shadow_rows", TWO, "12x200")
    yield Line("headrace_canary_passed_over_total", {"model": "fraud-tx", "reason": "no_entity"}, "0+30x200")
    yield Line("headrace_canary_passed_over_total", {"model": "fraud-tx", "reason": "canary_away"}, "5x200")
    yield Line("headrace_fallback_total", {**ONE, "reason": "deadline", "by": "version:1"}, "3x200")
    yield Line("headrace_refused_callers_total", {"reason": "Unauthenticated"}, "0x200")
    yield Line("headrace_replicas", {**ONE, "state": "ready"}, "2x200")
    yield Line("headrace_replicas", {**TWO, "state": "ready"}, "1x200")
    yield Line("headrace_replicas", {**ONE, "state": "evicted"}, "0x200")
    yield Line("headrace_evictions_total", ONE, "4x200")
    yield Line(
        "headrace_replica_stage_duration_seconds_sum", {**ONE, "path": "primary", "stage": "forward"}, "0+20x200"
    )
    yield Line("headrace_replica_stage_duration_seconds_sum", {**ONE, "path": "primary", "stage": "wait"}, "0+600x200")
    for cause in CAUSES:
        yield Line("headrace_backlog_seconds", {**ONE, "cause": cause}, "0.005x200")
    for le in ("0.005", "0.03", "0.05", "+Inf"):
        yield Line(LAG, {"le": le}, "0+3000x200")


def requests(
    ok: str, fast: str, failed: str = "0x5000", door: str = "0x5000", theirs: str = "0+600x5000"
) -> list[Line]:
    """Of one gateway: answered, answered in time, failed by our doing, refused at the door, callers' own mistakes."""
    answered = {**ONE, "path": "primary", "code": "OK"}
    return [
        Line(f"{REQUESTS}_count", answered, ok),
        Line(f"{REQUESTS}_bucket", {**answered, "le": "0.05"}, fast),
        Line(f"{REQUESTS}_count", {**answered, "code": "UNAVAILABLE"}, failed),
        Line(f"{REQUESTS}_count", {**answered, "code": "INVALID_ARGUMENT"}, theirs),
        Line(f"{REQUESTS}_count", {"model": "", "version": "", "path": "primary", "code": "UNAVAILABLE"}, door),
    ]


def world(*changes: Change) -> list[Line]:
    """The healthy one, changed. A change of nothing is a mistake."""
    lines = [
        Line(line.name, {"pod": pod, **line.labels}, line.values)
        for pod in PODS
        for line in (*each_gateway(), *requests("0+6000x200", "0+5990x200"))
    ]
    for change in changes:
        hit = [line for line in lines if line.name == change.name and change.labels.items() <= line.labels.items()]
        assert hit, change
        kept = [line for line in lines if line not in hit]
        lines = kept + [line._replace(values=change.values) for line in hit if change.values is not None]
    return lines


def series(release: Release, lines: Iterable[Line]) -> dict[str, str]:
    """As this release's Prometheus has them."""
    job = {"job": f"{release.namespace}/{release.fullname}-gateway", "namespace": release.namespace}
    found: dict[str, str] = {}
    for line in lines:
        labels = ", ".join(f'{name}="{value}"' for name, value in {**job, **line.labels}.items() if value)
        found[f"{line.name}{{{labels}}}"] = line.values
    return found


class Case(NamedTuple):
    """Changes with which exactly these alerts fire at that time, and those with which none does."""

    fires: frozenset[str]
    bad: tuple[Change, ...]
    at: str
    near: tuple[Change, ...]
    near_at: str


def case(*fires: str, bad: list[Change], at: str, near: list[Change] | None = None, near_at: str = "") -> Case:
    """`near` is `bad` again where only the time is another one."""
    return Case(frozenset(fires), tuple(bad), at, tuple(bad if near is None else near), near_at or at)


def ready(values: str | None, version: Mapping[str, str] = ONE, **labels: str) -> Change:
    return Change("headrace_replicas", values, {**version, "state": "ready", **labels})


def lag(in_time: str) -> list[Change]:
    """Of gateway a: wake-ups a minute, of 3,000, that are less than 30 ms late."""
    return [Change(LAG, f"0+{in_time}x200", {"pod": "a", "le": le}) for le in ("0.005", "0.03")]


CONNECTED, TOLD = "headrace_control_connected", {"result": "told"}
BUSY, STAGE = "headrace_event_loop_busy_ratio", "headrace_replica_stage_duration_seconds_sum"
FORWARD, PASSED = {"stage": "forward"}, "headrace_canary_passed_over_total"

CASES: Final = {
    "nothing is scraped": case(
        "HeadraceNotScraped",
        bad=[Change(CONNECTED, "1x5")],  # the last sample is believed for five minutes
        at="22m",
        near=[Change(CONNECTED, "1x5", {"pod": "a"})],
    ),
    "nothing is scraped for a moment": case(
        "HeadraceNotScraped", bad=[Change(CONNECTED, "1x5")], at="22m", near_at="18m"
    ),
    "control is away": case("HeadraceControlAway", bad=[Change(CONNECTED, "1x5 0x200")], at="12m", near_at="10m"),
    "one gateway does not hear control": case(
        "HeadraceGatewayAlone", bad=[Change(CONNECTED, "1x5 0x200", {"pod": "a"})], at="12m", near_at="10m"
    ),
    "one gateway goes by an older policy": case(
        "HeadracePoliciesDiffer",
        bad=[Change("headrace_policy_revision", "3x10 4x200", {"pod": "b"})],
        at="15m",
        near=[Change("headrace_policy_revision", "3x10 4x200")],
    ),
    "a policy is on its way": case(
        "HeadracePoliciesDiffer",
        bad=[Change("headrace_policy_revision", "3x10 4x200", {"pod": "b"})],
        at="15m",
        near=[
            Change("headrace_policy_revision", "3x10 4x200", {"pod": "b"}),
            Change("headrace_policy_revision", "3x11 4x200", {"pod": "a"}),
        ],
        near_at="13m",
    ),
    "replicas are behind": case(
        "HeadraceBacklogAtReplicas",
        bad=[Change("headrace_backlog_seconds", "0.06x200", {"cause": "replicas"})],  # two gateways, two replicas
        at="15m",
        near=[Change("headrace_backlog_seconds", "0.045x200", {"cause": "replicas"})],
    ),
    "gateways are behind": case(
        "HeadraceBacklogAtGateways",
        bad=[Change("headrace_backlog_seconds", "0.007x200", {"cause": "gateway"})],
        at="15m",
        near=[Change("headrace_backlog_seconds", "0.0055x200", {"cause": "gateway"})],
    ),
    "one in fifty wake-ups is late": case("HeadraceEventLoopLag", bad=lag("2940"), at="25m", near=lag("2985")),
    "replicas are lost again and again": case(
        "HeadraceReplicasEvicted",
        bad=[Change("headrace_evictions_total", "4x10 5 6 7x200", {"pod": "a"})],
        at="20m",
        near=[Change("headrace_evictions_total", "4x10 5 6x200")],
    ),
    "spans are refused": case(
        "HeadraceTracesLost",
        bad=[Change("headrace_telemetry_spans_total", "0+10x200", {"pod": "a", "result": "rejected"})],
        at="20m",
        near=[Change("headrace_telemetry_spans_total", "0x5 500x200", {"pod": "a", "result": "rejected"})],
    ),
    "requests are never told": case(
        "HeadraceTracesLost",
        bad=[Change("headrace_telemetry_dropped_requests_total", "0+10x200", {"pod": "a"})],
        at="20m",
        near=[Change("headrace_telemetry_dropped_requests_total", "0x5 500x200", {"pod": "a"})],
    ),
    "pairs gather": case(
        "HeadracePairsWait",
        bad=[Change("headrace_pairs_waiting", "12000x200", {"pod": "a"})],
        at="10m",
        near=[Change("headrace_pairs_waiting", "9000x200")],
    ),
    "pairs are lost": case(
        "HeadracePairsLost",
        bad=[Change("headrace_pairs_total", "7x10 50x200", {"pod": "a", "result": "lost"})],
        at="15m",
        near_at="30m",
    ),
    "an experiment gets no pairs": case(
        "HeadraceComparisonStalled",
        bad=[Change("headrace_pairs_total", "0+600x10 6000x200", TOLD)],
        at="50m",
        near=[Change("headrace_pairs_total", "6000x200", TOLD), Change("headrace_shadow_rows", None)],
    ),
    "an experiment has next to no traffic": case(
        "HeadraceComparisonStalled",
        bad=[Change("headrace_pairs_total", "6000x200", TOLD)],
        at="50m",
        near=[
            Change("headrace_pairs_total", "6000x200", TOLD),
            Change(f"{REQUESTS}_count", "0+20x200", {"code": "OK"}),
            Change(f"{REQUESTS}_bucket", "0+20x200"),
        ],
    ),
    "the canary has no replica": case(
        "HeadraceCanaryAway",
        bad=[Change(PASSED, "5+6x200", {"reason": "canary_away"})],
        at="12m",
        near=[Change(PASSED, "5+600x200", {"reason": "no_entity"})],
    ),
    "callers are not let in": case(
        "HeadraceCallersRefused",
        bad=[Change("headrace_refused_callers_total", "0+6x200")],
        at="20m",
        near=[Change("headrace_refused_callers_total", "0+2x200")],
    ),
    "a fallback answers": case(
        "HeadraceFallbackAnswers",
        bad=[Change("headrace_fallback_total", "3+6x200")],
        at="20m",
        near=[Change("headrace_fallback_total", "3+2x200")],
    ),
    "a model has no replica": case(
        "HeadraceModelWithoutReplica",
        bad=[ready("2x5 0x200"), ready("1x5 0x200", TWO)],
        at="8m",
        near=[ready("2x5 0x200", pod="a"), ready("1x5 0x200", TWO, pod="a")],
    ),
    "a model was forgotten": case(
        "HeadraceModelWithoutReplica",
        bad=[ready("2x5 0x10"), ready("1x5 0x10", TWO)],
        at="150m",
        near=[Change("headrace_replicas", None, {"state": "evicted"})],
    ),
    "a model's gateways are not scraped": case(
        "HeadraceNotScraped",
        bad=[ready(None), ready(None, TWO), Change(CONNECTED, None)],
        at="30m",
        near_at="5m",
    ),
    "a version has no replica": case(
        "HeadraceVersionWithoutReplica", bad=[ready("1x5 0x200", TWO)], at="17m", near_at="15m"
    ),
    "there can be no more replicas": case(
        "HeadraceReplicasAtMaximum",
        bad=[ready("4x200"), Change(STAGE, "0+110x200", FORWARD)],
        at="25m",
        near=[ready("4x200"), Change(STAGE, "0+90x200", FORWARD)],
    ),
    "there can be more replicas": case(
        "HeadraceReplicasAtMaximum",
        bad=[ready("4x200"), Change(STAGE, "0+110x200", FORWARD)],
        at="25m",
        near=[ready("3x200"), Change(STAGE, "0+85x200", FORWARD)],
    ),
    "there can be no more gateways": case(
        "HeadraceGatewaysAtMaximum",
        bad=[Change(BUSY, "0.9x200")],
        at="20m",
        near=[Change(BUSY, "0.95x200", {"pod": "a"})],
    ),
}


def firing(release: Release, folder: Path, lines: list[Line], at: str, names: Iterable[str]) -> str:
    file = promtool.write(release, folder)
    return promtool.difference(file, series(release, lines), at, [{"alertname": name} for name in names])


@needs_promtool
@pytest.mark.parametrize("name", CASES)
def test_it_fires_when(rendered: Rendered, tmp_path: Path, name: str) -> None:
    found = CASES[name]

    assert firing(rendered(VALUES), tmp_path, world(*found.bad), found.at, found.fires) == ""


@needs_promtool
@pytest.mark.parametrize("name", CASES)
def test_it_is_silent_just_before(rendered: Rendered, tmp_path: Path, name: str) -> None:
    found = CASES[name]

    assert firing(rendered(VALUES), tmp_path, world(*found.near), found.near_at, []) == ""


@needs_promtool
@pytest.mark.parametrize("at", ["1m", "30m", "3h"])
def test_nothing_fires_in_a_healthy_world(rendered: Rendered, tmp_path: Path, at: str) -> None:
    assert firing(rendered(VALUES), tmp_path, world(), at, []) == ""


@needs_promtool
def test_keda_s_maximum_counts_as_well(rendered: Rendered, tmp_path: Path) -> None:
    found = CASES["there can be no more gateways"]

    release = rendered(merged(VALUES, KEDA))

    assert firing(release, tmp_path, world(*found.bad), found.at, found.fires) == ""


@needs_promtool
def test_another_releases_trouble_is_not_ours(rendered: Rendered, tmp_path: Path) -> None:
    """Its series stand in the same Prometheus, under another job."""
    ours, theirs = rendered(VALUES), rendered(VALUES, name="other")
    trouble = series(theirs, world(*CASES["control is away"].bad))

    both = series(ours, world()) | trouble

    assert promtool.difference(promtool.write(ours, tmp_path), both, "12m", []) == ""


# Budgets --------------------------------------------------------------------------------------------------------------


class Burn(NamedTuple):
    """A share of requests that go wrong for so many minutes up to the end, or up to some before it."""

    share: float
    minutes: int
    windows: frozenset[str]
    quiet: int = 0


DAY: Final = 24 * 60
END: Final = 3 * DAY + 10
ERRORS: Final = {
    "an hour of two per cent": Burn(0.02, 70, frozenset({"1h"})),
    "an hour of a little less than fourteen times": Burn(0.014, 70, frozenset()),
    "seven hours at eight times": Burn(0.008, 420, frozenset({"6h"})),
    "seven hours at not quite six times": Burn(0.0058, 420, frozenset()),
    "a day at four times": Burn(0.004, 26 * 60, frozenset({"1d", "3d"})),
    "three days at one and a half": Burn(0.0015, END, frozenset({"3d"})),
    "three days within the budget": Burn(0.0009, END, frozenset()),
    "two hours of two per cent, over for forty minutes": Burn(0.02, 120, frozenset(), quiet=40),
}
SLOWNESS: Final = {
    "an hour of a fifth": Burn(0.2, 70, frozenset({"1h"})),
    "an hour of a little less than fourteen times": Burn(0.14, 70, frozenset()),
    "seven hours at eight times": Burn(0.08, 420, frozenset({"6h"})),
    "a day at four times": Burn(0.04, 26 * 60, frozenset({"1d", "3d"})),
    "three days at one and a half": Burn(0.015, END, frozenset({"3d"})),
    "three days within the budget": Burn(0.009, END, frozenset()),
}
RATE: Final = 60_000
"""Requests a minute: enough for a share of one in ten thousand to be whole ones."""


def counted(burn: Burn, *, good: bool) -> str:
    """A counter that grows by the share that goes wrong, or by the rest, through all three days."""
    begun = END - burn.quiet - burn.minutes
    usual, then = (RATE, round(RATE * (1 - burn.share))) if good else (0, round(RATE * burn.share))
    parts = [f"0+{usual}x{begun}"] if begun > 0 else ["0"]
    at = usual * max(begun, 0)
    parts.append(f"{at + then}+{then}x{burn.minutes - 1}")
    if burn.quiet:
        at += then * burn.minutes
        parts.append(f"{at + usual}+{usual}x{burn.quiet - 1}")
    return " ".join(parts)


def burning(release: Release, folder: Path, lines: list[Line], alert: str, windows: Iterable[str], model: str) -> str:
    expected = [{"alertname": alert, "window": window, "model": model} for window in windows]
    up = Line(CONNECTED, {}, f"1x{END}")
    replicas = [Line("headrace_replicas", {**version, "state": "ready"}, f"1x{END}") for version in (ONE, TWO)]
    found = series(release, [up, *replicas, *lines])
    return promtool.difference(promtool.write(release, folder), found, f"{END}m", expected, step=f"{END}m")


@needs_promtool
@pytest.mark.parametrize("name", ERRORS)
def test_failures_burn_the_budget(rendered: Rendered, tmp_path: Path, name: str) -> None:
    burn = ERRORS[name]
    ok = counted(burn, good=True)
    lines = requests(ok, ok, failed=counted(burn, good=False))

    assert burning(rendered(VALUES), tmp_path, lines, "HeadraceErrorBudgetBurn", burn.windows, "fraud-tx") == ""


@needs_promtool
@pytest.mark.parametrize("name", SLOWNESS)
def test_slow_answers_burn_the_budget(rendered: Rendered, tmp_path: Path, name: str) -> None:
    burn = SLOWNESS[name]
    lines = requests(f"0+{RATE}x{END}", counted(burn, good=True))

    assert burning(rendered(VALUES), tmp_path, lines, "HeadraceLatencyBudgetBurn", burn.windows, "fraud-tx") == ""


@needs_promtool
def test_what_is_refused_at_the_door_burns_it_by_its_share_of_all(rendered: Rendered, tmp_path: Path) -> None:
    """No model is known there, so the alert has no such label: 2 % burn, and the model's own ratio stays clean."""
    burn = ERRORS["an hour of two per cent"]
    ok = counted(burn, good=True)
    lines = requests(ok, ok, door=counted(burn, good=False))

    assert burning(rendered(VALUES), tmp_path, lines, "HeadraceErrorBudgetBurn", burn.windows, "") == ""


@needs_promtool
def test_callers_own_mistakes_burn_nothing_and_hide_nothing(rendered: Rendered, tmp_path: Path) -> None:
    """A hundred times as many of them as answers: the ratio is of the others."""
    burn = ERRORS["an hour of two per cent"]
    ok, many = counted(burn, good=True), f"0+{100 * RATE}x{END}"
    fine, failing = requests(ok, ok, theirs=many), requests(ok, ok, failed=counted(burn, good=False), theirs=many)
    release = rendered(VALUES)

    assert burning(release, tmp_path, fine, "HeadraceErrorBudgetBurn", [], "fraud-tx") == ""
    assert burning(release, tmp_path, failing, "HeadraceErrorBudgetBurn", burn.windows, "fraud-tx") == ""


def test_every_alert_is_in_here(rendered: Rendered) -> None:
    tested = {name for found in CASES.values() for name in found.fires}
    tested |= {"HeadraceErrorBudgetBurn", "HeadraceLatencyBudgetBurn"}

    assert tested == {rule["alert"] for rule in promtool.alerts(rendered(VALUES))}
