"""Releases with one thing wrong: what must make a law fail, or the law says nothing."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import yaml
from tests.helm.release import COMPONENT, Release, name_of

Path = tuple[str | int, ...]
HEAD: Final[Path] = ("spec", "rayClusterConfig", "headGroupSpec")
TEMPLATE: Final[Path] = ("spec", "template", "spec")
MAIN: Final[Path] = (*TEMPLATE, "containers", 0)
DEPLOYMENT: Final[Path] = ("applications", 0, "deployments", 0)
TEXTS: Final = ("serveConfigV2", "headrace.yaml")
"""Keys whose text is YAML itself."""
BREAKS: Final[dict[str, tuple[str, str, Path, Any]]] = {
    "starting_parameters_are_strings_and_nothing_is_said_twice": (
        "RayService", "", (*HEAD, "rayStartParams", "num-cpus"), 0,
    ),
    "ray_pods_change_with_nothing_but_what_they_run": (
        "RayService", "", (*HEAD, "template", "metadata", "labels", "helm.sh/chart"), "headrace-1",
    ),
    "a_gpu_is_asked_for_as_it_is_limited_and_its_node_is_put_up_with": (
        "RayService", "", ("spec", "rayClusterConfig", "workerGroupSpecs", 1, "template", "spec", "tolerations"), [],
    ),
    "redis_is_named_in_one_place": ("RayService", "", (*HEAD, "rayStartParams", "redis-password"), "secret"),
    "control_is_one_process_that_ends_before_the_next_begins": ("Deployment", "-control", ("spec", "replicas"), 2),
    "nothing_guards_or_scales_control": (
        "PodDisruptionBudget", "", ("spec", "selector", "matchLabels", COMPONENT), "control",
    ),
    "no_probe_follows_control": (
        "Deployment", "", (*MAIN, "readinessProbe"), {"tcpSocket": {"host": "risk-headrace-control", "port": 9100}},
    ),
    "routes_lead_to_the_gateways": ("GRPCRoute", "", ("spec", "rules", 0, "backendRefs", 0, "name"), "other"),
    "the_number_of_gateways_has_one_owner": ("Deployment", "", ("spec", "replicas"), 3),
    "only_gateways_are_scaled_and_they_ask_for_a_processor": (
        "ScaledObject", "", ("spec", "scaleTargetRef", "name"), "risk-headrace-control",
    ),
    "a_gateway_may_always_go": ("PodDisruptionBudget", "", ("spec", "maxUnavailable"), 0),
    "a_scaled_object_speaks_to_the_gateways_themselves": (
        "ScaledObject", "", ("spec", "triggers", 1, "metadata", "scalerAddress"), "risk-headrace.payments.svc:1",
    ),
    "pods_keep_to_themselves": ("Deployment", "", (*TEMPLATE, "hostNetwork"), True),
    "the_settings_load": ("ConfigMap", "-settings", ("data", "headrace.yaml", "gateway", "prot"), 1),
    "whole_numbers_are_written_out": ("Deployment", "", (*MAIN, "env", 0), {"name": "A", "value": "1e+07"}),
    "variables_are_settings": ("Deployment", "", (*MAIN, "env", 0, "name"), "HEADRACE_GATEWAY__PROT"),
    "serve_waits_longer_for_a_replica_than_that_takes": (
        "RayService", "", ("spec", "serveConfigV2", *DEPLOYMENT, "graceful_shutdown_timeout_s"), 1,
    ),
    "an_old_ray_cluster_stays_until_nobody_waits_for_it": (
        "RayService", "", ("spec", "rayClusterDeletionDelaySeconds"), 1,
    ),
}  # fmt: skip
"""Law → an object (its kind, what its name ends with), a path into it, and what to put there."""


def broken_for(release: Release, law: str) -> Release:
    """The release with what BREAKS says of a law."""
    kind, suffix, path, value = BREAKS[law]
    name = release.fullname + suffix
    objects = [copy.deepcopy(one) for one in release.objects]
    (index,) = [i for i, one in enumerate(objects) if (one["kind"], name_of(one)) == (kind, name)]
    objects[index] = _put(objects[index], path, value)
    return dataclasses.replace(release, objects=tuple(objects))


def _put(tree: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    key, rest = path[0], path[1:]
    if key in TEXTS:
        return {**tree, key: yaml.safe_dump(_put(yaml.safe_load(tree[key]), rest, value))}
    if isinstance(tree, list):
        return [_put(one, rest, value) if index == key else one for index, one in enumerate(tree)]
    return {**tree, key: _put(tree.get(key, {}), rest, value)}


def broken(release: Release) -> Iterator[Release]:
    """Each value changed, each key and each item taken away, each item doubled: one at a time, in all objects."""
    for index, found in enumerate(release.objects):
        for other in _changes(found):
            objects = (*release.objects[:index], other, *release.objects[index + 1 :])
            yield dataclasses.replace(release, objects=objects)
        yield dataclasses.replace(release, objects=(*release.objects[:index], *release.objects[index + 1 :]))
        yield dataclasses.replace(release, objects=(*release.objects, found))


def _changes(tree: Any) -> Iterator[Any]:
    match tree:
        case dict():
            for key, value in tree.items():
                yield {name: other for name, other in tree.items() if name != key}
                yield from ({**tree, key: other} for other in _below(key, value))
        case list():
            for index, value in enumerate(tree):
                yield [*tree[:index], *tree[index + 1 :]]
                yield [*tree, value]
                yield from ([*tree[:index], other, *tree[index + 1 :]] for other in _changes(value))
        case bool():
            yield not tree
        case int() | float():
            yield from (tree + 1000, -1, str(tree))
        case str():
            yield from ("other", f"{tree}-x", tree * 40)


def _below(key: str, value: Any) -> Iterator[Any]:
    if key in TEXTS:
        yield from (yaml.safe_dump(other) for other in _changes(yaml.safe_load(value)))
    else:
        yield from _changes(value)
