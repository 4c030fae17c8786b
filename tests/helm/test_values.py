"""Every value is documented, has a schema and is used; what is no value, or no legal one, is refused by its path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest
from tests.helm import chart
from tests.helm.cases import CASES, EVERYTHING
from tests.helm.chart import Refusal, at, defaults, leaves, merged, render
from tests.helm.conftest import Rendered
from tests.helm.parameters import Parameter, documented, value_at
from tests.helm.release import Release

ODD = {
    ("nameOverride",): "other",
    ("fullnameOverride",): "other",
    ("ray", "version"): "2.61.0",
    ("image", "gateway", "digest"): "sha256:" + "0" * 64,
    ("image", "replica", "digest"): "sha256:" + "1" * 64,
    ("ray", "upgradeStrategy"): "None",
}
"""Values that no case changes, since they would change what every law looks at."""


def test_every_value_is_documented_once_and_nothing_else_is() -> None:
    paths = [parameter.path for parameter in documented()]
    tree = defaults()
    covered = {path for path, _ in leaves(tree) if any(path[: len(known)] == known for known in paths)}

    assert len(set(paths)) == len(paths)
    assert [path for path, _ in leaves(tree) if path not in covered] == []
    assert [path for path in paths if not _is_there(tree, path)] == []


def _is_there(tree: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    try:
        value_at(tree, path)
    except KeyError:
        return False
    return True


def settings_of(path: tuple[str, ...]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Cases in which a value is not its default, and that default."""
    default = value_at(defaults(), path)
    if path in ODD:
        yield merged(EVERYTHING, at(path, ODD[path])), default
    for case in CASES.values():
        if _is_there(case, path) and value_at(case, path) != default:
            yield case, default


def test_every_value_is_mentioned_in_a_template() -> None:
    """By its path, or by its last word where a template has taken up its section."""
    text = "".join(file.read_text() for file in (chart.CHART / "templates").rglob("*") if file.is_file())
    words = set(re.findall(r"[A-Za-z]+", text))

    assert [one.dotted for one in documented() if one.path[-1] not in words] == []


@pytest.mark.slow
@pytest.mark.chart
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("helm_4")
@pytest.mark.parametrize("parameter", documented(), ids=lambda parameter: parameter.dotted)
def test_a_value_changes_what_is_rendered(rendered: Rendered, parameter: Parameter) -> None:
    """With all else as in a case: back at its default it makes other objects, or none, refused on purpose."""
    assert any(_changes(rendered, case, parameter.path, default) for case, default in settings_of(parameter.path))


def _changes(rendered: Rendered, case: Mapping[str, Any], path: tuple[str, ...], default: Any) -> bool:
    after = render(_replaced(case, path, default))
    assert isinstance(after, Release) or after.deliberate, after.said
    return after != rendered(case)


def _replaced(tree: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """As a whole: a mapping takes the place of a mapping. helm merges, so what is to go must be null."""
    old = value_at(tree, path)
    if isinstance(old, Mapping) and isinstance(value, Mapping):
        value = {**dict.fromkeys(old), **value}
    copy = json.loads(json.dumps(tree))
    holder = value_at(copy, path[:-1])
    holder[path[-1]] = value
    return dict(copy)


def test_the_defaults_and_every_case_are_legal() -> None:
    validator = jsonschema.validators.validator_for(chart.schema())
    validator.check_schema(chart.schema())
    for case in CASES.values():
        validator(chart.schema()).validate(merged(defaults(), case))


def test_every_value_has_a_type() -> None:
    """Whatever stands there instead, one of these is refused, at its path."""
    validator = jsonschema.validators.validator_for(chart.schema())(chart.schema())
    loose = []
    for parameter in documented():
        odd = [at(parameter.path, value) for value in (["a", ["b"]], "a string", {"a": {"b": [1]}}, 3.5)]
        wrong = [error for tree in odd for error in validator.iter_errors(tree)]
        if parameter.path not in {tuple(error.absolute_path)[: len(parameter.path)] for error in wrong}:
            loose.append(parameter.dotted)

    assert loose == []


def test_no_mapping_of_values_takes_a_key_that_it_does_not_know() -> None:
    validator = jsonschema.validators.validator_for(chart.schema())(chart.schema())
    known = {parameter.path for parameter in documented()}
    holders = {path[:length] for path in known for length in range(len(path))} - known
    deaf = [path for path in holders if validator.is_valid(at((*path, "unheardOf"), 1))]

    assert deaf == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("gateway", "replicas"), "three"),
        (("gateway", "replcas"), 3),
        (("gateway", "autoscaling", "hpa", "minReplicas"), 0),
        (("gateway", "autoscaling", "keda", "minReplicas"), 0),
        (("gateway", "port"), 70000),
        (("gateway", "pdb", "maxUnavailable"), "a quarter"),
        (("gateway", "pdb", "maxUnavailable"), 0),
        (("gateway", "topologySpread", "whenUnsatisfiable"), "Maybe"),
        (("control", "persistence", "enabled"), "yes"),
        (("control", "replicas"), 2),
        (("ray", "upgradeStrategy"), "BlueGreen"),
        (("ray", "replicaPorts", "first"), 80),
        (("modelStore", "mountPath"), "/tmp"),  # noqa: S108  a path in the values of a chart
        (("modelStore", "mountPath"), "/var/lib/headrace/models]"),
        (("telemetry", "sampling"), 1.5),
        (("telemetry", "collector", "keepPercentage"), 101),
        (("image", "gateway", "pullPolicy"), "Sometimes"),
        (("image", "replica", "digest"), "latest"),
        (("networkPolicy", "clientNamespaces"), "shop"),
        (("autoscaling",), {}),
    ],
    ids=lambda part: ".".join(part) if isinstance(part, tuple) else str(part),
)
def test_helm_refuses_by_path(which: str, path: tuple[str, ...], value: Any) -> None:
    """Sentences differ from helm to helm. The path does not, nor that of the holder of an unknown key."""
    found = render(at(path, value), which=which)

    assert isinstance(found, Refusal)
    assert found.deliberate, found.said
    said = found.said.replace("/", ".")
    assert ".".join(path) in said or (".".join(path[:-1]) in said and path[-1] in said), found.said


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"name": "Fraud TX", "version": "1", "group": "cpu"}, "name"),
        ({"name": "fraud-tx", "version": 1, "group": "cpu"}, "version"),
        ({"name": "fraud-tx", "version": "1"}, "group"),
        (
            {"name": "fraud-tx", "version": "1", "group": "cpu", "autoscaling": {"minReplicas": 0, "maxReplicas": 1}},
            "minReplicas",
        ),
        (
            {"name": "fraud-tx", "version": "1", "group": "cpu", "autoscaling": {"minReplicas": 1, "maxReplcas": 1}},
            "maxReplcas",
        ),
        ({"name": "fraud-tx", "version": "1", "group": "cpu", "gpus": 1}, "gpus"),
    ],
)
def test_helm_refuses_a_model_by_its_key(which: str, model: Mapping[str, Any], key: str) -> None:
    found = render({"models": [model]}, which=which)

    assert isinstance(found, Refusal)
    assert found.deliberate, found.said
    assert "models" in found.said
    assert key in found.said


TWO = [{"name": "cpu", "minReplicas": 1, "maxReplicas": 1}, {"name": "cpu", "minReplicas": 1, "maxReplicas": 1}]
MODEL = {"name": "fraud-tx", "version": "1", "group": "cpu"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gateway": {"autoscaling": {"hpa": {"enabled": True}, "keda": {"enabled": True}}}}, "keda"),
        ({"gateway": {"autoscaling": {"hpa": {"enabled": True, "minReplicas": 9, "maxReplicas": 8}}}}, "minReplicas"),
        ({"gateway": {"terminationGracePeriodSeconds": 49}}, "gateway.terminationGracePeriodSeconds"),
        ({"gateway": {"metricsPort": 8001}}, "gateway"),
        ({"ray": {"terminationGracePeriodSeconds": 54}}, "ray.terminationGracePeriodSeconds"),
        ({"ray": {"gracefulShutdownSeconds": 45}}, "ray.nodeDrainSeconds"),
        ({"ray": {"gracefulShutdownSeconds": 5}}, "gracefulShutdownSeconds"),
        ({"ray": {"clusterDeletionDelaySeconds": 1}}, "ray.clusterDeletionDelaySeconds"),
        ({"ray": {"replicaPorts": {"first": 9199, "last": 9100}}}, "ray.replicaPorts"),
        ({"ray": {"replicaPorts": {"first": 8000, "last": 8300}}}, "ray.replicaPorts"),
        ({"ray": {"replicaPorts": {"first": 9100, "last": 12000}}}, "ray.replicaPorts"),
        ({"ray": {"replicaPorts": {"first": 9100, "last": 9100}}}, "ray.replicaPorts"),
        ({"ray": {"gcsFaultTolerance": {"enabled": True}}}, "ray.gcsFaultTolerance.redisAddress"),
        ({"ray": {"groups": TWO}}, "cpu"),
        ({"ray": {"groups": [{"name": "cpu", "minReplicas": 2, "maxReplicas": 1}]}}, "minReplicas"),
        ({"models": [MODEL, MODEL]}, "fraud-tx-1"),
        ({"models": [{**MODEL, "group": "gpu"}]}, "gpu"),
        ({"models": [{**MODEL, "numGpus": 1}]}, "GPU"),
        ({"models": [{**MODEL, "replicas": 1, "autoscaling": {"minReplicas": 1, "maxReplicas": 2}}]}, "autoscaling"),
        ({"modelStore": {"existingClaim": "a", "uri": "s3://b"}}, "modelStore"),
        ({"tls": {"requireClientCertificate": True}}, "tls"),
        ({"settings": {"gateway": {"port": 1}}}, "settings.gateway.port"),
        ({"grpcRoute": {"enabled": True}}, "grpcRoute.parentRefs"),
    ],
)
def test_values_that_contradict_each_other_are_refused_in_a_sentence(
    which: str, values: Mapping[str, Any], said: str
) -> None:
    found = render(values, which=which)

    assert isinstance(found, Refusal)
    assert found.deliberate, found.said
    assert said in found.said


@pytest.mark.usefixtures("helm_4")
@pytest.mark.parametrize("component", ["gateway", "control"])
def test_a_pods_own_label_or_annotation_wins_over_everybodys(component: str) -> None:
    own = {"podLabels": {"team": "own"}, "podAnnotations": {"note": "own"}}
    found = render({"commonLabels": {"team": "all"}, "commonAnnotations": {"note": "all"}, component: own})

    assert isinstance(found, Release)
    (pod,) = found.pods_of(component)
    assert (pod.labels["team"], pod.annotations["note"]) == ("own", "own")


def test_what_a_gateway_may_have_waiting_is_less_than_a_saturated_one_has() -> None:
    """3 to 11 ms, as docs/operations.md says: a target above would never ask for another gateway."""
    scalers = defaults()["gateway"]["autoscaling"]

    assert scalers["keda"]["queuedSeconds"] == float(scalers["hpa"]["queuedSeconds"]["target"])
    assert 0.003 < scalers["keda"]["queuedSeconds"] < 0.011


@pytest.mark.usefixtures("helm_4")
def test_both_images_are_of_the_version_of_the_chart_until_told_otherwise() -> None:
    found = render({})
    assert isinstance(found, Release)
    version = chart.yaml.safe_load((chart.CHART / "Chart.yaml").read_text())["appVersion"]

    assert {pod.main["image"].rpartition(":")[2] for pod in found.pods} == {version}
