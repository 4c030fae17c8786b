"""What Serve runs: an application for each model version, that fits into the pods there are."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final

from tests.helm.invariants.laws import advice, law
from tests.helm.invariants.ray import GPU, cpus_of, pod_of
from tests.helm.release import Release

IMPORT_PATH: Final = "headrace.serving.app:build"
PLACE: Final = "headrace-"
"""Ray resource that the pods of a group have: `headrace-<group>`."""


def group_of(deployment: Mapping[str, Any]) -> str:
    """The worker group that a deployment is bound to."""
    resources = deployment["ray_actor_options"]["resources"]
    (group,) = [name.removeprefix(PLACE) for name in resources if name.startswith(PLACE)]
    return str(group)


def bounds(deployment: Mapping[str, Any]) -> tuple[int, int]:
    """Fewest and most replicas."""
    if scaling := deployment.get("autoscaling_config"):
        return int(scaling["min_replicas"]), int(scaling["max_replicas"])
    return int(deployment["num_replicas"]), int(deployment["num_replicas"])


def replicas_in_a_pod(release: Release, deployment: Mapping[str, Any]) -> float:
    """How many replicas of a deployment a pod of its group holds, if it holds nothing else."""
    options, pod = deployment["ray_actor_options"], pod_of(release, group_of(deployment))
    gpus = int(pod.main["resources"].get("limits", {}).get(GPU, 0))
    rooms = [(cpus_of(pod), options.get("num_cpus", 0)), (gpus, options.get("num_gpus", 0))]
    return min((math.floor(there / asked + 1e-9) for there, asked in rooms if asked), default=math.inf)


@law
def an_application_is_one_model_version(release: Release) -> None:
    for application in release.applications:
        directory = application["args"]["directory"]
        assert application["import_path"] == IMPORT_PATH, application["name"]
        assert application.get("route_prefix", "") is None, f"{application['name']} has an HTTP route"
        assert [one["name"] for one in application["deployments"]] == ["replica"], application["name"]
        assert directory.startswith("/"), directory


@law
def no_two_applications_have_a_name_or_a_directory_in_common(release: Release) -> None:
    assert release.serve_config.get("proxy_location") == "Disabled"
    for key in (lambda one: one["name"], lambda one: one["args"]["directory"]):
        found = Counter(key(one) for one in release.applications)
        assert max(found.values(), default=1) == 1, found


@law
def what_scales_follows_the_gateways(release: Release) -> None:
    """No request passes Serve: its own policy would see none for ever."""
    for deployment in release.deployments:
        fewest, most = bounds(deployment)
        assert 1 <= fewest <= most, deployment
        if most > fewest:
            policy = deployment["autoscaling_config"]["policy"]
            assert policy["policy_function"] == "headrace.serving.scaling:follow_deadlines", deployment


@law
def a_replica_fits_into_a_pod_of_its_group(release: Release) -> None:
    for deployment in release.deployments:
        assert replicas_in_a_pod(release, deployment) >= 1, deployment["ray_actor_options"]


@advice
def the_least_replicas_fit_into_the_least_pods_and_the_most_into_the_most(release: Release) -> None:
    groups = {group["groupName"]: group for group in release.worker_groups}
    needed: dict[tuple[str, int], float] = defaultdict(float)
    for deployment in release.deployments:
        for side, replicas in enumerate(bounds(deployment)):
            needed[group_of(deployment), side] += replicas / replicas_in_a_pod(release, deployment)
    for (name, side), pods in needed.items():
        limit = int(groups[name][("minReplicas", "maxReplicas")[side]])
        assert pods <= limit + 1e-9, f"group {name}: {pods:.2f} pods are needed, there are {limit}"


@law
def the_replicas_of_a_pod_have_ports(release: Release) -> None:
    first, last = release.settings["replica"]["ports"]
    for group in {group_of(deployment) for deployment in release.deployments}:
        here = [replicas_in_a_pod(release, one) for one in release.deployments if group_of(one) == group]
        most = sum(bounds(one)[1] for one in release.deployments if group_of(one) == group)
        assert last - first + 1 >= min(max(here), most), f"group {group}: {max(here)} replicas in a pod"


@law
def replicas_listen_in_the_range_that_is_open(release: Release) -> None:
    said = release.settings["replica"]["ports"]
    for application in release.applications:
        assert application["args"]["settings"]["replica"]["ports"] == said, application["name"]
    for pod in release.pods_of("ray-worker"):
        taken = {port["containerPort"] for port in pod.ports if port.get("name") != "replicas"} | {
            6379,
            8000,
            8080,
            8265,
            10001,
            52365,
        }
        assert not [port for port in taken if said[0] <= port <= said[1]], str(pod)
        assert said[1] < 10001, "Ray's workers listen from 10002 on"
    for policy in release.of("NetworkPolicy"):
        for rule in policy["spec"].get("ingress") or []:
            for port in rule.get("ports") or []:
                assert "endPort" not in port or [port["port"], port["endPort"]] == said, policy["metadata"]["name"]
