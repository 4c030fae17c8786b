"""Control is one process with a disk that everybody finds by name and nobody waits for."""

from __future__ import annotations

import json
import re

from tests.helm.invariants.laws import law
from tests.helm.invariants.ports import probes
from tests.helm.release import Release, name_of, title


def address(release: Release) -> str:
    """As its Service says."""
    service = release.one("Service", "-control")
    (port,) = [port["port"] for port in service["spec"]["ports"] if port["name"] == "grpc"]
    return f"{name_of(service)}.{release.namespace}.svc:{port}"


@law
def everybody_is_told_the_address_that_controls_service_has(release: Release) -> None:
    (name, _, _) = address(release).partition(".")
    told = json.dumps([pod.spec for pod in release.pods if pod.component != "control"])
    told += json.dumps(release.serve_config)
    found = set(re.findall(rf"{re.escape(name)}[\w.-]*:\d+", told))
    assert found == {address(release)}, found


@law
def gateways_and_replicas_know_control(release: Release) -> None:
    for pod in release.pods_of("gateway"):
        assert address(release) in json.dumps(pod.main), str(pod)
    for application in release.applications:
        assert application["args"]["control"] == address(release), application["name"]


@law
def control_is_one_process_that_ends_before_the_next_begins(release: Release) -> None:
    spec = release.one("Deployment", "-control")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"]["type"] == "Recreate"


@law
def nothing_guards_or_scales_control(release: Release) -> None:
    for budget in release.of("PodDisruptionBudget"):
        guarded = {pod.component for pod in release.selected(budget["spec"]["selector"])}
        assert "control" not in guarded, f"{title(budget)} would block a drain"
    name = name_of(release.one("Deployment", "-control"))
    for scaler in [*release.of("HorizontalPodAutoscaler"), *release.of("ScaledObject")]:
        assert scaler["spec"]["scaleTargetRef"]["name"] != name, title(scaler)


@law
def no_probe_follows_control(release: Release) -> None:
    name = name_of(release.one("Service", "-control"))
    for pod in release.pods:
        for asked, _ in probes(pod):
            assert name not in json.dumps(asked), str(pod)


@law
def the_ledger_lies_on_a_volume(release: Release) -> None:
    (pod,) = release.pods_of("control")
    mounts = {mount["mountPath"]: mount["name"] for mount in pod.main["volumeMounts"] if not mount.get("readOnly")}
    folder = str(release.settings["control"]["ledger"]).rpartition("/")[0]
    volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
    assert folder in mounts, f"{folder} is not writable"
    assert {"persistentVolumeClaim", "emptyDir"} & set(volumes[mounts[folder]])
