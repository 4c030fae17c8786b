"""Ports have names that fit, numbers that are there, and one truth: the settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.helm.invariants.laws import law
from tests.helm.release import Pod, Release, title

AGENT: Final = 52365
"""Of Ray's agent on every node: the operator probes it, no container declares it."""


def probes(pod: Pod) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Every probe and hook with a port, and its container."""
    for container in pod.containers:
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            for way in ("grpc", "httpGet", "tcpSocket"):
                if asked := container.get(kind, {}).get(way):
                    yield asked, container


@law
def port_names_are_short_and_unique_in_their_pod(release: Release) -> None:
    for pod in release.pods:
        names = Counter(port["name"] for port in pod.ports if "name" in port)
        assert all(len(name) <= 15 for name in names), f"{pod}: {sorted(names)}"
        assert not [name for name, times in names.items() if times > 1], f"{pod}: {names}"


@law
def port_numbers_are_unique_in_their_pod(release: Release) -> None:
    for pod in release.pods:
        numbers = Counter((port["containerPort"], port.get("protocol", "TCP")) for port in pod.ports)
        assert not [number for number, times in numbers.items() if times > 1], f"{pod}: {numbers}"


@law
def a_probe_asks_a_port_of_its_own_container(release: Release) -> None:
    for pod in release.pods:
        for asked, container in probes(pod):
            declared = {port["containerPort"] for port in container.get("ports", [])}
            declared |= {port["name"] for port in container.get("ports", []) if "name" in port}
            declared |= {AGENT} if pod.is_ray else set()
            assert asked["port"] in declared, f"{pod}: {asked}"


@law
def a_grpc_probe_has_a_number_and_asks_for_a_name_that_is_served(release: Release) -> None:
    for pod in release.pods:
        for asked, _ in probes(pod):
            if "service" in asked:
                assert isinstance(asked["port"], int), f"{pod}: {asked}"
                assert asked["service"] in {"liveness", "readiness"}, f"{pod}: {asked}"


@law
def a_service_aims_at_a_port_that_its_pods_have(release: Release) -> None:
    for service in release.of("Service"):
        for pod in release.selected({"matchLabels": service["spec"]["selector"]}):
            names = {port.get("name") for port in pod.ports}
            for port in service["spec"]["ports"]:
                assert port["targetPort"] in names, f"{title(service)} → {pod}: {port}"


@law
def a_monitor_scrapes_a_port_that_every_pod_it_finds_has(release: Release) -> None:
    for monitor in release.of("PodMonitor"):
        for pod in release.selected(monitor["spec"]["selector"]):
            names = {port.get("name") for port in pod.ports}
            assert any(end["port"] in names for end in monitor["spec"]["podMetricsEndpoints"]), (
                f"{title(monitor)} {pod}"
            )


@law
def the_settings_open_the_ports_that_the_chart_declares(release: Release) -> None:
    for component in ("gateway", "control"):
        section = release.settings[component]
        for pod in release.pods_of(component):
            assert section["host"] == "0.0.0.0", f"{pod} listens to itself alone"  # noqa: S104 - a pod's own network
            assert section["port"] == pod.port("grpc"), str(pod)
            assert section["metrics_port"] == pod.port("app-metrics"), str(pod)
            health = {port["containerPort"] for port in pod.ports if port.get("name") == "health"}
            assert health == ({section["health_port"]} if section.get("health_port") else set()), str(pod)


@law
def the_kubelet_is_asked_in_plain_text(release: Release) -> None:
    """A gRPC probe speaks TLS from Kubernetes 1.37 only: where TLS is on, probes go to the port beside it."""
    for component in ("gateway", "control"):
        for pod in release.pods_of(component):
            port = "health" if release.settings.get("tls") else "grpc"
            asked = {one["port"] for one, container in probes(pod) if container is pod.main}
            assert asked == {pod.port(port)}, f"{pod}: {asked}"


@law
def gateways_and_control_have_all_three_probes(release: Release) -> None:
    for component in ("gateway", "control"):
        for pod in release.pods_of(component):
            found = {kind: pod.main[kind]["grpc"]["service"] for kind in pod.main if kind.endswith("Probe")}
            assert found == {"startupProbe": "liveness", "readinessProbe": "readiness", "livenessProbe": "liveness"}


@law
def workers_bring_a_readiness_that_needs_neither_wget_nor_a_proxy(release: Release) -> None:
    for pod in release.pods_of("ray-worker"):
        assert pod.main["readinessProbe"]["httpGet"] == {"path": "/api/healthz", "port": AGENT}, str(pod)
        assert "livenessProbe" not in pod.main, f"{pod}: liveness is the operator's"
