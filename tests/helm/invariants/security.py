"""Restricted Pod Security for every container, those of Ray pods too: general scanners do not look in there.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards (restricted).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tests.helm.invariants.laws import advice, law
from tests.helm.release import Pod, Release

VOLUMES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)


def _said(pod: Pod, container: Mapping[str, Any], key: str) -> Any:
    """The container's word, else the pod's."""
    own, of_pod = container.get("securityContext") or {}, pod.spec.get("securityContext") or {}
    return own.get(key, of_pod.get(key))


@law
def nobody_is_root(release: Release) -> None:
    for pod in release.pods:
        for container in pod.containers:
            user = _said(pod, container, "runAsUser")
            assert _said(pod, container, "runAsNonRoot") is True, f"{pod} {container['name']}"
            assert type(user) is int, f"{pod} {container['name']}"
            assert user > 0, f"{pod} {container['name']}"


@law
def nobody_has_privileges(release: Release) -> None:
    for pod in release.pods:
        for container in pod.containers:
            context = container.get("securityContext") or {}
            assert context.get("allowPrivilegeEscalation") is False, f"{pod} {container['name']}"
            assert context.get("capabilities") == {"drop": ["ALL"]}, f"{pod} {container['name']}"
            assert not context.get("privileged"), f"{pod} {container['name']}"


@law
def system_calls_are_filtered(release: Release) -> None:
    for pod in release.pods:
        for container in pod.containers:
            profile = _said(pod, container, "seccompProfile") or {}
            assert profile.get("type") == "RuntimeDefault", f"{pod} {container['name']}"


@law
def images_cannot_be_written_to(release: Release) -> None:
    for pod in release.pods:
        for container in pod.containers:
            context = container.get("securityContext") or {}
            assert context.get("readOnlyRootFilesystem") is True, f"{pod} {container['name']}"


@law
def pods_keep_to_themselves(release: Release) -> None:
    for pod in release.pods:
        assert not [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(key)], str(pod)
        assert not [port for port in pod.ports if "hostPort" in port], str(pod)
        for volume in pod.spec.get("volumes", []):
            assert set(volume) - {"name"} <= VOLUMES, f"{pod}: {volume}"


@law
def only_the_autoscaler_has_a_token(release: Release) -> None:
    scales = release.ray_service["spec"]["rayClusterConfig"].get("enableInTreeAutoscaling")
    for pod in release.pods:
        if not (scales and pod.component == "ray-head"):
            assert pod.spec.get("automountServiceAccountToken") is False, str(pod)


@advice
def images_are_pinned(release: Release) -> None:
    for pod in release.pods:
        for container in pod.containers:
            name, _, tag = container["image"].rpartition("/")[2].partition(":")
            assert "@sha256:" in container["image"] or (tag and tag != "latest"), f"{pod}: {name}:{tag}"


@law
def gateway_and_control_run_one_image_and_ray_pods_one(release: Release) -> None:
    for components in (("gateway", "control"), ("ray-head", "ray-worker")):
        images = {pod.main["image"] for pod in release.pods if pod.component in components}
        assert len(images) == 1, images


@advice
def every_container_of_ours_is_bounded(release: Release) -> None:
    for pod in release.pods:
        if pod.component != "test":
            resources = pod.main["resources"]
            assert resources.get("limits", {}).get("memory"), str(pod)
            assert resources.get("requests", {}).get("cpu"), str(pod)


@law
def the_autoscaler_is_as_restricted_as_the_rest(release: Release) -> None:
    """The operator makes its container, out of these options."""
    scaler = release.ray_service["spec"]["rayClusterConfig"].get("autoscalerOptions")
    if scaler:
        context = scaler["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
