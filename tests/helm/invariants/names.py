"""Names and labels fit, are told apart, and say to whom an object belongs."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from tests.helm.invariants.laws import law
from tests.helm.invariants.selectors import INSTANCE, NAME
from tests.helm.release import COMPONENT, Object, Release, name_of, title

COMMON: Final = frozenset(
    {NAME, INSTANCE, "helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"}
)
LABEL: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
DNS_1035: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
DNS_1123: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SUBDOMAIN: Final = re.compile(rf"{DNS_1123.pattern}(\.{DNS_1123.pattern})*")
SHAPES: Final = {"Service": DNS_1035, "RayService": DNS_1035, "ServiceAccount": SUBDOMAIN}
RAY_SERVICE_LENGTH: Final = 47
"""The operator appends to it."""


def ours(release: Release) -> list[Object]:
    """All but the objects that the user wrote, in `extraDeploy`: ours say which chart they are of."""
    return [found for found in release.objects if not name_of(found).endswith("-extra")]


@law
def no_two_objects_are_the_same(release: Release) -> None:
    found = Counter(title(one) for one in release.objects)
    assert not [name for name, times in found.items() if times > 1], found


@law
def names_fit(release: Release) -> None:
    """Services and RayServices are names in DNS; what names pods or volumes ends up in labels and in host names.

    A service account's ends up in neither.
    """
    for found in release.objects:
        name = name_of(found)
        shape = SHAPES.get(found["kind"], DNS_1123)
        assert len(name) <= (RAY_SERVICE_LENGTH if found["kind"] == "RayService" else 63), title(found)
        assert shape.fullmatch(name), title(found)


@law
def label_values_fit(release: Release) -> None:
    labels = [(title(one), one["metadata"].get("labels", {})) for one in release.objects]
    labels += [(pod.owner, pod.labels) for pod in release.pods]
    for who, found in labels:
        for key, value in found.items():
            assert len(value) <= 63, f"{who}: {key}={value}"
            assert LABEL.fullmatch(value), f"{who}: {key}={value}"


@law
def every_object_says_whose_it_is(release: Release) -> None:
    for found in ours(release):
        labels = found["metadata"].get("labels", {})
        assert labels.keys() >= COMMON, f"{title(found)}: {sorted(COMMON - labels.keys())}"
        assert labels[INSTANCE] == release.name, title(found)
        assert found["metadata"].get("namespace", release.namespace) == release.namespace, title(found)


@law
def every_pod_says_what_it_is(release: Release) -> None:
    for pod in release.pods:
        assert pod.labels.get(INSTANCE) == release.name, str(pod)
        assert pod.labels.get(COMPONENT), str(pod)


@law
def a_container_has_its_name_alone(release: Release) -> None:
    for pod in release.pods:
        names = Counter(container["name"] for container in pod.containers)
        assert max(names.values()) == 1, f"{pod}: {names}"
