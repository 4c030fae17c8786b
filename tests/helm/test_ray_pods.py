"""A Ray pod's template changes with nothing but what the pod runs: any change builds a whole second cluster."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.helm.cases import EVERYTHING
from tests.helm.chart import CHART, merged
from tests.helm.conftest import Rendered
from tests.helm.release import Release

MUTED = {"replicas", "minReplicas", "maxReplicas", "workersToDelete"}
"""The operator applies a change of these in place."""


def cluster(release: Release) -> dict[str, Any]:
    """What the operator's hash is made of, as far as the chart says it."""
    config = dict(release.ray_service["spec"]["rayClusterConfig"])
    config["workerGroupSpecs"] = [_unmuted(group) for group in config["workerGroupSpecs"]]
    return config


def _unmuted(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in MUTED}


@pytest.mark.parametrize("field", ["version", "appVersion"])
def test_a_new_version_of_the_chart_builds_no_second_cluster(rendered: Rendered, tmp_path: Path, field: str) -> None:
    newer = tmp_path / "headrace"
    shutil.copytree(CHART, newer)
    chart = newer / "Chart.yaml"
    chart.write_text(re.sub(rf"^{field}: .*$", f"{field}: 9.9.9", chart.read_text(), flags=re.MULTILINE))

    after = rendered(EVERYTHING, folder=newer)
    assert cluster(rendered(EVERYTHING)) == cluster(after)
    assert after.objects != rendered(EVERYTHING).objects


@pytest.mark.parametrize(
    "change",
    [
        {"models": [{**EVERYTHING["models"][0], "version": "7"}, *EVERYTHING["models"]]},
        {"models": EVERYTHING["models"][:1]},
        {"gateway": {"autoscaling": {"keda": {"enabled": False}}, "replicas": 7, "podLabels": {"a": "b"}}},
        {"gateway": {"port": 8801, "metricsPort": 8802, "healthPort": 8803}},
        {"control": {"resources": {"requests": {"cpu": "2"}}, "podAnnotations": {"a": "b"}}},
        {"commonLabels": {"new": "label"}},
        {"commonAnnotations": {"new": "annotation"}},
        {"telemetry": {"rules": {"enabled": False}, "dashboards": {"enabled": False}}},
        {"networkPolicy": {"enabled": False}},
        {"settings": {"gateway": {"max_riders": 77}}},
    ],
    ids=lambda change: "-".join(
        f"{key}.{'.'.join(value) if isinstance(value, dict) else len(value)}" for key, value in change.items()
    ),
)
def test_a_change_elsewhere_builds_no_second_cluster(rendered: Rendered, change: Mapping[str, Any]) -> None:
    after = rendered(merged(EVERYTHING, change))

    assert cluster(rendered(EVERYTHING)) == cluster(after)
    assert after.objects != rendered(EVERYTHING).objects


def test_more_pods_of_a_group_and_a_group_at_the_end_change_no_other_group(rendered: Rendered) -> None:
    groups = [{**group, "maxReplicas": group["maxReplicas"] + 1} for group in EVERYTHING["ray"]["groups"]]
    added = {**groups[0], "name": "added"}
    before = cluster(rendered(EVERYTHING))
    after = cluster(rendered(merged(EVERYTHING, {"ray": {"groups": [*groups, added]}})))

    assert before["workerGroupSpecs"] == after["workerGroupSpecs"][:-1]
    assert before["headGroupSpec"] == after["headGroupSpec"]


def test_another_image_does(rendered: Rendered) -> None:
    after = rendered(merged(EVERYTHING, {"image": {"replica": {"tag": "9.9.9"}}}))

    assert cluster(rendered(EVERYTHING)) != cluster(after)
