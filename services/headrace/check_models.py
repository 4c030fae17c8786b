"""`headrace models check DIR`: the checks of `serving/check.py` at a prompt, a line each, or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from headrace.errors import StartupError
from headrace.serving.check import Result, Status, check, find

MARKS: Final = {Status.OK: ("✓", "green"), Status.WARNING: ("!", "yellow"), Status.FAILED: ("✗", "red")}


def run(directory: Path, device: str, *, as_json: bool) -> None:
    """Check every version in the directory. Raises: StartupError with the first sentence when one can't be served."""
    console = Console(quiet=as_json)
    checked = {version: _check(version, device, console) for version in find(directory)}
    if as_json:
        print(json.dumps([_tree(version, results) for version, results in checked.items()]))  # noqa: T201
    failed = [(version, r) for version, results in checked.items() for r in results if r.status is Status.FAILED]
    if failed:
        raise StartupError(_complaint(*failed[0]) + (f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""))


def _check(version: Path, device: str, console: Console) -> list[Result]:
    console.print(Text(str(version), style="bold"), soft_wrap=True)
    results = []
    for result in check(version, device):
        results.append(result)
        mark, colour = MARKS[result.status]
        line = Text.assemble(("  " + mark, colour), f" {result.name:17}", result.text)
        console.print(line, soft_wrap=True, highlight=False)
    return results


def _complaint(version: Path, result: Result) -> str:
    """A sentence about a file names it already; one about a law gets the directory."""
    return result.text if result.text.startswith(str(version)) else f"{version}: {result.name}: {result.text}"


def _tree(version: Path, results: list[Result]) -> dict[str, object]:
    model, number = version.absolute().parts[-2:]
    servable = all(result.status is not Status.FAILED for result in results)
    return {"model": model, "version": number, "servable": servable, "checks": [asdict(result) for result in results]}
