"""Training keeps the leakage rules, survives a kill, writes what can be served; refreshed models keep thresholds."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from headrace_models import fraud_tx, simulator, spec, wire
from headrace_models.events import Events
from headrace_models.simulator.files import write_csv
from headrace_models.training import __main__ as command
from headrace_models.training.loop import Hyperparameters, Run
from headrace_models.training.recipes import RECIPES
from headrace_models.training.split import Keep
from headrace_models.training.tasks import AcceptanceTask, FraudTask, logits

SMALL = Keep(train=400, validation=300, reference=800, test=800)
HOW = Hyperparameters(epochs=2, batch_rows=64, keep=SMALL)
NETWORK = {"width": 16, "layers": 1, "hidden": 32, "merchant_width": 8}


@cache
def task() -> FraudTask:
    torch.set_num_threads(1)
    return FraudTask(simulator.simulate(5, days=150, cards=600, merchants=80, fraud_share=0.01))


def fit(checkpoint: Path | None = None, *, stop_after: int | None = None) -> torch.nn.Module | None:
    """A short run; one that is killed after so many batches leaves its checkpoint behind."""
    run = Run(lambda: fraud_tx.build(NETWORK), task(), task().split(SMALL, 7), HOW)
    step, done = run._step, 0

    def counted(rows: np.ndarray) -> None:
        nonlocal done
        if done == stop_after:
            raise KeyboardInterrupt
        done += 1
        step(rows)
        if checkpoint is not None and stop_after is not None:
            run.at.batch += 1
            run.save(checkpoint, "same")
            run.at.batch -= 1

    run._step = counted  # type: ignore[method-assign]
    with Progress(disable=True) as progress:
        try:
            return run.fit(progress, checkpoint, "same")
        except KeyboardInterrupt:
            return None


# Splits -----------------------------------------------------------------------------------------------------------


def test_blocks_follow_in_time_with_room_for_labels_to_mature() -> None:
    events = task().events
    split = task().split(SMALL, 1)
    trained, chosen, judged = (events.ts[rows] for rows in (split.train, split.validation.rows, split.test.rows))

    delay = np.quantile((events.label_ts - events.ts)[events.label > 0], 0.99)
    assert chosen.min() - trained.max() > 0.98 * delay > 55 * wire.DAY_US
    assert chosen.max() < judged.min()
    assert (events.label_ts[split.train] <= chosen.min()).all()
    fraud = task().target(split.train) > 0
    for end in (np.min, np.max):  # frauds and others come from the same days: when a payment was made says nothing
        assert abs(end(trained[fraud]) - end(trained[~fraud])) < 5 * wire.DAY_US
    assert chosen.min() - wire.DAY_US < events.ts[split.reference.rows].min()
    assert events.ts[split.reference.rows].max() < judged.min()


def test_an_unknown_label_is_not_a_negative() -> None:
    events = task().events
    label = events.label.copy()
    label[::2] = wire.LABEL_UNKNOWN

    split = FraudTask(replace(events, label=label)).split(SMALL, 1)

    for rows in (split.train, split.validation.rows, split.reference.rows, split.test.rows):
        assert len(rows)
        assert (rows % 2 == 1).all()


def test_a_thinned_block_stands_for_all_of_it() -> None:
    whole = task().split(Keep(test=10**9), 1).test
    thinned = task().split(SMALL, 1).test

    assert len(thinned.rows) < len(whole.rows)
    assert thinned.weight.sum() == pytest.approx(len(whole.rows), rel=0.01)
    assert task().target(thinned.rows).sum() == task().target(whole.rows).sum()


def test_acceptance_learns_from_what_was_asked_and_answered() -> None:
    found = AcceptanceTask(task().events)
    split = found.split(SMALL, 1)

    assert (task().events.action[split.train] >= 0).all()
    assert 0.1 < found.target(split.train).mean() < 0.95


# The loop ---------------------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_ends_where_an_undisturbed_one_does(tmp_path: Path) -> None:
    """In the middle of the first epoch, and of the second: to the bit."""
    undisturbed = fit()
    checkpoint = tmp_path / "run.checkpoint"
    for batches in (3, 8):
        assert fit(checkpoint, stop_after=batches) is None

    resumed = fit(checkpoint)

    assert undisturbed is not None
    assert resumed is not None
    for name, values in undisturbed.state_dict().items():
        assert torch.equal(values, resumed.state_dict()[name]), name


def test_a_checkpoint_of_something_else_or_cut_short_is_not_taken_up(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    fit(checkpoint, stop_after=3)
    whole = checkpoint.read_bytes()

    def begins_at(identity: str) -> int:
        run = Run(lambda: fraud_tx.build(NETWORK), task(), task().split(SMALL, 7), HOW)
        run._restore(checkpoint, identity)
        return run.at.batch

    assert begins_at("same") == 3
    assert begins_at("other") == 0
    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert begins_at("same") == 0


def test_training_stops_when_it_gets_no_better(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([0.5, 0.4, 0.45, 0.9])
    monkeypatch.setattr("headrace_models.training.loop.average_precision", lambda _: next(found))
    run = Run(lambda: fraud_tx.build(NETWORK), task(), task().split(SMALL, 7), replace(HOW, epochs=4))
    with Progress(disable=True) as progress:
        run.fit(progress)

    assert run.at.history == [0.5, 0.4, 0.45]


# The command ------------------------------------------------------------------------------------------------------


@cache
def user_events() -> Events:
    return simulator.simulate(5, days=150, cards=600, merchants=80, fraud_share=0.01)


@pytest.mark.parametrize("model", ["fraud-tx", "fraud-gru", "acceptance"])
def test_training_writes_a_version_that_can_be_served(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPES[model]
    monkeypatch.setitem(RECIPES, model, replace(recipe, how=replace(recipe.how, keep=SMALL)))
    csv = tmp_path / "events.csv"
    write_csv(csv, user_events(), rename={"ts": "when"})

    to = ["--out", str(tmp_path / "models"), "--version", "3"]
    code = command.main(
        ["--model", model, "--events", str(csv), "--map", "when=ts", *to, "--epochs", "1", "--threads", "1"]
    )

    assert code == 0, capsys.readouterr().err
    directory = tmp_path / "models" / model / "3"
    found = spec.load_spec(directory)
    assert spec.verify_golden(spec.load_module(found, directory), found, directory).within
    card = (directory / "MODEL_CARD.md").read_text()
    assert "| gradient-boosted trees |" in card
    assert "events.csv" in card
    assert (directory / "weights.safetensors").stat().st_mode & 0o044


def test_a_file_that_cannot_be_learnt_from_ends_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = tmp_path / "events.csv"
    write_csv(csv, simulator.simulate(5, days=5, cards=50, merchants=20))

    codes = [command.main(["--events", str(path)]) for path in (csv, tmp_path / "none.csv")]

    assert codes == [1, 1]
    lines = capsys.readouterr().err.splitlines()
    assert "0 positives to learn from" in lines[0]
    assert "none.csv: cannot be read" in lines[1]


def test_the_command_goes_on_after_a_kill(tmp_path: Path) -> None:
    """SIGKILL in the middle of training; the same command again says where it goes on."""
    csv, out = tmp_path / "events.csv", tmp_path / "models"
    write_csv(csv, user_events())
    line = [sys.executable, "-m", "headrace_models.training", "--events", str(csv), "--out", str(out), "--threads", "1"]
    line += ["--epochs", "30", "--checkpoint-s", "0.2"]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL) as process:
        checkpoint = out / "fraud-tx" / "1.checkpoint"
        for _ in range(1200):
            if checkpoint.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        assert checkpoint.exists()
        process.send_signal(signal.SIGKILL)
    saved = torch.load(checkpoint, weights_only=True)

    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, bufsize=1) as again:
        assert again.stdout is not None
        said = next((text for text in again.stdout if "going on from" in text), "")
        again.send_signal(signal.SIGKILL)

    assert f"epoch {saved['at']['epoch'] + 1}" in said.replace("\n", " ")


# Refresh ----------------------------------------------------------------------------------------------------------


@pytest.mark.proof
def test_a_version_trained_later_raises_as_many_alerts_at_the_same_thresholds() -> None:
    """Each on the ten days after its own, a month apart, in a world where attackers move on."""
    torch.set_num_threads(1)
    network = {"width": 32, "layers": 1, "hidden": 64, "merchant_width": 16, "dropout": 0.2}
    keep = Keep(train=6000, validation=2000, reference=20_000, test=1)
    events = simulator.simulate(12, days=190, cards=4000, merchants=300, fraud_share=0.01, drift_weeks=6)
    day = (events.ts - simulator.START_US) // wire.DAY_US
    whole, scores = FraudTask(events), []
    for first in (0, 30):
        seen = FraudTask(events.take(np.flatnonzero((day >= first) & (day < first + 150))))
        split = seen.split(keep, 7)
        run = Run(lambda: fraud_tx.build(network), seen, split, Hyperparameters(epochs=3, keep=keep))
        with Progress(disable=True) as progress:
            module = run.fit(progress)
        command.calibrate(module, seen, split)
        after = np.flatnonzero((day >= first + 150) & (day < first + 160))
        logit = torch.from_numpy(logits(module, whole, after)).float()
        lengths = torch.from_numpy(whole.packed(after)[1]["card"])
        scores.append(module.calibration(logit, lengths)[1].numpy())  # type: ignore[operator]

    for threshold in (10, 25, 40):
        before, refreshed = ((score >= threshold).mean() for score in scores)
        assert abs(refreshed / before - 1) < 0.1, (threshold, before, refreshed)
