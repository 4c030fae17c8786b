"""What processes are told is what headrace.config and the command line know."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import pydantic
import typer
from tests.helm.invariants.laws import law
from tests.helm.release import Pod, Release, title

from headrace import cli, config

FILE: Final = "/etc/headrace/headrace.yaml"
COMMANDS: Final[Any] = typer.main.get_command(cli.app)


def command_line(pod: Pod) -> list[str]:
    """As the process sees it; the image's entry point is `headrace`."""
    words = [*pod.main.get("command", []), *pod.main.get("args", [])]
    return words[1:] if words and words[0] == "headrace" else words


@law
def whole_numbers_are_written_out(release: Release) -> None:
    """helm reads numbers as floats: what a template prints as it is becomes 1e+07 from a million on."""
    for found in release.objects:
        powers = re.findall(r"\b\d(?:\.\d+)?e\+\d+", json.dumps(found))
        assert not powers, f"{title(found)}: {powers}"


def loaded(tree: Mapping[str, Any]) -> config.Settings:
    try:
        return config.Settings.model_validate(tree)
    except pydantic.ValidationError as error:
        raise AssertionError(str(error)) from error


@law
def the_settings_load(release: Release) -> None:
    loaded(release.settings)


@law
def the_settings_of_every_replica_load_and_are_those_of_the_gateways(release: Release) -> None:
    for application in release.applications:
        told, ours = loaded(application["args"]["settings"]), loaded(release.settings)
        assert told.replica.model_copy(update={"shutdown_s": ours.replica.shutdown_s}) == ours.replica
        assert told.telemetry.log_level == ours.telemetry.log_level, application["name"]
        for section in ("tls", "access"):
            assert getattr(told, section) == getattr(ours, section), f"{application['name']}: {section}"


@law
def commands_and_flags_exist(release: Release) -> None:
    for component in ("gateway", "control"):
        for pod in release.pods_of(component):
            words = command_line(pod)
            command = COMMANDS.commands[words[0]]
            known = {flag for parameter in command.params for flag in parameter.opts}
            flags = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert words[0] == component, str(pod)
            assert flags <= known, f"{pod}: {sorted(flags - known)}"


@law
def variables_are_settings(release: Release) -> None:
    for pod in release.pods:
        for name in pod.environment:
            if name.startswith(config.PREFIX) and "__" in name:
                section, _, field = name.removeprefix(config.PREFIX).lower().partition("__")
                model: Any = config.Settings.model_fields[section].annotation
                assert field.partition("__")[0] in model.model_fields, f"{pod}: {name}"


@law
def gateways_and_control_read_the_file_and_start_anew_when_it_changes(release: Release) -> None:
    for component in ("gateway", "control"):
        for pod in release.pods_of(component):
            words = command_line(pod)
            assert (("--config", FILE) in itertools.pairwise(words)) or f"--config={FILE}" in words, str(pod)
            assert _is_mounted(pod, FILE), f"{pod}: nothing is mounted there"
            assert [key for key in pod.annotations if "checksum" in key], f"{pod} would not notice a change"


@law
def certificates_are_mounted_where_the_settings_look(release: Release) -> None:
    tls: Mapping[str, Any] = release.settings.get("tls") or {}
    files = [tls[key] for key in ("certificate", "key", "authorities") if tls.get(key)]
    for pod in [pod for pod in release.pods if pod.component in {"gateway", "control", "ray-worker"}]:
        assert all(_is_mounted(pod, file) for file in files), f"{pod}: {files}"


@law
def models_are_found_where_they_are_mounted(release: Release) -> None:
    for application in release.applications:
        directory = application["args"]["directory"]
        mounts = {one["mountPath"] for pod in release.pods_of("ray-worker") for one in pod.main.get("volumeMounts", [])}
        for mount in mounts:
            if re.search(r"model", mount):
                assert directory.startswith(mount.rstrip("/") + "/"), f"{directory} is not in {mount}"


def _is_mounted(pod: Pod, path: str) -> bool:
    return any(
        path == mount["mountPath"] or path.startswith(mount["mountPath"].rstrip("/") + "/")
        for mount in pod.main.get("volumeMounts", [])
    )
