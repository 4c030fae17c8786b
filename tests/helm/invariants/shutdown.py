"""Nobody is killed while it still holds a request: each deadline leaves room for the ones inside it."""

from __future__ import annotations

from typing import Final

from tests.helm.invariants.laws import law
from tests.helm.release import Release

from headrace.config import BatchingSettings, ReplicaSettings

MARGIN_S: Final = 10
"""Between the last thing a process does and the kill."""
NODE_DRAIN: Final = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"


def replica_drain_s(release: Release) -> float:
    """What a replica takes to say that it goes and to answer what it holds."""
    section = release.settings.get("replica", {})
    default = ReplicaSettings()
    return float(section.get("notice_s", default.notice_s)) + float(section.get("grace_s", default.grace_s))


@law
def a_gateway_has_time_to_drain(release: Release) -> None:
    drain_s = float(release.settings["gateway"]["drain_s"])
    for pod in release.pods_of("gateway"):
        assert pod.pre_stop_s > 0, f"{pod}: endpoints need time to spread"
        assert pod.pre_stop_s + drain_s + MARGIN_S <= pod.grace_s, str(pod)


@law
def a_ray_pod_has_time_to_drain(release: Release) -> None:
    slowest_s = max(float(one["graceful_shutdown_timeout_s"]) for one in release.deployments)
    for pod in [*release.pods_of("ray-head"), *release.pods_of("ray-worker")]:
        node_s = float(pod.environment[NODE_DRAIN])
        assert pod.pre_stop_s + node_s + MARGIN_S <= pod.grace_s, str(pod)
        assert node_s > slowest_s, f"{pod}: the node is gone before its replicas"


@law
def serve_waits_longer_for_a_replica_than_that_takes(release: Release) -> None:
    for deployment in release.deployments:
        assert float(deployment["graceful_shutdown_timeout_s"]) > replica_drain_s(release)


@law
def an_old_ray_cluster_stays_until_nobody_waits_for_it(release: Release) -> None:
    models = release.settings.get("models") or {}
    default_ms = BatchingSettings().default_timeout_ms
    longest_ms = max([default_ms, *((m.get("batching") or {}).get("default_timeout_ms", 0) for m in models.values())])
    delay_s = float(release.ray_service["spec"]["rayClusterDeletionDelaySeconds"])
    assert delay_s > longest_ms / 1000 + replica_drain_s(release)
