"""The workflows: well formed, pinned, with no more rights than they need, and calling what there is to call."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

PINNED = re.compile(r"uses: ([\w/-]+)@([0-9a-f]{40}) # v\d+\.\d+\.\d+")
WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / ".github" / "workflows").glob("*.yml"))
NAMES = [path.stem for path in WORKFLOWS]
EVENTS = True
"""The key `on` of a workflow, as YAML 1.1 reads it."""


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["jobs"]
    return found


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(path).values():
        yield from job.get("steps", ())


def tool(name: str) -> str:
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return str(path)


def test_there_is_one_for_code_chart_images_and_releases() -> None:
    assert NAMES == ["chart", "check", "image", "release"]


def test_zizmor_finds_nothing(root: Path) -> None:
    command = [tool("zizmor"), "--offline", "--no-progress", ".github"]

    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    assert found.returncode == 0, found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", [f".github/workflows/{name}.yml" for name in NAMES]),
        ("vendor.renovate", [".github/renovate.json"]),
    ],
)
def test_what_the_service_reads_fits_its_schema(root: Path, schema: str, files: list[str]) -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", schema, *files]

    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    assert found.returncode == 0, found.stdout


def test_an_action_is_named_by_one_commit_and_its_version_is_said() -> None:
    commits: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for line in path.read_text().splitlines():
            if "uses: " not in line or "uses: $/" in line:
                continue
            pinned = PINNED.search(line)
            assert pinned, line
            commits.setdefault(pinned[1], set()).add(pinned[2])

    assert {action: len(found) for action, found in commits.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
def test_a_workflow_has_no_rights_and_a_job_asks_for_its_own(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["permissions"] == {}
    assert all("permissions" in job for job in jobs(path).values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
def test_a_job_ends_in_time_and_keeps_no_token(path: Path) -> None:
    assert all("timeout-minutes" in job for job in jobs(path).values() if "uses" not in job)
    checkouts = [step for step in steps(path) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
def test_a_pull_request_meets_no_secret_and_cannot_write(path: Path) -> None:
    if "pull_request" not in yaml.safe_load(path.read_text())[EVENTS]:
        pytest.skip("it is not run for pull requests")

    assert "secrets." not in path.read_text()
    rights = [right for job in jobs(path).values() for right in job["permissions"].values()]
    assert set(rights) <= {"read"}


def test_they_call_targets_that_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    called = {
        target
        for path in WORKFLOWS
        for step in steps(path)
        for line in step.get("run", "").splitlines()
        if line.startswith("make ")
        for target in line.split()[1:]
    }

    assert {"check", "test", "wheel-test", "image-test", "sbom", "chart-test"} <= called
    assert called <= targets
