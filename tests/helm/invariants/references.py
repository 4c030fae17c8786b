"""What a pod names is there: volumes of its mounts, and the objects of the release behind them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.helm.invariants.laws import law
from tests.helm.release import Pod, Release, name_of


def mentioned(pod: Pod) -> Iterator[tuple[str, str]]:
    """Kind and name of every object that a pod cannot start without."""
    volumes = pod.spec.get("volumes", [])
    for volume in [*volumes, *(part for one in volumes for part in one.get("projected", {}).get("sources", []))]:
        if source := volume.get("configMap"):
            yield "ConfigMap", source["name"]
        if source := volume.get("persistentVolumeClaim"):
            yield "PersistentVolumeClaim", source["claimName"]
    for container in pod.containers:
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                yield "ConfigMap", source["configMapRef"]["name"]
    if account := pod.spec.get("serviceAccountName"):
        yield "ServiceAccount", account


@law
def objects_of_the_release_that_are_named_are_there(release: Release) -> None:
    """A name that begins like ours is meant to be ours; others the user has made."""
    there = {(found["kind"], name_of(found)) for found in release.objects}
    for pod in release.pods:
        for kind, name in mentioned(pod):
            if name.startswith(release.fullname):
                assert (kind, name) in there, f"{pod} names {kind}/{name}"


@law
def every_mount_has_its_volume(release: Release) -> None:
    for pod in release.pods:
        volumes = [volume["name"] for volume in pod.spec.get("volumes", [])]
        assert len(set(volumes)) == len(volumes), f"{pod}: {volumes}"
        for container in pod.containers:
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(set(paths)) == len(paths), f"{pod}: {paths}"
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes), str(pod)


@law
def every_volume_is_mounted(release: Release) -> None:
    """The operator puts the autoscaler's container into the head."""
    scaler = release.ray_service["spec"]["rayClusterConfig"].get("autoscalerOptions", {})
    for pod in release.pods:
        containers = [*pod.containers, scaler] if pod.component == "ray-head" else pod.containers
        mounted = {mount["name"] for container in containers for mount in container.get("volumeMounts", [])}
        unused = {volume["name"] for volume in pod.spec.get("volumes", [])} - mounted - {"extra"}
        assert not unused, f"{pod} mounts no {sorted(unused)}"


@law
def a_binding_binds_what_is_there(release: Release) -> None:
    there = {(found["kind"], name_of(found)) for found in release.objects}
    for binding in release.of("RoleBinding"):
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in there
        for subject in binding["subjects"]:
            assert subject["namespace"] == release.namespace
            if subject["name"].startswith(release.fullname):
                assert (subject["kind"], subject["name"]) in there, subject


@law
def routes_lead_to_the_gateways(release: Release) -> None:
    for route in release.of("GRPCRoute"):
        services = {name_of(one): [port["port"] for port in one["spec"]["ports"]] for one in release.of("Service")}
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                assert backend["name"] == release.fullname
                assert backend["port"] in services[backend["name"]]
