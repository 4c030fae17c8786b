"""A section's outcome: what it found, or why it found nothing; either finds its place in the results."""

from __future__ import annotations

import asyncio
from typing import Any

import bench
import pytest
import sections


def outcome(result: Any) -> dict[str, Any]:
    async def section(engine: str) -> Any:
        if isinstance(result, Exception):
            raise result
        return [engine, result]

    return asyncio.run(sections.outcome(section, "local"))


def test_what_it_found_is_told() -> None:
    assert outcome(5) == {"found": ["local", 5]}


def test_a_failure_is_a_note_and_no_end() -> None:
    assert outcome(RuntimeError("no cores")) == {"note": "failed: RuntimeError: no cores"}


def test_one_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "LONGEST_S", 0.01)

    assert "TimeoutError" in asyncio.run(sections.outcome(lambda _: asyncio.sleep(60), "local"))["note"]


def test_rows_join_the_runs_and_the_rest_has_a_name() -> None:
    results: dict[str, Any] = {"runs": [1]}

    bench.add(results, "payments", {"found": [2, 3]})
    bench.add(results, "memory", {"found": {"mib": 80}})
    bench.add(results, "scaling", {"note": "failed"})

    assert results == {"runs": [1, 2, 3], "memory": {"mib": 80}, "notes": {"scaling": "failed"}}
