"""One owner for the number of gateways, budgets that let somebody go, bounds in order."""

from __future__ import annotations

import math
from typing import Any

from tests.helm.invariants.laws import law
from tests.helm.release import Object, Release, name_of, title


def scalers(release: Release) -> list[Object]:
    return [*release.of("HorizontalPodAutoscaler"), *release.of("ScaledObject")]


def fewest_gateways(release: Release) -> int:
    """The number below which nobody scales."""
    for scaler in scalers(release):
        return int(scaler["spec"].get("minReplicas", scaler["spec"].get("minReplicaCount", 1)))
    return int(release.one("Deployment")["spec"]["replicas"])


@law
def the_number_of_gateways_has_one_owner(release: Release) -> None:
    owners = [title(scaler) for scaler in scalers(release)]
    if "replicas" in release.one("Deployment")["spec"]:
        owners.append("replicas")
    assert len(owners) == 1, owners


@law
def only_gateways_are_scaled_and_they_ask_for_a_processor(release: Release) -> None:
    for scaler in scalers(release):
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", release.fullname), title(scaler)
        for pod in release.pods_of("gateway"):
            assert all(one.get("resources", {}).get("requests", {}).get("cpu") for one in pod.spec["containers"]), (
                f"{title(scaler)}: a share of no request is no number ({pod})"
            )


@law
def bounds_are_in_order(release: Release) -> None:
    for scaler in release.of("HorizontalPodAutoscaler"):
        assert 1 <= scaler["spec"]["minReplicas"] <= scaler["spec"]["maxReplicas"], title(scaler)
    for scaler in release.of("ScaledObject"):
        assert 1 <= scaler["spec"]["minReplicaCount"] <= scaler["spec"]["maxReplicaCount"], title(scaler)
    for group in release.worker_groups:
        assert 0 <= group["minReplicas"] <= group["maxReplicas"], group["groupName"]
        assert group["minReplicas"] <= group.get("replicas", group["minReplicas"]) <= group["maxReplicas"]


@law
def a_gateway_may_always_go(release: Release) -> None:
    for budget in release.of("PodDisruptionBudget"):
        spec = budget["spec"]
        if "gateway" in {pod.component for pod in release.selected(spec["selector"])}:
            assert fewest_gateways(release) > 1, f"{title(budget)} guards a single gateway"
            assert _may_go(spec["maxUnavailable"], fewest_gateways(release)) >= 1, title(budget)
            assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow", title(budget)


def _may_go(allowed: Any, pods: int) -> int:
    """Kubernetes rounds a percentage up."""
    return math.ceil(pods * int(allowed.rstrip("%")) / 100) if isinstance(allowed, str) else int(allowed)


@law
def a_budget_of_ray_pods_is_a_number_below_their_least(release: Release) -> None:
    """Pods of a custom resource without `scale` are budgeted by an integer `minAvailable` alone."""
    least = {group["groupName"]: group["minReplicas"] for group in release.worker_groups}
    for budget in release.of("PodDisruptionBudget"):
        for pod in release.selected(budget["spec"]["selector"]):
            if pod.is_ray:
                spec = budget["spec"]
                assert "maxUnavailable" not in spec, title(budget)
                assert type(spec["minAvailable"]) is int, title(budget)
                assert 1 <= spec["minAvailable"] < least[pod.group], title(budget)


@law
def every_group_that_can_spare_a_pod_has_a_budget(release: Release) -> None:
    guarded = {
        pod.group
        for budget in release.of("PodDisruptionBudget")
        for pod in release.selected(budget["spec"]["selector"])
        if pod.is_ray
    }
    assert guarded == {group["groupName"] for group in release.worker_groups if group["minReplicas"] > 1}


@law
def gateways_roll_without_a_gap(release: Release) -> None:
    strategy = release.one("Deployment")["spec"]["strategy"]
    assert strategy["type"] == "RollingUpdate"
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0


@law
def a_scaled_object_speaks_to_the_gateways_themselves(release: Release) -> None:
    services = {name_of(service): service for service in release.of("Service")}
    for scaler in release.of("ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            if trigger["type"].startswith("external"):
                host, _, port = trigger["metadata"]["scalerAddress"].partition(":")
                name, space, *_ = host.split(".")
                assert name in services, f"{title(scaler)}: {host}"
                ports = [one["port"] for one in services[name]["spec"]["ports"]]
                assert (space, int(port) in ports) == (release.namespace, True), title(scaler)
