"""The Dockerfile as a text: what a linter and a reader would find, without building anything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = ("gateway", "replica")
Instruction = tuple[str, str]


@pytest.fixture
def text(root: Path) -> str:
    return (root / "services" / "Dockerfile").read_text()


@pytest.fixture
def stages(text: str) -> dict[str, list[Instruction]]:
    """A stage's name → its instructions, each a word and its arguments on one line; "" = before the first."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    found: dict[str, list[Instruction]] = {"": []}
    name = ""
    for line in filter(None, (line.strip() for line in lines.replace("\\\n", " ").splitlines())):
        word, _, arguments = line.partition(" ")
        if word == "FROM":
            name = arguments.split(" AS ")[1]
            found[name] = []
        found[name].append((word, arguments))
    return found


def arguments(stage: list[Instruction], word: str) -> list[str]:
    return [found for one, found in stage if one == word]


def whole(stages: dict[str, list[Instruction]], name: str) -> list[Instruction]:
    """A stage with those that it continues."""
    base = arguments(stages[name], "FROM")[0].split()[0]
    return [*(whole(stages, base) if base in stages else []), *stages[name]]


def test_hadolint_finds_nothing(root: Path) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")

    found = subprocess.run([hadolint, "services/Dockerfile"], cwd=root, capture_output=True, text=True, check=False)

    assert (found.stdout, found.returncode) == ("", 0)


def test_every_stage_starts_from_one_base_and_that_is_named_by_its_digest(stages: dict[str, list[Instruction]]) -> None:
    (base,) = arguments(stages[""], "ARG")
    starts = {name: arguments(stage, "FROM")[0].split()[0] for name, stage in stages.items() if name}

    assert re.fullmatch(r"BASE_IMAGE=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert set(starts.values()) <= {"${BASE_IMAGE}", "scratch", *stages}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_headrace_as_a_numbered_user_and_is_stopped_by_sigterm(
    stages: dict[str, list[Instruction]], target: str
) -> None:
    stage = whole(stages, target)

    assert arguments(stage, "USER")[-1] == "10001:10001"
    assert arguments(stage, "ENTRYPOINT") == ['["headrace"]']
    assert arguments(stage, "STOPSIGNAL") == ["SIGTERM"]
    assert [found[:2] for found in arguments(stage, "CMD")] == ['["']
    assert len(arguments(stage, "HEALTHCHECK")) == 1


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_gets_its_environment_and_nothing_that_makes_one(
    stages: dict[str, list[Instruction]], target: str
) -> None:
    copied = [found for found in arguments(whole(stages, target), "COPY") if "--from" in found]

    assert copied == [f"--from={stage} /opt/headrace /opt/headrace" for stage in (f"{target}-environment", "code")]
    assert arguments(stages[target], "RUN") == []


def test_what_an_image_depends_on_is_a_layer_that_our_own_code_does_not_change(
    stages: dict[str, list[Instruction]],
) -> None:
    for target in TARGETS:
        copied = arguments(whole(stages, f"{target}-environment"), "COPY")
        assert copied == ["pyproject.toml requirements.lock ./"]


def test_the_images_are_made_of_the_extras_that_their_bills_are_made_of(text: str) -> None:
    from services import sbom  # noqa: PLC0415  a script beside the Dockerfile

    for target, extras in sbom.TARGETS.items():
        stage = text.split(f"AS {target}-environment")[1].split("\nFROM ", maxsplit=1)[0]
        assert f"'.[{','.join(extras)}]'" in stage


def test_a_builder_without_heredocs_can_build_it(text: str) -> None:
    assert "<<" not in text
    assert not re.search(r"^# *syntax=", text, re.MULTILINE)


def test_what_is_copied_is_let_into_the_context_and_nothing_else_is(
    root: Path, stages: dict[str, list[Instruction]]
) -> None:
    patterns = (root / ".dockerignore").read_text().splitlines()[1:]
    let_in = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    taken = {
        path
        for stage in stages.values()
        for found in arguments(stage, "COPY")
        if "--from" not in found
        for path in found.split()[:-1]
    }

    assert patterns[0] == "*"
    assert let_in == taken
    assert all((root / path).exists() for path in taken)
