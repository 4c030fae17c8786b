"""The questions: what is asked, how it is padded, and that the generator reads back what was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import serialised
import workloads
from tritonclient.grpc import service_pb2

from headrace_models import spec


@pytest.fixture(scope="module")
def w2() -> workloads.Workload:
    return workloads.make("W2", 40)


def test_w1_has_one_shape_and_w2_many(w2: workloads.Workload) -> None:
    assert {row.shape for row in workloads.make("W1", 3).rows} == {(32, 16)}
    assert len({row.shape for row in w2.rows}) > 10
    assert all(1 <= len(row) <= workloads.CAP for row in w2.rows)


def test_the_lengths_are_those_of_the_ragged_benchmark() -> None:
    rows = workloads.questions_of("W2", 512)

    assert 14 <= np.median([len(row) for row in rows]) <= 20
    assert max(len(row) for row in rows) == 128


def test_the_expected_answers_are_the_golden_ones(root: Path) -> None:
    directory = root / "benchmarks" / "repository" / "w2-ragged" / "1"
    with np.load(directory / "golden.npz") as golden:
        arrays = dict(golden)
    events, lengths = (next(arrays[name] for name in arrays if part in name) for part in ("input", "length"))
    rows = np.split(events, np.cumsum(lengths)[:-1])
    expected = next(arrays[name] for name in arrays if name.endswith("score"))

    np.testing.assert_allclose(workloads.scores("W2", rows).ravel(), expected.ravel(), atol=1e-5)
    assert spec.load_spec(directory).name == workloads.MODELS["W2"]


def test_a_padded_row_keeps_its_events_and_says_how_many_they_are() -> None:
    events = np.ones((5, 16), np.float32)

    row = workloads.padded_row(events)

    assert row["events"].shape == (workloads.CAP, 16)
    np.testing.assert_array_equal(row["events"][:5], events)
    assert not row["events"][5:].any()
    assert row["length"].tolist() == [5]


@pytest.mark.parametrize("padded", [False, True])
def test_the_generator_asks_what_was_written(w2: workloads.Workload, tmp_path: Path, padded: bool) -> None:  # noqa: FBT001
    questions = serialised.load(w2.write(tmp_path, padded=padded).own)

    assert len(questions.requests) == len(w2.rows)
    for asked, events in zip(questions.requests, w2.rows, strict=True):
        request = service_pb2.ModelInferRequest.FromString(asked)
        sent = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        assert sent.shape == (1, workloads.CAP if padded else len(events), 16)
        np.testing.assert_array_equal(sent[0, : len(events)], events)
    np.testing.assert_array_equal(questions.expected["score"], w2.scores)


@pytest.mark.parametrize("padded", [False, True])
def test_perf_analyzer_reads_a_shape_with_every_row(w2: workloads.Workload, tmp_path: Path, padded: bool) -> None:  # noqa: FBT001
    data = json.loads(w2.write(tmp_path, padded=padded).perf_analyzer.read_text())["data"]

    shapes = [row["events"]["shape"] for row in data]
    assert shapes == [[workloads.CAP if padded else len(events), 16] for events in w2.rows]
    assert all(len(row["events"]["content"]) == np.prod(row["events"]["shape"]) for row in data)
    assert all(("length" in row) == padded for row in data)
