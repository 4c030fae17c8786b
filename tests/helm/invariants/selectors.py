"""Selectors find pods of the release, and only those that they are meant for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.helm.invariants.laws import law
from tests.helm.release import COMPONENT, GROUP, Pod, Release, component_of, title

NAME: Final = "app.kubernetes.io/name"
INSTANCE: Final = "app.kubernetes.io/instance"
MAY_SELECT: Final = frozenset({NAME, INSTANCE, COMPONENT, GROUP})
"""Never `ray.io/cluster`: while one Ray cluster replaces another, the pods of both are meant."""


def selectors(release: Release) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Whatever selects pods of its own namespace: who, and by what."""
    for found in release.objects:
        spec = found.get("spec") or {}
        match found["kind"]:
            case "Service":
                yield title(found), {"matchLabels": spec["selector"]}
            case "PodDisruptionBudget" | "PodMonitor" | "Deployment" | "StatefulSet":
                yield title(found), spec["selector"]
            case "NetworkPolicy":
                yield title(found), spec["podSelector"]
    for pod in release.pods:
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            yield f"{pod} spread", constraint["labelSelector"]


@law
def every_selector_finds_a_pod(release: Release) -> None:
    for who, selector in selectors(release):
        assert release.selected(selector), f"{who} selects nothing: {selector}"


@law
def no_selector_reaches_into_another_release(release: Release) -> None:
    for who, selector in selectors(release):
        wanted = selector.get("matchLabels") or {}
        asked = set(wanted) | {one["key"] for one in selector.get("matchExpressions") or []}
        assert wanted.get(INSTANCE) == release.name, f"{who} has no instance: {selector}"
        assert asked <= MAY_SELECT, f"{who} selects by {sorted(asked - MAY_SELECT)}"


@law
def a_service_leads_to_one_deployment_and_never_to_a_replica(release: Release) -> None:
    for service in release.of("Service"):
        found = release.selected({"matchLabels": service["spec"]["selector"]})
        owners = {pod.owner for pod in found}
        assert len(owners) == 1, f"{title(service)} leads to {sorted(owners)}"
        assert not any(pod.is_ray for pod in found), f"{title(service)} leads to Ray pods"
        assert found[0].owner.split("/")[0] in {"Deployment", "StatefulSet"}, f"{title(service)} leads to {owners}"
        assert found[0].component == component_of(service), f"{title(service)} says it is {component_of(service)}"


@law
def a_workload_selects_exactly_its_own_pods(release: Release) -> None:
    for kind in ("Deployment", "StatefulSet"):
        for found in release.of(kind):
            assert [pod.owner for pod in release.selected(found["spec"]["selector"])] == [title(found)], title(found)


@law
def a_disruption_budget_guards_one_kind_of_pod(release: Release) -> None:
    for budget in release.of("PodDisruptionBudget"):
        guarded = {(pod.component, pod.group) for pod in release.selected(budget["spec"]["selector"])}
        assert len(guarded) == 1, f"{title(budget)} guards {sorted(guarded)}"


@law
def pods_are_spread_among_their_own_kind(release: Release) -> None:
    for pod in release.pods:
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            found = {(one.component, one.group) for one in release.selected(constraint["labelSelector"])}
            assert found == {(pod.component, pod.group)}, f"{pod} is spread among {sorted(found)}"
            assert constraint.get("matchLabelKeys") == [_generation(pod)], f"{pod}: old and new pods count together"


def _generation(pod: Pod) -> str:
    """The label that tells the pods of one roll-out from those of the next."""
    return "ray.io/cluster" if pod.is_ray else "pod-template-hash"
