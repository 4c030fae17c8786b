"""The soak with faults: no payment without its answer, and what grows is found whatever is restarted meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mischief
import persistent
import pytest
import soak_faults
import soak_picture
from persistent import Payment
from serialised import Questions
from tritonclient.grpc import service_pb2


def second(at_s: float, ms: float = 5.0) -> dict[str, Any]:
    return {"at_s": at_s, "answered": 100, "refused": 0, "p50_ms": ms, "p99_ms": 4 * ms}


def lives(slope_mib_s: float, every_s: float = 300.0, seconds: float = 1800.0) -> list[soak_faults.Sample]:
    """A process that is restarted every five minutes, holds half of it in its first 20 s, and grows."""
    found = []
    for at_s in range(0, int(seconds), 2):
        age_s = at_s % every_s
        early = -50.0 if age_s < 20 else 0.0
        found.append((float(at_s), int(at_s // every_s), 100.0 + early + slope_mib_s * age_s))
    return found


def seen(**changes: Any) -> soak_faults.Seen:
    found = soak_faults.Seen(seconds=[second(float(at)) for at in range(100)], paces=[(0.0, 2000.0), (30.0, 1900.0)])
    found.counts.update(payments=100, right=100)
    found.samples["gateway-0"] = lives(0.0)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_a_soak_without_a_loss_passes_and_is_drawn(tmp_path: Path) -> None:
    found = soak_faults.verdict(seen(faults=[mischief.Fault("replica killed", 20.0, 4.0)]), 60)
    soak_picture.draw(tmp_path / "soak.png", found)

    assert found["passed"]
    assert found["machine_mib_per_s"]["change_percent"] == -5
    assert (tmp_path / "soak.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", soak_faults.LOST)
def test_a_single_loss_misses(name: str) -> None:
    spoilt = seen()
    spoilt.counts[name] += 1
    assert not soak_faults.verdict(spoilt, 60)["passed"]


def test_a_payment_without_an_answer_misses() -> None:
    spoilt = seen()
    spoilt.counts["payments"] += 1
    assert not soak_faults.verdict(spoilt, 60)["passed"]


@pytest.mark.parametrize(("slope_mib_s", "flat"), [(0.0, True), (0.005, True), (0.1, False)])
def test_growth_is_found_over_the_lives_of_a_process_without_their_warm_ups(slope_mib_s: float, *, flat: bool) -> None:
    found = soak_faults.verdict(seen(samples={"control": lives(slope_mib_s)}), 60)

    assert found["memory"]["control"]["slope_mib_per_hour"] == pytest.approx(3600 * slope_mib_s, abs=0.01)
    assert found["memory_flat"] is flat


def test_latency_that_rises_misses() -> None:
    risen = soak_faults.verdict(seen(seconds=[second(float(at), 5 + at / 20) for at in range(100)]), 60)
    assert not risen["latency_flat"]


def test_payments_are_told_apart_by_what_became_of_them() -> None:
    """Answered with what is no answer, given up, and asked again."""
    nobody = Questions([b""], {}, {})
    other = service_pb2.ModelInferResponse(outputs=[{"name": "p"}], raw_output_contents=[b"1"])
    wrong = Payment(0, 0.5, ended_s=0.6, body=other.SerializeToString())
    right = Payment(0, 0.5, attempts=2, ended_s=1.5, said=["status 14: gone"])
    given_up = Payment(0, 1.5, ended_s=-30.0, said=["nothing"])

    found = persistent.summary([wrong, right, given_up], 1, nobody, 0.0, 2.0)

    assert (found["wrong"], found["right"], found["given_up"], found["lost_attempts"]) == (1, 1, 1, 1)
    assert found["asked_again"] == 2
    assert found["p50_ms"] == pytest.approx(1000)
    assert [one["answered"] for one in found["by_second"]] == [1, 0]
    assert [one["refused"] for one in found["by_second"]] == [1, 1]
