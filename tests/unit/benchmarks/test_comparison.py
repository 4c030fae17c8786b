"""Turns alternate, and every system that can has its turn."""

from __future__ import annotations

import comparison
import environments
import machine
import pytest
import systems
import workloads
from systems import launch, process

W1 = workloads.Workload("W1", [], workloads.np.empty((0, 1)))


def names(rounds: int) -> list[list[str]]:
    turns = list(comparison.in_turn(rounds, [W1], systems.all_systems("local")))
    return [[turn.system.name for turn in turns if turn.round == number] for number in range(rounds)]


def test_every_other_round_goes_the_other_way_round() -> None:
    first, second = names(2)

    assert first == ["headrace", "ray-serve", "mlserver", "triton"]
    assert second == first[::-1]


def test_a_missing_environment_is_a_row_not_a_silence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: comparison.Path
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(workloads.Workload, "write", lambda *_, **__: None)
    triton = next(system for system in systems.all_systems("local") if system.name == "triton")

    (row,) = comparison.take(comparison.Turn(0, W1, triton), comparison.QUICK, tmp_path)

    assert row["load"] == "-"
    assert "make bench-setup" in row["note"]


def test_a_family_has_its_root_and_only_whoever_descends_from_it() -> None:
    family = machine.family(1)

    assert family[0] == 1
    assert machine.os.getppid() not in machine.family(machine.os.getpid())


def test_a_system_that_ends_at_once_tells_the_end_of_its_log(tmp_path: comparison.Path) -> None:
    told = launch.Launch(["sh", "-c", "echo no such device; exit 3"], {"PATH": "/bin:/usr/bin"}, "127.0.0.1:1")

    with (
        pytest.raises(process.NotRunningError, match="ended with 3: no such device"),
        process.running(told, "W1", tmp_path),
    ):
        pass


def test_what_a_system_left_behind_is_ended_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: comparison.Path) -> None:
    monkeypatch.setattr(process, "is_ready", lambda *_: (tmp_path / "child").exists())
    script = "trap 'exit 0' TERM; sleep 60 & echo $! > child.part; mv child.part child; wait"
    told = launch.Launch(["sh", "-c", script], {"PATH": "/bin:/usr/bin"}, "127.0.0.1:1")

    with process.running(told, "W1", tmp_path) as running:
        child = int((tmp_path / "child").read_text())
        assert child in running.pids()

    assert process.started(child) is None
