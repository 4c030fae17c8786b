"""What the KubeRay operator enforces in code, beyond its CRD, and what a Ray pod needs that it does not set."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from tests.helm.invariants.laws import advice, law
from tests.helm.release import GROUP, Pod, Release

GPU: Final = "nvidia.com/gpu"
CHART_OF_A_POD: Final = ("helm.sh/chart", "app.kubernetes.io/version", "checksum")
"""Labels and annotations that change with every release: on a Ray pod each would cost a second cluster."""
LOCK: Final = Path(__file__).resolve().parents[3] / "requirements.lock"


def pod_of(release: Release, group: str) -> Pod:
    (pod,) = [pod for pod in release.pods_of("ray-worker") if pod.group == group]
    return pod


def cpus_of(pod: Pod) -> float:
    """What Ray counts in a pod: the limit, else the request."""
    resources = pod.main["resources"]
    asked = str(resources.get("limits", {}).get("cpu") or resources.get("requests", {}).get("cpu") or 0)
    return int(asked[:-1]) / 1000 if asked.endswith("m") else float(asked)


def bytes_of(asked: str | int) -> float:
    """A quantity of memory."""
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)(|[KMGT]i?|m|k)", str(asked))
    assert match, asked
    number, unit = match.groups()
    powers = {"": 0, "K": 1, "k": 1, "M": 2, "G": 3, "T": 4}
    return float(number) * (1024 if unit.endswith("i") else 1000) ** powers[unit.removesuffix("i")]


@law
def every_group_has_its_pods_and_its_label(release: Release) -> None:
    names = [group["groupName"] for group in release.worker_groups]
    assert len(set(names)) == len(names), names
    assert [pod.labels.get(GROUP) for pod in release.pods_of("ray-worker")] == names


@law
def starting_parameters_are_strings_and_nothing_is_said_twice(release: Release) -> None:
    cluster = release.ray_service["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *release.worker_groups]:
        parameters = group.get("rayStartParams", {})
        assert all(isinstance(value, str) for value in parameters.values()), parameters
        assert "labels" not in parameters
        assert not (group.get("resources") and parameters.keys() & {"num-cpus", "num-gpus", "memory"}), parameters


@law
def no_replica_runs_on_the_head(release: Release) -> None:
    head = release.ray_service["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "resources" not in head["rayStartParams"]


@law
def every_group_offers_the_place_that_its_models_ask_for(release: Release) -> None:
    for group in release.worker_groups:
        said = group["rayStartParams"]["resources"]
        place = json.loads(said[1:-1].replace('\\"', '"') if said[0] in "\"'" else said)
        assert place == {f"headrace-{group['groupName']}": 1000}, said


@law
def the_autoscaler_restarts_no_pod(release: Release) -> None:
    cluster = release.ray_service["spec"]["rayClusterConfig"]
    if cluster.get("enableInTreeAutoscaling"):
        assert cluster["autoscalerOptions"]["version"] == "v2"
        for pod in release.pods:
            if pod.is_ray:
                assert pod.spec.get("restartPolicy", "Never") == "Never", str(pod)
                assert "RAY_enable_autoscaler_v2" not in pod.environment, str(pod)


@law
def an_upgrade_has_a_name_that_the_operator_knows(release: Release) -> None:
    strategy = release.ray_service["spec"]["upgradeStrategy"]["type"]
    assert strategy in {"NewCluster", "None", "NewClusterWithIncrementalUpgrade"}


@law
def ray_pods_change_with_nothing_but_what_they_run(release: Release) -> None:
    for pod in release.pods:
        if pod.is_ray:
            said = {**pod.labels, **pod.annotations}
            assert not [key for key in said if key.startswith(CHART_OF_A_POD)], f"{pod}: {sorted(said)}"
            assert "ray.io/cluster" not in pod.labels, str(pod)


@advice
def the_cluster_is_of_the_ray_that_is_tested(release: Release) -> None:
    locked = re.search(r"^ray==(.+)$", LOCK.read_text(), re.MULTILINE)
    assert locked
    assert release.ray_service["spec"]["rayClusterConfig"]["rayVersion"] == locked[1]


@law
def a_gpu_is_asked_for_as_it_is_limited_and_its_node_is_put_up_with(release: Release) -> None:
    for pod in release.pods_of("ray-worker"):
        resources = pod.main["resources"]
        limit = resources.get("limits", {}).get(GPU)
        assert resources.get("requests", {}).get(GPU, limit) == limit, str(pod)
        if limit:
            keys = {one.get("key") for one in pod.spec.get("tolerations", [])}
            assert keys & {GPU, None}, f"{pod} does not tolerate {GPU}"


@law
def a_pod_sees_the_gpus_that_it_asks_for(release: Release) -> None:
    """The image names all of a node's. Where a pod asks, the device plugin says which: a variable would win over it."""
    for pod in release.pods:
        if pod.is_ray:
            hidden = pod.environment.get("NVIDIA_VISIBLE_DEVICES") == "void"
            assert hidden != bool(pod.main["resources"].get("limits", {}).get(GPU)), str(pod)


@advice
def the_object_store_fits_into_the_memory(release: Release) -> None:
    for group in release.worker_groups:
        store = float(group["rayStartParams"].get("object-store-memory", 0))
        memory = pod_of(release, group["groupName"]).main["resources"]["limits"]["memory"]
        assert store < bytes_of(memory), f"{group['groupName']}: {store} of {memory}"


@law
def the_head_serves_what_the_operator_looks_for(release: Release) -> None:
    (head,) = release.pods_of("ray-head")
    ports: dict[str, Any] = {port["name"]: port["containerPort"] for port in head.ports}
    wanted = {"gcs": 6379, "dashboard": 8265, "client": 10001, "serve": 8000, "metrics": 8080}
    assert wanted.items() <= ports.items() or {**wanted, "gcs-server": 6379}.items() <= ports.items(), ports
    assert release.ray_service["spec"]["excludeHeadPodFromServeSvc"] is True


@law
def ray_has_somewhere_to_write(release: Release) -> None:
    for pod in release.pods:
        if pod.is_ray and pod.main["securityContext"].get("readOnlyRootFilesystem"):
            volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
            writable = {one["mountPath"] for one in pod.main["volumeMounts"] if "emptyDir" in volumes[one["name"]]}
            assert writable & {"/tmp", "/tmp/ray"}, f"{pod}: {sorted(writable)}"  # noqa: S108
            assert "HOME" in pod.environment, str(pod)


@law
def redis_is_named_in_one_place(release: Release) -> None:
    cluster = release.ray_service["spec"]["rayClusterConfig"]
    (head,) = release.pods_of("ray-head")
    assert not [name for name in head.environment if name.startswith(("RAY_REDIS", "REDIS"))]
    assert not [name for name in cluster["headGroupSpec"]["rayStartParams"] if "redis" in name]
