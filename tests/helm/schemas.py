"""Whether an API server would take an object: by the schemas of Kubernetes, of CRDs, and of what Serve is to run.

Strict everywhere: a key that nobody knows is an error, and so is an object that has no schema at all.
"""

from __future__ import annotations

import functools
import json
import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import pydantic
import yaml
from tests.helm.release import Object, title

CRD_DIR: Final = "HEADRACE_CRD_DIR"
"""Environment variable: a folder of JSON schemas, `<group>_<kind in lower case>_<version>.json`."""
FREE: Final = frozenset({"args", "user_config", "resources", "env_vars", "policy_kwargs", "logging_config"})
"""Keys of a Serve configuration below which every key is the user's."""

# It reads more than a megabyte of JSON anew for each object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def crd_dir() -> Path | None:
    found = os.environ.get(CRD_DIR)
    return Path(found) if found else None


def complaints(found: Object, kube_version: str) -> list[str]:
    """What is wrong with an object; empty = an API server of that version takes it."""
    try:
        kubernetes_validate.validate(found, kube_version, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(part) for part in error.path)
        return [f"{title(found)}: {where}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        return _crd_complaints(found)
    return []


def _crd_complaints(found: Object) -> list[str]:
    validator = _crd(found["apiVersion"], found["kind"])
    if validator is None:
        return [f"{title(found)}: no schema of {found['apiVersion']} {found['kind']}"]
    wrong = [f"{title(found)}: {error.json_path}: {error.message}" for error in validator.iter_errors(found)]
    if found["kind"] == "RayService":
        wrong += [f"{title(found)}: serveConfigV2: {said}" for said in serve_complaints(found["spec"]["serveConfigV2"])]
    return wrong + [f"{title(found)}: {said}" for said in _twice(validator.schema, found, "$")]


@functools.cache
def _crd(api_version: str, kind: str) -> jsonschema.Draft7Validator | None:
    folder = crd_dir()
    group, _, version = api_version.rpartition("/")
    file = folder / f"{group}_{kind.lower()}_{version}.json" if folder else None
    if file is None or not file.exists():
        return None
    return jsonschema.Draft7Validator(json.loads(file.read_text()))


def _twice(schema: Mapping[str, Any], value: Any, where: str) -> Iterator[str]:
    """Lists that are maps by some of their keys, and say one twice: no JSON schema can see that."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _twice(schema.get("properties", {}).get(key, {}), part, f"{where}.{key}")
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", [])
        names = [tuple(json.dumps(item.get(key)) for key in keys) for item in value] if keys else []
        if len(set(names)) < len(names):
            yield f"{where}: two entries with the same {', '.join(keys)}"
        for number, item in enumerate(value):
            yield from _twice(schema.get("items", {}), item, f"{where}[{number}]")


def serve_complaints(config: str) -> list[str]:
    """What Serve would refuse, and what it would silently ignore: it takes unknown keys on every level."""
    from ray.serve.schema import ServeDeploySchema  # noqa: PLC0415 - takes a second: only where a RayService is checked

    tree = yaml.load(config, Loader=yaml.CSafeLoader)
    try:
        ServeDeploySchema.model_validate(tree)
    except pydantic.ValidationError as error:
        return [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return [f"{where}: Serve knows no such key" for where in unknown(ServeDeploySchema, tree)]


def unknown(model: type[pydantic.BaseModel], tree: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Paths of keys that are no fields of the model, at any depth."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, value in tree.items():
        path = f"{where}.{key}".lstrip(".")
        if key not in fields:
            yield path
        elif key not in FREE:
            yield from _unknown_below(fields[key].annotation, value, path)


def _unknown_below(annotation: Any, value: Any, where: str) -> Iterator[str]:
    models = list(_models(annotation))
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unknown_below(annotation, item, f"{where}.{number}")
    elif isinstance(value, Mapping) and models:
        found = [list(unknown(model, value, where)) for model in models]
        yield from min(found, key=len)


def _models(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    """The models that an annotation names, inside unions and lists too."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, pydantic.BaseModel):
            yield annotation
        return
    for part in typing.get_args(annotation):
        yield from _models(part)
