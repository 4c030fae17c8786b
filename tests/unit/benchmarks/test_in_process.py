"""What the gateway's own Python costs is measured on the gateway itself, through stand-ins that keep up with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import hot_path
import pytest
import span_cost


def test_every_step_of_the_hot_path_is_seen_and_no_request_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_path, "REQUESTS", 32)
    monkeypatch.setattr(hot_path, "ROUNDS", 1)

    told = asyncio.run(hot_path.steps_us(8))

    assert set(told) == {step for step, _, _ in hot_path.STEPS} | {hot_path.PROTOBUF, hot_path.REST, "all"}
    assert all(us > 0 for us in told.values())


@pytest.mark.parametrize("sampled", [True, False])
def test_spans_cost_something_on_the_loop(tmp_path: Path, sampled: bool) -> None:  # noqa: FBT001
    assert span_cost.on_the_loop(sampled=sampled, folder=tmp_path) > 0
