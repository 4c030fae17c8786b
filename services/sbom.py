"""What each image holds, as CycloneDX 1.6: `python services/sbom.py [TARGET …]` writes build/sbom/<target>.json.

An environment is made for each as `services/Dockerfile` makes the image's: its extras, with the lock as constraints.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
TARGETS: Final = {"gateway": ("gateway", "control"), "replica": ("replica",)}
"""An image → the extras it is made of."""


def environment(target: str) -> Path:
    """Bring build/environments/<target> to what the lock says; its interpreter. No pip is in it."""
    folder = ROOT / "build" / "environments" / target
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    project = f".[{','.join(TARGETS[target])}]"
    subprocess.run([*pip, "--constraint", "requirements.lock", project], cwd=ROOT, check=True)
    return python


def bill(target: str, python: Path) -> Path:
    """Write what this environment holds, under the name of the target; the file."""
    path = ROOT / "build" / "sbom" / f"{target}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    tool = Path(sys.executable).with_name("cyclonedx-py")
    described = ["--pyproject", "pyproject.toml", "--mc-type", "application"]
    written = ["--spec-version", "1.6", "--output-format", "JSON", "--output-reproducible", "--output-file", str(path)]
    subprocess.run([tool, "environment", *described, *written, python], cwd=ROOT, check=True)
    return path


def main() -> None:
    for target in sys.argv[1:] or TARGETS:
        sys.stdout.write(f"{bill(target, environment(target)).relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
