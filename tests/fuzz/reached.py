"""How much of the modules that a target is about its corpus reaches: lines of functions, as the interpreter says."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.fuzz.targets.target import load  # noqa: E402  it may be started from anywhere


def main() -> None:
    name, corpus = sys.argv[1], Path(sys.argv[2])
    logging.disable()
    target = load(name)
    files = {str(importlib.import_module(module).__file__): module for module in target.about}
    inputs = [path.read_bytes() for path in sorted(corpus.iterdir())]
    seen = _seen(set(files), lambda: [_checked(target.check, data) for data in inputs])
    parts = []
    for file, module in files.items():
        lines = set(_lines(compile(Path(file).read_text(), file, "exec")))
        parts.append(f"{module} {100 * len(seen[file] & lines) / len(lines):.0f} %")
    print(", ".join(parts))


def _checked(check: Any, data: bytes) -> None:
    with contextlib.suppress(Exception):  # what breaks a law is told elsewhere
        check(data)


def _seen(files: set[str], work: Any) -> dict[str, set[int]]:
    seen: dict[str, set[int]] = defaultdict(set)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            seen[frame.f_code.co_filename].add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return seen


def _lines(code: CodeType, *, inside: bool = False) -> Iterator[int]:
    """Where a function's statements begin; what runs as the module is imported says nothing."""
    if inside:
        yield from (line for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines(constant, inside=inside or bool(constant.co_flags & 0x2))  # CO_NEWLOCALS: no class body


if __name__ == "__main__":
    main()
