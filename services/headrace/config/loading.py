"""From file, environment and flags to `Settings`, once, by the CLI; nobody else reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from headrace.config.settings import Settings
from headrace.errors import StartupError

PREFIX = "HEADRACE_"
OTEL_READ = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_SDK_DISABLED",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
)
"""OpenTelemetry's variables that become settings here; its SDK reads the others itself."""


def load(path: Path | None = None, environment: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """The settings of this process. `flags` are dotted paths with `__`: `gateway__port=0`.

    Raises: StartupError, one line, with the path of the offending key.
    """
    environment = os.environ if environment is None else environment
    tree = _read_yaml(path) if path else {}
    for where, value in _from_environment(environment).items():
        _put(tree, where, value)
    for flag, value in flags.items():
        if value is not None:
            _put(tree, tuple(flag.split("__")), value)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise StartupError(_one_line(error, path)) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise StartupError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise StartupError(f"{path}: expected a mapping of sections, got {type(tree).__name__}")
    return tree


def _from_environment(environment: Mapping[str, str]) -> dict[tuple[str, ...], Any]:
    """`HEADRACE_GATEWAY__PORT=0` → gateway.port. Names without `__` (HEADRACE_DEMO_SECONDS) are not settings."""
    found: dict[tuple[str, ...], Any] = {("telemetry", key): value for key, value in _from_otel(environment).items()}
    for name, value in environment.items():
        if name.startswith(PREFIX) and "__" in name:
            found[tuple(name.removeprefix(PREFIX).lower().split("__"))] = value
    return found


def _from_otel(environment: Mapping[str, str]) -> dict[str, Any]:
    """What OpenTelemetry's variables say about ours. Headers, TLS and timeouts of a collector stay the SDK's business.

    Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables.
    """
    found: dict[str, Any] = {}
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        if endpoint := environment.get(name):
            found["otlp_endpoint"] = endpoint
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        found["enabled"] = False
    if links := environment.get("OTEL_SPAN_LINK_COUNT_LIMIT"):
        found["max_links"] = links
    if sampler := environment.get("OTEL_TRACES_SAMPLER"):
        kind = sampler.removeprefix("parentbased_")
        shares: dict[str, Any] = {
            "always_on": 1.0,
            "always_off": 0.0,
            "traceidratio": environment.get("OTEL_TRACES_SAMPLER_ARG") or 1.0,
        }
        if kind not in shares:
            raise StartupError(f"OTEL_TRACES_SAMPLER: '{sampler}' is not a sampler of this server")
        found["sampling"], found["sampling_by_caller"] = shares[kind], kind != sampler
    return found


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise StartupError(f"{'.'.join(path)}: '{key}' is not a section")
        tree = branch
    tree[path[-1]] = value


def _one_line(error: ValidationError, path: Path | None) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path or 'settings'}: {where}: {first['msg']}{more}"
