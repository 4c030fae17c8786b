"""Values as users may write them: drawn from values.schema.json, laid over a case of ours.

Most draws must render, or nothing is tested: a few values change at a time, models ask for groups that are there, and
where the schema says only "an object", the table FREE says what people put there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsonschema
from hypothesis import strategies as st
from tests.helm.chart import at, merged

Draw = st.SearchStrategy[Any]
PRINTABLE: Final = "".join(map(chr, range(32, 127)))
SOMETHING_ELSE: Final = (
    "true", "no", "null", "~", "1e6", "0x1f", "0o17", "12345678", "007", "a: b", "- a", "#a", "'", '"', "{{ a }}", "%",
    "ü", "a\\b", "@a", "*a", "&a", "!a", "1.0", "=", "<<"
)  # fmt: skip
"""Strings that are something else to YAML, to a shell or to a template."""
WORDS: Final = st.sampled_from(SOMETHING_ELSE)
NAMES: Final = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True) | st.sampled_from(
    ["true", "no", "null"]
)
LABELS: Final = st.dictionaries(NAMES.map("example.com/{}".format), WORDS.filter(str.isalnum) | NAMES, max_size=2)
RESTRICTED: Final = {
    "runAsNonRoot": True,
    "runAsUser": 10002,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
BOUNDS: Final = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
SIDECAR: Final = {"name": "s", "image": "s:1", "securityContext": RESTRICTED, "resources": BOUNDS}
TOLERATION: Final = st.fixed_dictionaries(
    {"key": NAMES, "operator": st.just("Exists")}, optional={"effect": st.sampled_from(["NoSchedule", "NoExecute"])}
)
QUANTITY: Final = st.sampled_from(["1", "2", 4, "1500m", "500m", "2000m"])
MEMORY: Final = st.sampled_from(["4Gi", "8Gi", "6144Mi", 8589934592])
RESOURCES: Final = st.fixed_dictionaries(
    {
        "requests": st.fixed_dictionaries({"cpu": QUANTITY, "memory": MEMORY}),
        "limits": st.fixed_dictionaries({"memory": MEMORY}),
    }
)
VARIABLE: Final = st.fixed_dictionaries({"name": st.from_regex(r"EXTRA_[A-Z]{1,6}", fullmatch=True), "value": WORDS})
FREE: Final[Mapping[str, Draw]] = {
    "commonLabels": LABELS,
    "podLabels": LABELS,
    "labels": LABELS,
    "commonAnnotations": LABELS,
    "podAnnotations": LABELS,
    "annotations": LABELS,
    "nodeSelector": LABELS,
    "tolerations": st.lists(TOLERATION, max_size=2),
    "affinity": st.sampled_from([{}, {"podAntiAffinity": {}}, {"nodeAffinity": {}}]),
    "resources": RESOURCES,
    "extraEnv": st.lists(VARIABLE, max_size=2, unique_by=lambda one: one["name"]),
    "extraVolumes": st.just([{"name": "extra", "emptyDir": {}}]),
    "extraVolumeMounts": st.just([]),
    "sidecars": st.just([SIDECAR]),
    "extraDeploy": st.just([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "my-extra"}}]),
    "imagePullSecrets": st.lists(NAMES, max_size=2, unique=True),
    "settings": st.sampled_from(
        [{}, {"gateway": {"max_riders": 10_000_000}}, {"risk": {"normal": 20}}, {"telemetry": {"log_level": "DEBUG"}}]
    ),
    "behavior": st.sampled_from([{}, {"scaleUp": {"stabilizationWindowSeconds": 10}}]),
    "exporters": st.sampled_from([{}, {"otlp/store": {"endpoint": "store:4317"}}]),
    "egress": st.just([{"ports": [{"port": 443, "protocol": "TCP"}]}]),
    "parentRefs": st.lists(
        st.fixed_dictionaries({"name": NAMES}), min_size=1, max_size=2, unique_by=lambda one: one["name"]
    ),
    "podSecurityContext": st.just(
        {
            "runAsNonRoot": True,
            "runAsUser": 3_000_000,
            "fsGroup": 3_000_000,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    ),
    "containerSecurityContext": st.just({key: value for key, value in RESTRICTED.items() if key != "seccompProfile"}),
}
"""Name of a value that is Kubernetes' or the user's own → what may stand there."""
WHOLE: Final = frozenset({"models", "groups"})
"""Lists that are drawn together, in `cluster`."""


def parts(schema: Mapping[str, Any], bases: Mapping[str, Mapping[str, Any]]) -> Draw:
    """The name of a case, and what is laid over it: often another cluster, and a few values."""
    paths = dict(leaves(schema, schema))
    change = st.sampled_from(sorted(paths)).flatmap(lambda path: _changed(path, paths[path]))
    over = st.builds(list.__add__, st.lists(cluster(), max_size=1), st.lists(change, max_size=6))
    return st.tuples(st.sampled_from(sorted(bases)), over)


def values(schema: Mapping[str, Any], bases: Mapping[str, Mapping[str, Any]]) -> Draw:
    """The same, merged."""
    return parts(schema, bases).map(lambda drawn: merged(bases[drawn[0]], *drawn[1]))


def _changed(path: tuple[str, ...], drawn: Draw) -> Draw:
    return drawn.map(lambda value: at(path, value))


def leaves(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Draw]]:
    """Path → strategy, of every value that is no mapping of values."""
    for path, part in _places(schema, whole):
        yield path, FREE[path[-1]] if path[-1] in FREE else drawn_from(part, whole, path)


def numerals(schema: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Path → a string that may stand there, and that YAML reads as something else unless it is quoted."""
    found = ((path, _words(part)) for path, part in _places(schema, schema) if part.get("type") == "string")
    return {path: words[0] for path, words in found if words}


def _places(
    schema: Mapping[str, Any], whole: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    schema = _resolved(schema, whole)
    if path and path[-1] in WHOLE:
        return
    if schema.get("properties") and path[-1:] not in {(name,) for name in FREE}:
        for key, part in schema["properties"].items():
            yield from _places(part, whole, (*path, key))
    else:
        yield path, schema


def _resolved(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    target: Any = whole
    for key in schema["$ref"].removeprefix("#/").split("/"):
        target = target[key]
    return {**_resolved(target, whole), **{key: value for key, value in schema.items() if key != "$ref"}}


def drawn_from(schema: Mapping[str, Any], whole: Mapping[str, Any], path: tuple[str, ...]) -> Draw:
    """A strategy for a schema without properties. An object or a list of objects must be in FREE."""
    schema = _resolved(schema, whole)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return st.one_of([drawn_from(one, whole, path) for one in schema[several]])
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return st.one_of([drawn_from({**schema, "type": kind}, whole, path) for kind in kinds])
    assert kinds in SIMPLE, f"{'.'.join(path)} is {kinds}: FREE does not say what people put there"
    return SIMPLE[kinds](schema, whole, path)


def _integer(schema: Mapping[str, Any], _: Any, __: Any) -> Draw:
    low = int(schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1))
    high = int(schema.get("maximum", 50_000_000))
    return st.integers(low, min(high, low + 100)) | st.sampled_from(sorted({low, high, min(high, max(low, 1_000_000))}))


def _number(schema: Mapping[str, Any], _: Any, __: Any) -> Draw:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 1_000_000))
    drawn = st.floats(
        low, high, allow_nan=False, exclude_min="exclusiveMinimum" in schema, exclude_max="exclusiveMaximum" in schema
    )
    return drawn.map(lambda value: round(value, 4)).filter(lambda value: low < value < high) | st.just((low + high) / 2)


def _string(schema: Mapping[str, Any], _: Any, __: Any) -> Draw:
    drawn = st.from_regex(schema["pattern"], alphabet=PRINTABLE) if "pattern" in schema else NAMES
    drawn = drawn.filter(lambda text: "\n" not in text and len(text) <= 63 and _legal(schema, text))
    words = _words(schema)
    return drawn | st.sampled_from(words) if words else drawn


def _words(schema: Mapping[str, Any]) -> list[str]:
    return [word for word in SOMETHING_ELSE if _legal(schema, word)]


def _legal(schema: Mapping[str, Any], text: str) -> bool:
    return jsonschema.Draft202012Validator({key: value for key, value in schema.items() if key != "$ref"}).is_valid(
        text
    )


def _array(schema: Mapping[str, Any], whole: Mapping[str, Any], path: tuple[str, ...]) -> Draw:
    return st.lists(
        drawn_from(schema["items"], whole, path), min_size=schema.get("minItems", 0), max_size=2, unique=True
    )


SIMPLE: Final[Mapping[str, Any]] = {
    "integer": _integer,
    "number": _number,
    "string": _string,
    "array": _array,
    "boolean": lambda *_: st.booleans(),
    "null": lambda *_: st.none(),
}


@st.composite
def cluster(draw: st.DrawFn) -> dict[str, Any]:
    """Worker groups and models that ask for them; sometimes for more than there is, which the chart shall refuse."""
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    groups = [draw(_group(name)) for name in names]
    models = [draw(_model(draw(st.sampled_from(groups)))) for _ in range(draw(st.integers(1, 4)))]
    return {"ray": {"groups": groups}, "models": models}


@st.composite
def _group(draw: st.DrawFn, name: str) -> dict[str, Any]:
    least = draw(st.integers(0, 6))
    return {
        "name": name,
        "minReplicas": least,
        "maxReplicas": max(1, least) + draw(st.integers(0, 6)),
        "gpus": draw(st.sampled_from([0, 0, 1, 4])),
        "resources": draw(RESOURCES),
        **draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "gpuType": st.sampled_from(["", "NVIDIA-H100"]),
                    "nodeSelector": LABELS,
                    "tolerations": FREE["tolerations"],
                    "affinity": FREE["affinity"],
                    "objectStoreBytes": st.sampled_from([100_000_000, 1_073_741_824]),
                },
            )
        ),
    }


@st.composite
def _model(draw: st.DrawFn, group: Mapping[str, Any]) -> dict[str, Any]:
    name = draw(st.sampled_from(["fraud-tx", "fraud-gru", "acceptance"]))
    least = draw(st.integers(1, 3))
    how_many = draw(
        st.sampled_from(
            [
                {"replicas": least},
                {"autoscaling": {"minReplicas": least, "maxReplicas": least + draw(st.integers(0, 4))}},
            ]
        )
    )
    version = str(draw(st.integers(1, 10_000_000)))
    below = NAMES.map(lambda prefix: f"{prefix}/{name}/{version}")
    return {
        "name": name,
        "version": version,
        "group": group["name"],
        "numCpus": draw(st.sampled_from([0, 0.25, 0.5, 0.5, 1])),
        "numGpus": draw(st.sampled_from([0, min(0.5, group["gpus"]), group["gpus"], group["gpus"], 1])),
        **how_many,
        **draw(st.fixed_dictionaries({}, optional={"path": below, "settings": st.just({"threads": 2})})),
    }
