"""What is released for callers: `python services/dist.py [FOLDER]` makes a source archive, and a wheel of that alone.

The archive is unpacked elsewhere to make the wheel: what it lacks, the wheel would lack too, and its tests notice.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


def build(folder: Path) -> tuple[Path, Path]:
    """Write both into this folder; the archive and the wheel."""
    builder = ROOT / "build" / "environments" / "builder"
    python = builder / "bin" / "python"
    if not python.exists():
        venv.create(builder, symlinks=True)
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "--python", str(python), "install", "--quiet", *backend], check=True)
    subprocess.run([python, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)], cwd=ROOT, check=True)
    (archive,) = folder.glob("headrace-*.tar.gz")
    made = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(archive)]
    subprocess.run([*pip, *made], cwd=folder, check=True)
    (wheel,) = folder.glob("headrace-*.whl")
    return archive, wheel


def main() -> None:
    folder = Path(sys.argv[1]).resolve() if sys.argv[1:] else ROOT / "build" / "dist"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("headrace-*"):
        old.unlink()
    for made in build(folder):
        sys.stdout.write(f"{made}\n")


if __name__ == "__main__":
    main()
