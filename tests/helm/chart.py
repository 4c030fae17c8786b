"""The chart's folder, and a real helm that renders it: what it made, or what it refused and why.

Every call is hermetic: no cluster, no home folder, no repositories. A refusal is an answer here, not an exception.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from tests.helm.release import Release
from tests.helm.tools import TOOLS

CHART: Final = Path(__file__).resolve().parents[2] / "helm" / "headrace"
HELMS: Final = ("helm-4", "helm-3")
KUBE_VERSIONS: Final = ("1.30", "1.33", "1.37")
NAMESPACE: Final = "payments"
SCHEMA_REFUSAL: Final = "values don't meet the specifications of the schema"
TEMPLATE_REFUSAL: Final = "execution error at ("
"""helm writes this for `fail` and `required` alone; whatever else goes wrong in a template reads differently."""


@dataclass(frozen=True)
class Refusal:
    """What helm said instead of rendering."""

    said: str

    @property
    def deliberate(self) -> bool:
        """By the schema or by a `fail` of ours: somebody thought of it. Anything else is a broken template."""
        return SCHEMA_REFUSAL in self.said or TEMPLATE_REFUSAL in self.said


def helm(which: str, *arguments: str, given: str = "", home: str = "/nonexistent") -> subprocess.CompletedProcess[str]:
    """Run a helm of build/tools with `given` as its standard input."""
    homes = {f"HELM_{kind}_HOME": f"{home}/{kind.lower()}" for kind in ("CACHE", "CONFIG", "DATA")}
    return subprocess.run(
        [str(TOOLS / which / "helm"), *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": home, "KUBECONFIG": "/dev/null", **homes},
    )


def render(
    values: Mapping[str, Any],
    *,
    which: str = "helm-4",
    kube_version: str = "1.33",
    name: str = "risk",
    chart: Path = CHART,
) -> Release | Refusal:
    """What `helm template` makes of the chart with these values over its own."""
    place = ["--namespace", NAMESPACE, "--kube-version", kube_version]
    done = helm(which, "template", name, str(chart), *place, "--values", "-", given=json.dumps(values))
    if done.returncode:
        return Refusal(done.stderr.strip())
    return Release(name=name, namespace=NAMESPACE, objects=tuple(_objects(done.stdout)))


def _objects(text: str) -> Iterator[Mapping[str, Any]]:
    yield from (found for found in yaml.load_all(text, Loader=Strict) if found)


class Strict(yaml.CSafeLoader):
    """YAML whose mappings say nothing twice: the API server would take the last word, and nobody would notice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key stands twice", node.start_mark)
        return mapping


# `=` and `<<` where a value stands are text to Kubernetes and to helm; PyYAML knows a meaning, but no value.
for tag in ("value", "merge"):
    Strict.add_constructor(f"tag:yaml.org,2002:{tag}", yaml.constructor.SafeConstructor.construct_yaml_str)


def defaults() -> dict[str, Any]:
    """values.yaml."""
    tree: dict[str, Any] = yaml.load((CHART / "values.yaml").read_text(), Loader=Strict)  # noqa: S506 - it is a safe one
    return tree


def schema() -> dict[str, Any]:
    """values.schema.json."""
    tree: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return tree


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Values laid over values as helm does it: mappings key by key, everything else as a whole."""
    whole: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(whole.get(key), Mapping)
            whole[key] = merged(whole[key], value) if both else copy.deepcopy(value)
    return whole


def leaves(tree: Mapping[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path → value of whatever is no mapping with something in it."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*where, key))
        else:
            yield (*where, key), value


def at(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A tree that holds one value: `at(("gateway", "port"), 1)` is `{"gateway": {"port": 1}}`."""
    for key in reversed(path):
        value = {key: value}
    found: dict[str, Any] = value
    return found
