"""The search for the capacity: from above, a stall costs a step, and nothing found is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import capacity
import driving
import pytest


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A server that takes 500 a second in time and 1,000 in a closed loop; the rates it was tried with."""
    rates: list[float] = []

    async def closed(*_: Any) -> dict[str, float]:
        return {"rps": 1000.0}

    async def opened(_: str, __: Path, rate: float, seconds: float, **___: Any) -> dict[str, list[float]]:
        rates.append(rate)
        halves = int(2 * seconds)
        stalled = [0.5] * (halves // 2 - 1)  # of a machine that others use too
        return {"right_shares": stalled + [1.0 if rate <= 500 else 0.98] * (halves - len(stalled))}

    monkeypatch.setattr(driving, "closed_loop", closed)
    monkeypatch.setattr(driving, "open_loop", opened)
    return rates


def test_the_highest_rate_that_is_kept_up_with_is_found(run: Any, tried: list[float]) -> None:
    found = run(capacity.find("address", Path("questions")))
    assert 500 * capacity.STEP < found.capacity_rps <= 500
    assert found.closed_rps == 1000
    assert tried == sorted(tried, reverse=True)
    assert found.figures() == {"capacity_rps": round(found.capacity_rps, 1), "closed_rps": 1000.0}


def test_a_server_that_keeps_up_with_nothing_is_said(
    run: Any, tried: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "SHARE_IN_TIME", 1.01)
    with pytest.raises(RuntimeError, match="99 %"):
        run(capacity.find("address", Path("questions")))
    assert min(tried) < 120


def test_a_run_without_requests_is_not_in_time() -> None:
    assert capacity.in_time({"right_shares": []}) == 0


def test_a_stall_spoils_its_half_second_and_a_queue_all_of_them() -> None:
    assert capacity.in_time({"right_shares": [1.0, 0.2, 1.0, 0.9, 1.0]}) == 1.0
    assert capacity.in_time({"right_shares": [1.0, 0.9, 0.8, 0.7, 0.6]}) == 0.8
