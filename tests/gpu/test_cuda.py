"""On a GPU: every path equals the plain one, nothing is recorded in service, out-of-memory stays in its batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.serving import rows as made
from headrace.serving import weights
from headrace.serving.runner import OK, Runner, Unpacked
from headrace.serving.warmup import warm_up
from headrace_models import simulator, spec
from headrace_models.training.evaluate import REPOSITORY
from headrace_models.training.recipes import RECIPES
from headrace_models.training.tasks import Task

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

MODELS = ("fraud-tx", "fraud-tx-s", "fraud-gru", "acceptance")
FP32, BF16 = 1e-3, 5e-3


@pytest.fixture(scope="module", params=MODELS)
def directory(request: pytest.FixtureRequest) -> Path:
    folder = REPOSITORY.parent / "gpu" if request.param.endswith("-s") else REPOSITORY
    found = folder / request.param / "1"
    if not found.exists():
        pytest.skip(f"{request.param} is not in the repository")
    return found


@pytest.fixture(scope="module")
def batches(directory: Path) -> list[Unpacked]:
    found = spec.load_spec(directory)
    task: Task = RECIPES[found.name].task(simulator.simulate(5, days=90, cards=900, merchants=120, fraud_share=0.01))
    rng = np.random.default_rng(0)
    return [_batch(found, task, np.sort(rng.choice(30_000, rows, replace=False))) for rows in (1, 3, 31, 60)]


def _batch(found: spec.ModelSpec, task: Task, rows: np.ndarray) -> Unpacked:
    columns, lengths = task.packed(rows)
    inputs = {
        t.name: columns[t.name] if t.name in columns else np.zeros((len(rows), *t.dims), spec.DATATYPES[t.datatype])
        for t in found.inputs
    }
    return Unpacked(inputs, {axis.name: lengths[axis.name] for axis in found.axes}, len(rows))


@pytest.fixture(scope="module")
def runner(directory: Path) -> Iterator[Runner]:
    model = weights.read(directory)
    runner = Runner(weights.load(model, "cuda"), model.spec, "cuda")
    warm_up(runner, model.spec)
    yield runner
    torch.cuda.empty_cache()


def test_every_batch_gives_what_the_cpu_gives(directory: Path, runner: Runner, batches: list[Unpacked]) -> None:
    model = weights.read(directory)
    plain = Runner(weights.load(model, "cpu"), model.spec, "cpu")
    name = model.spec.outputs[0].name
    for batch in batches:
        found, expected = runner.forward(batch)[name], plain.forward(batch)[name]
        assert np.abs(found - expected).max() < BF16


def test_a_replayed_pass_equals_the_one_that_was_recorded(runner: Runner, batches: list[Unpacked]) -> None:
    """Graphs against the same kernels launched one by one; and a second replay against the first."""
    name = runner._spec.outputs[0].name
    replayed = [runner.forward(batch)[name] for batch in batches]
    again = [runner.forward(batch)[name] for batch in batches]
    graphs, runner._recorded = runner._recorded, None
    launched = [runner.forward(batch)[name] for batch in batches]
    runner._recorded = graphs

    for first, second, third in zip(replayed, again, launched, strict=True):
        assert np.abs(first - second).max() < 1e-5  # sums by index come in any order there
        assert np.abs(first - third).max() < FP32


def test_a_row_does_not_depend_on_its_batch(runner: Runner, batches: list[Unpacked]) -> None:
    name = runner._spec.outputs[0].name
    batch = batches[-1]
    together = runner.forward(batch)[name]
    for row in range(0, batch.rows, 7):
        alone = runner.forward(made.joined([_row(batch, row, runner._spec)]))[name]
        assert np.abs(alone - together[row]).max() < BF16


def _row(batch: Unpacked, row: int, found: spec.ModelSpec) -> Unpacked:
    from headrace.serving.runner import take  # noqa: PLC0415  only here

    return take(batch, np.array([row]), found)


def test_nothing_is_recorded_once_batches_come(runner: Runner, batches: list[Unpacked]) -> None:
    graphs = dict(runner._recorded._graphs) if runner._recorded is not None else {}
    for batch in batches:
        runner.forward(batch)

    assert graphs == (runner._recorded._graphs if runner._recorded is not None else {})


def test_stages_are_stamped_in_order_and_the_forward_pass_takes_time(runner: Runner, batches: list[Unpacked]) -> None:
    computed = runner.run(made.packed(batches[-1], runner._spec), 0.0)
    passed = runner.stopwatch.read()

    assert set(computed.status) == {OK}
    assert passed.unpacked_ns <= passed.copied_ns < passed.computed_ns <= passed.fetched_ns


def test_out_of_memory_fails_its_batch_and_no_other(runner: Runner, batches: list[Unpacked]) -> None:
    """The card filled to the brim by somebody else: the batch that finds no room fails, the next one is answered."""
    from headrace.errors import ModelFailed  # noqa: PLC0415  only here

    graphs, runner._recorded = runner._recorded, None
    expected = runner.run(made.packed(batches[0], runner._spec), 0.0).columns
    module, runner._module = runner._module, Greedy()
    with pytest.raises(ModelFailed):
        runner.run(made.packed(batches[0], runner._spec), 0.0)
    runner._module = module

    assert not runner.device_lost
    assert runner.run(made.packed(batches[0], runner._spec), 0.0).columns == expected
    runner._recorded = graphs


class Greedy(torch.nn.Module):
    """Asks for more than the card has."""

    def forward(self, *_: object) -> dict[str, torch.Tensor]:
        return {"p": torch.empty(1 << 44, dtype=torch.uint8, device="cuda")}
