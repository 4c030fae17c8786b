"""What the images install: enough for what they run, nothing that the lock does not name, all of it in their bills."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from services import sbom
from tests.image.locked import locked, needed

OF_TORCH = ("nvidia-", "cuda-", "triton")
"""What torch brings along for GPUs, at versions that it pins itself; its build for CPUs brings none of it."""


@pytest.mark.parametrize("target", sbom.TARGETS)
def test_the_lock_names_all_that_an_image_needs(root: Path, target: str) -> None:
    assert needed(root, sbom.TARGETS[target]) - locked(root).keys() == set()


def test_a_gateway_needs_neither_ray_nor_torch_and_a_replica_needs_both(root: Path) -> None:
    heavy = {"ray", "torch"}

    assert heavy & needed(root, sbom.TARGETS["gateway"]) == set()
    assert heavy <= needed(root, sbom.TARGETS["replica"])


@pytest.mark.image
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", sbom.TARGETS)
def test_a_bill_names_every_locked_package_of_its_image_at_its_locked_version(root: Path, target: str) -> None:
    python = sbom.environment(target)
    bill = json.loads(sbom.bill(target, python).read_text())
    listed = {canonicalize_name(one["name"]): one["version"].split("+")[0] for one in bill["components"]}
    versions = locked(root)

    assert bill["specVersion"] == "1.6"
    assert bill["metadata"]["component"]["name"] == "headrace"
    assert {name: versions[name] for name in needed(root, sbom.TARGETS[target])}.items() <= listed.items()
    assert {name for name in listed.keys() - versions.keys() if not name.startswith(OF_TORCH)} <= {"headrace"}
    assert str(root) not in json.dumps(bill)


@pytest.fixture(scope="module")
def interpreter() -> Path:
    """The interpreter of an environment as the gateway's image has it."""
    return sbom.environment("gateway")


@pytest.mark.image
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", ["gateway", "control"])
def test_what_a_gateway_installs_is_enough_to_start_it(interpreter: Path, tmp_path: Path, command: str) -> None:
    free = {f"HEADRACE_{name}": "0" for name in ("GATEWAY__PORT", "GATEWAY__METRICS_PORT", "CONTROL__PORT")}

    absent = subprocess.run([interpreter, "-Ic", "import ray"], capture_output=True, check=False)
    process = subprocess.Popen(
        [interpreter, "-Im", "headrace", command], cwd=tmp_path, env=free, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "serves on port" in line or "Error" in line)
    finally:
        process.terminate()
        code = process.wait(timeout=40)

    assert absent.returncode == 1
    assert "serves on port" in said
    assert code == 0
