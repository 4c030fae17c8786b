"""Where policies are rendered they cover every pod, and open what is spoken and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.helm.invariants.laws import law
from tests.helm.release import Object, Pod, Release, matches, title


def policies(release: Release, pod: Pod) -> list[Object]:
    return [one for one in release.of("NetworkPolicy") if pod in release.selected(one["spec"]["podSelector"])]


def peers(policy: Object) -> Iterator[Mapping[str, Any]]:
    for rule in policy["spec"].get("ingress") or []:
        yield from rule.get("from") or []
    for rule in policy["spec"].get("egress") or []:
        yield from rule.get("to") or []


@law
def with_policies_no_pod_is_left_open(release: Release) -> None:
    if release.of("NetworkPolicy"):
        for pod in release.pods:
            kinds = {kind for one in policies(release, pod) for kind in one["spec"]["policyTypes"]}
            assert kinds == {"Ingress", "Egress"}, f"{pod} has policies for {sorted(kinds)}"


@law
def a_policy_names_peers_that_are_there(release: Release) -> None:
    for policy in release.of("NetworkPolicy"):
        for peer in peers(policy):
            if "podSelector" in peer and "namespaceSelector" not in peer and peer["podSelector"]:
                assert release.selected(peer["podSelector"]), f"{title(policy)}: {peer}"


@law
def an_open_port_is_one_that_the_pod_has(release: Release) -> None:
    """A rule without ports opens all: only between Ray pods, which speak on random ones."""
    for policy in release.of("NetworkPolicy"):
        for pod in release.selected(policy["spec"]["podSelector"]):
            for rule in policy["spec"].get("ingress") or []:
                if not rule.get("ports"):
                    assert pod.is_ray, f"{title(policy)} opens all of {pod}"
                for port in rule.get("ports") or []:
                    _is_declared(release, policy, pod, port)


def _is_declared(release: Release, policy: Object, pod: Pod, port: Mapping[str, Any]) -> None:
    declared = {one["containerPort"] for one in pod.ports} | {one.get("name") for one in pod.ports}
    if "endPort" in port:
        assert [port["port"], port["endPort"]] == list(release.settings["replica"]["ports"]), title(policy)
    elif pod.component != "ray-worker":  # one policy may speak of head and workers, and only the head has 8265
        assert port["port"] in declared, f"{title(policy)}: {pod} has no {port}"


@law
def callers_reach_whom_they_call(release: Release) -> None:
    """Gateways reach control and the replicas, replicas reach control: both ends of each way are open."""
    if release.of("NetworkPolicy"):
        grpc = release.settings["control"]["port"]
        first, last = release.settings["replica"]["ports"]
        (control, gateway) = (release.pods_of("control")[0], release.pods_of("gateway")[0])
        for worker in release.pods_of("ray-worker"):
            assert _open(release, worker, control, grpc), f"{worker} does not reach control"
            assert _open(release, gateway, worker, first), f"gateways do not reach {worker}"
            assert _open(release, gateway, worker, last), f"gateways do not reach {worker}"
        assert _open(release, gateway, control, grpc), "gateways do not reach control"
        for peer in release.settings["gateway"].get("peers") or []:
            assert _open(release, gateway, gateway, int(peer.rpartition(":")[2])), f"gateways do not reach {peer}"


def _open(release: Release, caller: Pod, called: Pod, port: int) -> bool:
    return _lets(release, caller, called, port, "egress", "to") and _lets(
        release, called, caller, port, "ingress", "from"
    )


def _lets(release: Release, here: Pod, there: Pod, port: int, way: str, end: str) -> bool:
    """Whether a policy of `here` lets `there` through on that port (of whoever is called)."""
    called = there if way == "egress" else here
    return any(
        (not rule.get(end) or any(_is(release, peer, there) for peer in rule[end]))
        and (not rule.get("ports") or any(_covers(one, called, port) for one in rule["ports"]))
        for policy in policies(release, here)
        for rule in policy["spec"].get(way) or []
    )


def _is(release: Release, peer: Mapping[str, Any], pod: Pod) -> bool:
    namespaces = peer.get("namespaceSelector")
    own = namespaces is None or matches(namespaces, {"kubernetes.io/metadata.name": release.namespace})
    return own and "ipBlock" not in peer and pod in release.selected(peer.get("podSelector") or {})


def _covers(one: Mapping[str, Any], pod: Pod, port: int) -> bool:
    if isinstance(one["port"], str):
        return any(found.get("name") == one["port"] and found["containerPort"] == port for found in pod.ports)
    return int(one["port"]) <= port <= int(one.get("endPort", one["port"]))
