"""`make fuzz`: a coverage-guided search (atheris, libFuzzer) for inputs that break a target's law.

One process a target, one after the other. What breaks a law is kept in build/fuzz/TARGET and, once it is mended,
belongs into tests/fuzz/regressions/TARGET. Corpora stay in build/fuzz, so that the next search goes on from there.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from google.protobuf.message import DecodeError  # noqa: E402  it may be started from anywhere
from tests.fuzz.mutation import mutated  # noqa: E402
from tests.fuzz.targets.target import NAMES, Target, load  # noqa: E402

BUILD: Final = ROOT / "build" / "fuzz"
REGRESSIONS: Final = ROOT / "tests" / "fuzz" / "regressions"
GUIDING: Final = ("headrace", "headrace_models", "hpack")
"""Packages whose branches guide the search."""
MAX_LEN: Final = 8192
SLOWEST_S: Final = 5
"""An input that takes longer is a finding, too."""
MEMORY_MIB: Final = 4096


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seconds", type=int, default=60, help="for each target")
    asked.add_argument("--only", choices=NAMES, action="append", help="this target; may be said several times")
    asked.add_argument("--search", choices=NAMES, help=argparse.SUPPRESS)
    chosen = asked.parse_args()
    if chosen.search:
        _search(chosen.search, chosen.seconds)
        return
    print(f"{'target':14} {'executions':>11} {'a second':>9} {'edges':>6} {'corpus':>7}  reached")
    fine = [_searched(name, chosen.seconds) for name in chosen.only or NAMES]
    sys.exit(not all(fine))


def _searched(name: str, seconds: int) -> bool:
    """Search one target, tell what came of it. False = something breaks its law."""
    folder = BUILD / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for place, seed in enumerate(load(name).seeds):
        (corpus / f"seed-{place}").write_bytes(seed)
    for kept in (REGRESSIONS / name).glob("*"):
        (corpus / kept.name).write_bytes(kept.read_bytes())
    command = [sys.executable, __file__, "--search", name, "--seconds", str(seconds)]
    with (folder / "log").open("w") as log:
        fine = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode == 0
    told = (folder / "log").read_text(errors="replace")
    executions = int((re.findall(r"number_of_executed_units: (\d+)", told) or ["0"])[-1])
    edges = (re.findall(r" cov: (\d+) ", told) or ["?"])[-1]
    reached = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "reached.py"), name, str(corpus)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    kept = len(list(corpus.iterdir()))
    print(f"{name:14} {executions:11,} {executions / seconds:9,.0f} {edges:>6} {kept:7,}  {reached}")
    if not fine:
        print(f"{name}: an input breaks its law, see {folder}:", *told.splitlines()[-40:], sep="\n  ")
    return fine


def _search(name: str, seconds: int) -> None:
    import atheris  # noqa: PLC0415  a wheel of 35 MB that nothing else needs

    with atheris.instrument_imports(include=list(GUIDING)):
        target = load(name)

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        return _changed(target, data, max_size, seed) or bytes(atheris.Mutate(data, max_size))

    folder = BUILD / name
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_LEN}",
        f"-timeout={SLOWEST_S}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(folder / "corpus")], target.check, custom_mutator=change)
    atheris.Fuzz()


def _changed(target: Target, data: bytes, max_size: int, seed: int) -> bytes | None:
    """The input with some fields changed, every other time where it is a message; None = change its bytes instead."""
    source = random.Random(seed)
    if target.message is None or source.random() < 0.5:
        return None
    message: Any
    try:
        message = target.message.FromString(data)
    except DecodeError:
        message = target.message.FromString(source.choice(target.seeds))
    found = mutated(message, source).SerializeToString()
    return found if len(found) <= max_size else None


if __name__ == "__main__":
    main()
