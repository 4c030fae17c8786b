"""The protos may grow, and nothing of them may break: what `make check` asks buf."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BUF = shutil.which("buf", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))

pytestmark = pytest.mark.skipif(BUF is None, reason="buf comes with the extra `dev`")
Buf = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def protos(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root / "protos", tmp_path / "protos"))


@pytest.fixture
def buf(protos: Path) -> Buf:
    return lambda *words: subprocess.run([str(BUF), *words], cwd=protos, capture_output=True, check=False)


def edit(protos: Path, name: str, old: str, new: str) -> None:
    path = protos / "headrace" / "v1" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_the_baseline_is_what_the_protos_say_and_they_keep_the_rules(buf: Buf, protos: Path) -> None:
    assert buf("lint").returncode == 0
    assert buf("build", "--exclude-source-info", "-o", "-").stdout == (protos / "baseline.binpb").read_bytes()


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("risk.proto", "  uint64 queue_us = 5;\n", "", 'field "5" with name "queue_us" on message "ScoreResponse" was'),
        ("risk.proto", "double amount", "float amount", "changed type"),
        ("risk.proto", "RISK_LEVEL_HIGHEST = 4", "RISK_LEVEL_TOP = 4", "changed name"),
        ("risk.proto", "request_id = 3", "request_id = 7", 'field "3" with name "request_id"'),
        ("replica.proto", "  fixed64 batch_id = 11;\n", "", 'field "11" with name "batch_id"'),
        ("control.proto", "  rpc Describe(DescribeRequest) returns (Snapshot);\n", "", 'RPC "Describe"'),
    ],
)
def test_what_breaks_a_caller_is_found(buf: Buf, protos: Path, name: str, old: str, new: str, complaint: str) -> None:
    edit(protos, name, old, new)

    found = buf("breaking", "--against", "baseline.binpb")

    assert found.returncode != 0
    assert complaint in found.stdout.decode()


def test_what_is_added_breaks_nobody(buf: Buf, protos: Path) -> None:
    edit(protos, "risk.proto", "  uint64 queue_us = 5;\n", "  uint64 queue_us = 5;\n  // New.\n  string note = 99;\n")

    assert buf("breaking", "--against", "baseline.binpb").returncode == 0
    assert buf("lint").returncode == 0
