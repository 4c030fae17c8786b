"""What a set of extras needs, by the metadata of what is installed; and what the lock says of it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def locked(root: Path) -> dict[str, str]:
    """Name → version, of every package in requirements.lock."""
    lines = (line for line in (root / "requirements.lock").read_text().splitlines() if "==" in line)
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def needed(root: Path, extras: Iterable[str]) -> set[str]:
    """Names of all packages that headrace with these extras is made of, itself left out."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    optional: dict[str, list[str]] = project["optional-dependencies"]
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(f"headrace[{','.join(extras)}]")]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            if name == "headrace":
                waiting += map(Requirement, optional[extra] if extra else project["dependencies"])
            else:
                waiting += _of(name, extra)
    return {name for name, _ in seen} - {"headrace"}


def _of(name: str, extra: str) -> list[Requirement]:
    """What a package needs here; with an extra, what it needs with that."""
    all_of_it = [Requirement(line) for line in metadata.requires(name) or ()]
    return [one for one in all_of_it if one.marker is None or one.marker.evaluate({"extra": extra})]
