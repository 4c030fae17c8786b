"""Rules and alerts of the chart: Prometheus takes them, the code has what they ask for, and they say what to do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helm import chart, promtool
from tests.helm.chart import CHART, Refusal, merged
from tests.helm.conftest import Rendered
from tests.helm.promtool import needs_promtool
from tests.helm.release import Release, name_of
from tests.helm.series import ADDED, scraped

from headrace.errors import Failed, HeadraceError, NotExplicit, QuotaExceeded, named, status_of
from headrace.gateway import telling
from headrace.telemetry import metrics

RULES = {"telemetry": {"rules": {"enabled": True}}}
SCALED = merged(
    RULES,
    {
        "models": [
            {"name": "fraud-tx", "version": "1", "group": "cpu", "autoscaling": {"minReplicas": 1, "maxReplicas": 4}},
            {"name": "fraud-tx", "version": "2", "group": "cpu", "replicas": 1},
            {"name": "acceptance", "version": "1", "group": "cpu", "replicas": 1},
        ],
        "gateway": {"autoscaling": {"hpa": {"enabled": True, "minReplicas": 2, "maxReplicas": 4}}},
    },
)
RECORDED = r"\bmodel:headrace_\w+:\w+"
FAMILIES = r"\b((?:headrace|nv)_\w+)"


@pytest.fixture
def release(rendered: Rendered) -> Release:
    return rendered(SCALED)


def expressions(release: Release) -> list[str]:
    return [str(rule["expr"]) for rule in promtool.rules(release)]


def bare(expr: str) -> str:
    """Without recorded series and without what stands in quotes."""
    return re.sub(rf'{RECORDED}|"[^"]*"', "", expr)


@needs_promtool
def test_prometheus_loads_them(release: Release, tmp_path: Path) -> None:
    done = promtool.check(promtool.write(release, tmp_path))

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(promtool.rules(release))} rules found" in done.stdout


@needs_promtool
def test_the_causes_are_a_rule_file_without_the_chart(tmp_path: Path) -> None:
    file = Path(shutil.copy(CHART / "rules" / "causes.yaml", tmp_path))

    done = promtool.check(file)

    assert done.returncode == 0, done.stdout + done.stderr


def test_they_ask_for_series_and_labels_that_a_gateway_has(
    release: Release, run: Callable[..., Any], tmp_path: Path
) -> None:
    known = scraped(run, tmp_path)
    recorded = {str(rule["record"]) for rule in promtool.rules(release) if "record" in rule}

    for expr in expressions(release):
        asked = set(re.findall(RECORDED, expr))
        series = set(re.findall(FAMILIES, bare(expr)))
        assert asked <= recorded
        assert asked or series
        assert series <= known.keys(), expr
        empty = all(not known[name] for name in series)  # a counter that has counted nothing has no labels yet
        labels = set(re.findall(r"(\w+)(?:=~|!=|=)\"", expr)) - ADDED - {"release"}
        assert empty or labels <= set().union(*(known[name] for name in series)), expr


def test_they_look_at_this_releases_series_alone(rendered: Rendered) -> None:
    with_monitor = rendered(merged(SCALED, {"telemetry": {"podMonitor": {"enabled": True}}}))
    (monitor,) = [name_of(one) for one in with_monitor.of("PodMonitor") if name_of(one).endswith("-gateway")]
    own = f'job="{with_monitor.namespace}/{monitor}"'
    chosen = rendered(merged(SCALED, {"telemetry": {"rules": {"selector": 'app="risk"'}}}))

    for release, matcher in ((with_monitor, own), (chosen, 'app="risk"')):
        for expr in expressions(release):
            assert all(matcher in braces or "release=" in braces for braces in re.findall(r"\{([^}]*)\}", expr)), expr
            assert not re.findall(FAMILIES + r"\b(?!{)", bare(expr)), expr


def test_recorded_series_and_alerts_say_whose_they_are(release: Release) -> None:
    whose = f"{release.namespace}/{release.fullname}"

    assert {rule["labels"]["release"] for rule in promtool.rules(release)} == {whose}
    assert {rule["labels"]["namespace"] for rule in promtool.alerts(release)} == {release.namespace}


def test_every_alert_says_how_bad_it_is_what_it_means_and_what_to_do(release: Release, rendered: Rendered) -> None:
    with_runbooks = rendered(merged(SCALED, {"telemetry": {"rules": {"runbookUrl": "https://runbooks.example/#"}}}))

    for rule in promtool.alerts(release):
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert len(rule["annotations"]["summary"]) < 120
        assert len(rule["annotations"]["description"]) > 80
    for rule in promtool.alerts(with_runbooks):
        assert rule["annotations"]["runbook_url"] == f"https://runbooks.example/#{rule['alert']}"


def test_the_documents_table_has_every_alert(release: Release, root: Path) -> None:
    section = (root / "docs" / "operations.md").read_text().split("\n## Alerts\n")[1].split("\n## ")[0]
    told = {
        name for row in section.splitlines() if row.startswith("| `") for name in re.findall(r"`(Headrace\w+)`", row)
    }

    assert told == {rule["alert"] for rule in promtool.alerts(release)}
    for row in section.splitlines():
        for name in re.findall(r"`(Headrace\w+)`", row if row.startswith("| `") else ""):
            severities = {rule["labels"]["severity"] for rule in promtool.alerts(release) if rule["alert"] == name}
            assert ("(critical)" in row) == (severities == {"critical"}), row


# What the numbers in them stand for --------------------------------------------------------------------------------


def leaves(kind: type[HeadraceError]) -> Iterator[type[HeadraceError]]:
    if not kind.__subclasses__():
        yield kind
    for below in kind.__subclasses__():
        yield from leaves(below)


def codes(error: type[HeadraceError]) -> set[str]:
    """Every status a caller may read for it."""
    return {status_of(error(""), oip=oip, status_codes=words) for oip in (False, True) for words in ("triton", "grpc")}


def test_a_request_counts_against_availability_when_it_is_the_servers_doing(release: Release) -> None:
    ours = {*leaves(Failed), *(named(name) for name in metrics.SHED)}
    # A quota is used up at the door, which counts it by its caller's name; loading a model is no request for an answer.
    theirs = set(leaves(HeadraceError)) - ours - {QuotaExceeded, NotExplicit}
    (failed, *_) = (
        rule for rule in promtool.rules(release) if rule.get("record", "").startswith("model:headrace_failed")
    )
    counted = {frozenset(found.split("|")) for found in re.findall(r'code=~"([^"]*)"', failed["expr"])}
    faults = min(counted, key=len)

    assert counted == {faults, faults | {"OK"}}
    assert faults == set().union(*map(codes, ours))
    assert not faults & set().union(*map(codes, theirs))


def test_the_latency_objective_is_a_bound_of_the_histogram(rendered: Rendered) -> None:
    for bound in metrics.SECONDS:
        release = rendered(merged(RULES, {"telemetry": {"rules": {"latencySeconds": bound}}}))
        asked = {le for expr in expressions(release) for le in re.findall(r'le="([^"]*)"', expr)}
        assert asked == {str(float(bound))}
    section = chart.schema()["properties"]["telemetry"]["properties"]["rules"]["properties"]
    assert tuple(section["latencySeconds"]["enum"]) == metrics.SECONDS


@pytest.mark.usefixtures("helm_4")
def test_a_bound_that_is_none_is_refused() -> None:
    refused = chart.render(merged(RULES, {"telemetry": {"rules": {"latencySeconds": 0.06}}}))

    assert isinstance(refused, Refusal)
    assert "latencySeconds" in refused.said


def test_pairs_that_wait_are_told_of_before_any_is_lost(release: Release) -> None:
    (rule,) = [rule for rule in promtool.alerts(release) if rule["alert"] == "HeadracePairsWait"]

    assert int(rule["expr"].split(">")[1]) == telling.MAX_ROWS // 2
    assert str(telling.MAX_ROWS) in rule["annotations"]["description"]


def test_nothing_is_installed_unasked(rendered: Rendered) -> None:
    release = rendered({})

    assert not [one for one in release.objects if one["apiVersion"].startswith("monitoring.coreos.com")]
    assert not release.pods_of("collector")
