"""What an experiment compares where nobody says it."""

from __future__ import annotations

import pytest

from headrace.control import drafting
from headrace.control.discovery import Version
from headrace.errors import InvalidInference, UnknownModel
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb

SCORED = {"p": ("FP32", [1]), "score": ("INT32", [1])}


def version(outputs: dict[str, tuple[str, list[int]]], *, signal: bool = False, ready: bool = True) -> Version:
    tensors = [control_pb2.TensorSpec(name=n, datatype=kind, dims=dims) for n, (kind, dims) in outputs.items()]
    said = control_pb2.SignalSpec(name="fraud") if signal else None
    return Version(control_pb2.ModelSpec(name="m", outputs=tensors, signal=said), ready)


def drafted(incumbent: Version, challenger: Version, primary: str = "1", **fields: object) -> pb.Experiment:
    request = pb.CreateExperimentRequest(model="m", challenger="2", **fields)
    policy = control_pb2.TrafficPolicy(model="m", primary_version=primary)
    return drafting.drafted(request, {"1": incumbent, "2": challenger}, policy, (75,))


def test_a_signal_is_compared_by_its_score_at_the_highest_cut_point() -> None:
    one = version(SCORED, signal=True)

    found = drafted(one, one)

    assert (found.incumbent, found.plan.output, list(found.plan.thresholds)) == ("1", "score", [75])


def test_a_model_with_one_number_a_row_is_compared_by_that_number() -> None:
    one = version({"risk": ("FP32", []), "state": ("FP32", [16]), "words": ("BYTES", [1])})

    assert drafted(one, one, plan=pb.Plan(thresholds=[0.5])).plan.output == "risk"
    with pytest.raises(InvalidInference, match=r"plan\.thresholds"):
        drafted(one, one)


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [(SCORED, "plan.output: required, 'm' has p, score"), ({"state": ("FP32", [16])}, "has no output of one number")],
)
def test_a_choice_that_is_not_clear_is_left_to_whoever_asks(
    outputs: dict[str, tuple[str, list[int]]], sentence: str
) -> None:
    one = version(outputs)

    with pytest.raises(InvalidInference, match=sentence):
        drafted(one, one)


def test_both_versions_must_have_what_is_compared() -> None:
    with pytest.raises(InvalidInference, match=r"plan\.output: 'score' is not one number a row"):
        drafted(version({"p": ("FP32", [1])}), version(SCORED, signal=True))


def test_whoever_is_in_charge_is_the_incumbent_and_somebody_must_be() -> None:
    ready, waiting = version(SCORED, signal=True), version(SCORED, signal=True, ready=False)

    assert drafted(ready, waiting, primary="").incumbent == "1"
    with pytest.raises(UnknownModel, match="no version of 'm' is ready"):
        drafted(waiting, waiting, primary="")
