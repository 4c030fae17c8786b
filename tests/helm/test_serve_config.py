"""The chart and `headrace serve` tell Ray Serve the same: what the templates say is what serve_config makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.helm.cases import CASES, EVERYTHING
from tests.helm.chart import merged
from tests.helm.conftest import Rendered

from headrace.config import ModelSettings, Settings
from headrace.serving import serve_config


def again(application: Mapping[str, Any]) -> dict[str, Any]:
    """The application that serve_config makes of the settings in the chart's, and of how many replicas it says."""
    args = serve_config.arguments(application["args"])
    (told,) = application["deployments"]
    number: dict[str, Any] = {"replicas": told["num_replicas"]} if "num_replicas" in told else {}
    if scaling := told.get("autoscaling_config"):
        number = {"autoscaling": {key: value for key, value in scaling.items() if key != "policy"}}
    run = {**args.settings.model(args.model).model_dump(), **number}
    settings = args.settings.model_copy(update={"models": {args.model: ModelSettings.model_validate(run)}})
    made = serve_config.application(settings, args.directory, args.control)
    return {**made, "args": {**made["args"], **({"source": args.source} if args.source else {})}}


def with_settings(application: Mapping[str, Any]) -> dict[str, Any]:
    """With what the tree of settings means: one may say what another leaves to its default."""
    args = application["args"]
    return {**application, "args": {**args, "settings": Settings.model_validate(args["settings"])}}


@pytest.mark.parametrize("case", CASES)
def test_an_application_is_what_serve_config_makes_of_its_settings(rendered: Rendered, which: str, case: str) -> None:
    release = rendered(CASES[case], which=which)

    assert release.serve_config.keys() == {"proxy_location", "applications"}
    assert release.serve_config["proxy_location"] == serve_config.of(Settings(), [], "")["proxy_location"]
    for application in release.applications:
        assert with_settings(application) == with_settings(again(application))


@pytest.mark.parametrize("case", CASES)
def test_settings_of_other_processes_stay_out_of_it(rendered: Rendered, case: str) -> None:
    for application in rendered(CASES[case]).applications:
        told = application["args"]["settings"]
        assert told.keys() <= {*serve_config.SECTIONS, "models"}, application["name"]
        assert not [
            run.keys() & set(serve_config.OTHERS)
            for run in told["models"].values()
            if run.keys() & set(serve_config.OTHERS)
        ]


@pytest.mark.parametrize("case", CASES)
def test_every_process_of_ray_has_the_variables_that_it_has_under_headrace_serve(rendered: Rendered, case: str) -> None:
    for pod in rendered(CASES[case]).pods:
        if pod.is_ray:
            assert serve_config.ENVIRONMENT.items() <= pod.environment.items(), str(pod)


@pytest.mark.parametrize(
    "change",
    [
        {"telemetry": {"sampling": 0.25, "otlpEndpoint": "http://otel:4317", "collector": {"slowMilliseconds": 7}}},
        {"settings": {"telemetry": {"max_files": 9}, "gateway": {"max_riders": 77}, "risk": {"normal": 1}}},
        {"gateway": {"drainSeconds": 20}, "control": {"metricsPort": 8200}},
    ],
)
def test_a_change_that_no_replica_reads_restarts_none(rendered: Rendered, change: Mapping[str, Any]) -> None:
    """Serve makes a version's replicas anew when a word of their application's arguments changes."""
    assert rendered(merged(EVERYTHING, change)).applications == rendered(EVERYTHING).applications


def test_a_replica_that_is_made_anew_starts_before_an_old_one_stops(rendered: Rendered) -> None:
    """Serve stops first unless it is told: a version of one replica would be gone for as long as a start takes."""
    assert [one["max_surge_percent"] for one in rendered({}).deployments] == [1]


@pytest.mark.parametrize("case", CASES)
def test_replicas_say_whose_clusters_follow_each_other(rendered: Rendered, case: str) -> None:
    """By it control takes the replicas of an old Ray cluster out of choice once those of the new one serve."""
    release = rendered(CASES[case])

    for application in release.applications:
        assert application["args"]["settings"]["replica"]["service"] == release.ray_service["metadata"]["name"]


def test_versions_of_one_model_run_each_in_its_own_way(rendered: Rendered, root: Path) -> None:
    first, second = rendered(root / "helm" / "headrace" / "ci" / "two-gpus.yaml").applications

    assert (first["name"], second["name"]) == ("fraud-tx-1", "fraud-tx-2")
    (scaled,), (fixed,) = first["deployments"], second["deployments"]
    assert scaled["autoscaling_config"]["max_replicas"] == 6
    assert scaled["autoscaling_config"]["downscale_delay_s"] == 600
    assert fixed["num_replicas"] == 2
    assert scaled["ray_actor_options"]["resources"] == {"headrace-h100": 0.001}
    assert fixed["ray_actor_options"]["resources"] == {"headrace-l4": 0.001}


def test_a_delay_of_zero_is_a_delay_of_zero(rendered: Rendered) -> None:
    """Helm's merging takes zero for nothing said."""
    scaling = {"minReplicas": 1, "maxReplicas": 2, "upscaleDelayS": 0, "downscaleDelayS": 0}
    model = {"name": "fraud-tx", "version": "1", "group": "cpu", "numCpus": 0, "autoscaling": scaling}
    (deployment,) = rendered({"models": [model]}).deployments

    assert deployment["autoscaling_config"]["upscale_delay_s"] == 0
    assert deployment["autoscaling_config"]["downscale_delay_s"] == 0
    assert deployment["ray_actor_options"]["num_cpus"] == 0


def test_a_version_in_an_object_store_is_named_by_its_place_there(rendered: Rendered) -> None:
    release = rendered(merged(CASES["defaults"], {"modelStore": {"uri": "s3://models/live/", "secretName": "store"}}))

    (args,) = [application["args"] for application in release.applications]
    assert args["source"] == "s3://models/live/fraud-tx/1"
    assert args["directory"] == "/models/fraud-tx/1"
    for pod in release.pods_of("ray-worker"):
        assert pod.main["envFrom"] == [{"secretRef": {"name": "store"}}]
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        (mount,) = [mount for mount in pod.main["volumeMounts"] if mount["mountPath"] == "/models"]
        assert "emptyDir" in volumes[mount["name"]]
        assert not mount.get("readOnly")


def test_a_version_on_a_claim_is_only_read(rendered: Rendered) -> None:
    release = rendered({"modelStore": {"existingClaim": "models"}})

    for pod in release.pods_of("ray-worker"):
        (mount,) = [mount for mount in pod.main["volumeMounts"] if mount["mountPath"] == "/models"]
        assert mount["readOnly"] is True
