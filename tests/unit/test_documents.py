"""What the documents point at exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/architecture.md",
        "docs/operations.md",
        "docs/benchmarks.md",
        "docs/experiments.md",
        "docs/glossary.md",
        "docs/risk-api.md",
        "docs/tracing.md",
        "models/README.md",
        "protos/README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "examples/README.md",
        "helm/headrace/README.md",
    ],
)
def test_every_link_and_path_leads_somewhere(root: Path, name: str) -> None:
    text = (root / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    paths = re.findall(r"`((?:services|models|tests|docs|protos|benchmarks)/[\w./-]+)`", text)

    missing = [link for link in links if not ((root / name).parent / link).exists()]
    missing += [path for path in paths if not (root / path).exists()]
    assert missing == []


def test_the_targets_that_documents_name_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    pages = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]

    named = {
        target for page in pages for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }

    assert {"test", "demo-shadow"} <= named <= targets


def test_the_readme_fits_and_names_only_commands_that_exist(root: Path) -> None:
    text = (root / "README.md").read_text()
    help_text = subprocess.run(
        [sys.executable, "-m", "headrace", "--help"], capture_output=True, text=True, check=True
    ).stdout

    assert len(text.splitlines()) <= 150
    assert all(command in help_text for command in re.findall(r"^headrace ([a-z]+)", text, re.MULTILINE))


def test_every_decision_says_what_was_rejected(root: Path) -> None:
    pages = sorted((root / "docs" / "decisions").glob("*.md"))

    assert pages
    assert all("**Rejected.**" in page.read_text() for page in pages)
