"""What a chart renders, as the tests ask for it: objects by kind and name, and every pod that will run.

A pod is a pod wherever its template stands: in a Deployment, a RayService, a Job, or as itself. Knows nothing of helm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import yaml

Object = Mapping[str, Any]
COMPONENT: Final = "app.kubernetes.io/component"
GROUP: Final = "headrace.io/group"
RAY_COMPONENTS: Final = frozenset({"ray-head", "ray-worker"})


def name_of(found: Object) -> str:
    return str(found["metadata"]["name"])


def title(found: Object) -> str:
    """`Kind/name`, as an assertion should say it."""
    return f"{found['kind']}/{name_of(found)}"


@dataclass(frozen=True)
class Pod:
    """A template, and where it stands."""

    owner: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def component(self) -> str:
        return self.labels.get(COMPONENT, "")

    @property
    def group(self) -> str:
        """The worker group, of a Ray worker."""
        return self.labels.get(GROUP, "")

    @property
    def is_ray(self) -> bool:
        return self.component in RAY_COMPONENTS

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def main(self) -> Mapping[str, Any]:
        """The process that the pod is for."""
        first: Mapping[str, Any] = self.spec["containers"][0]
        return first

    @property
    def ports(self) -> list[Mapping[str, Any]]:
        return [port for container in self.containers for port in container.get("ports", [])]

    def port(self, name: str) -> int:
        """The number of a named port. Raises: KeyError."""
        return {port["name"]: int(port["containerPort"]) for port in self.ports if "name" in port}[name]

    @property
    def environment(self) -> dict[str, Any]:
        """Of the main container: name → value, or where it comes from."""
        return {one["name"]: one.get("value", one.get("valueFrom")) for one in self.main.get("env", [])}

    @property
    def pre_stop_s(self) -> float:
        sleep = self.main.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
        return float(sleep.get("seconds", 0))

    @property
    def grace_s(self) -> float:
        return float(self.spec.get("terminationGracePeriodSeconds", 30))

    def __str__(self) -> str:
        return self.owner


@dataclass(frozen=True)
class Release:
    """All objects of one render."""

    name: str
    namespace: str
    objects: tuple[Object, ...]

    def of(self, kind: str) -> list[Object]:
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, suffix: str = "") -> Object:
        """The one object of a kind whose name ends so."""
        (found,) = [one for one in self.of(kind) if name_of(one) == self.fullname + suffix]
        return found

    @cached_property
    def fullname(self) -> str:
        """Of the gateways, and the beginning of every other name."""
        (found,) = [one for one in self.of("Deployment") if component_of(one) == "gateway"]
        return name_of(found)

    @cached_property
    def pods(self) -> list[Pod]:
        return [pod for found in self.objects for pod in _pods(found)]

    def pods_of(self, component: str) -> list[Pod]:
        return [pod for pod in self.pods if pod.component == component]

    def selected(self, selector: Mapping[str, Any]) -> list[Pod]:
        """Pods that a label selector (`matchLabels`, `matchExpressions`) finds."""
        return [pod for pod in self.pods if matches(selector, pod.labels)]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """headrace.yaml of gateways and control."""
        tree: dict[str, Any] = _tree(self.one("ConfigMap", "-settings")["data"]["headrace.yaml"]) or {}
        return tree

    @cached_property
    def ray_service(self) -> Object:
        return self.one("RayService")

    @cached_property
    def serve_config(self) -> dict[str, Any]:
        tree: dict[str, Any] = _tree(self.ray_service["spec"]["serveConfigV2"])
        return tree

    @property
    def applications(self) -> list[dict[str, Any]]:
        return list(self.serve_config["applications"])

    @property
    def deployments(self) -> list[dict[str, Any]]:
        """Serve's, not Kubernetes'."""
        return [deployment for application in self.applications for deployment in application["deployments"]]

    @property
    def worker_groups(self) -> list[Mapping[str, Any]]:
        return list(self.ray_service["spec"]["rayClusterConfig"]["workerGroupSpecs"])


def _tree(text: str) -> Any:
    return yaml.load(text, Loader=yaml.CSafeLoader)


def component_of(found: Object) -> str:
    return str(found["metadata"].get("labels", {}).get(COMPONENT, ""))


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Kubernetes' label selector. An empty one matches everything."""
    wanted: Mapping[str, str] = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _holds(expression, labels) for expression in selector.get("matchExpressions") or []
    )


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    found, values = labels.get(expression["key"]), expression.get("values", [])
    match expression["operator"]:
        case "In":
            return found in values
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
    raise AssertionError(f"no such operator: {json.dumps(expression)}")


def _pods(found: Object) -> Iterator[Pod]:
    owner = title(found)
    match found["kind"]:
        case "Pod":
            yield _pod(owner, found)
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            yield _pod(owner, found["spec"]["template"])
        case "RayService":
            cluster = found["spec"]["rayClusterConfig"]
            yield _pod(f"{owner} head", cluster["headGroupSpec"]["template"])
            for group in cluster["workerGroupSpecs"]:
                yield _pod(f"{owner} {group['groupName']}", group["template"])


def _pod(owner: str, template: Mapping[str, Any]) -> Pod:
    metadata = template.get("metadata", {})
    return Pod(owner, metadata.get("labels") or {}, metadata.get("annotations") or {}, template["spec"])
