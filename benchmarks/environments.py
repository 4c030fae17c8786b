"""`make bench-setup`: an environment of its own for each peer, build/bench/<peer>.

systems/requirements/<peer>.txt says what is wanted, <peer>.lock which version of everything that comes with it. What is
there already, from the same two files, is left alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "systems" / "requirements"
FOLDER = HERE.parent / "build" / "bench"
MARK = ".made-from"
"""A copy of what an environment was made from: its presence says that the installation ended well."""


def python_of(peer: str) -> Path:
    return FOLDER / peer / "bin" / "python"


def is_ready(peer: str) -> bool:
    mark = FOLDER / peer / MARK
    return mark.exists() and mark.read_text() == wanted(peer)


def wanted(peer: str) -> str:
    return "".join((REQUIREMENTS / f"{peer}.{kind}").read_text() for kind in ("txt", "lock"))


def make(peer: str) -> None:
    """Raises: CalledProcessError when the environment cannot be made; its stderr says why."""
    folder = FOLDER / peer
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(folder)])
    files = ["-r", str(REQUIREMENTS / f"{peer}.txt"), "-c", str(REQUIREMENTS / f"{peer}.lock")]
    run([str(python_of(peer)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *files])
    (folder / MARK).write_text(wanted(peer))


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("WARNING")]
    return lines[-1] if lines else "no reason given"


def main() -> None:
    console = Console()
    peers = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))
    failed = False
    for number, peer in enumerate(peers, 1):
        place = f"{number}/{len(peers)} {peer}"
        if is_ready(peer):
            console.print(f"{place}: there already", highlight=False)
            continue
        try:
            with console.status(f"{place}: installing"):
                make(peer)
        except subprocess.CalledProcessError as error:
            console.print(
                f"{place}: failed: {last_line(error.stderr or error.stdout)}", highlight=False, soft_wrap=True
            )
            failed = True
        else:
            console.print(f"{place}: installed in {FOLDER / peer}", highlight=False)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
