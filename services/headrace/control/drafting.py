"""An experiment as it begins: what was asked for, defaults filled in, held against the versions there are. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from typing import Final

from headrace.config import ModelSettings, ShadowSettings
from headrace.control.discovery import Version, Versions
from headrace.core import routing
from headrace.errors import Conflict, InvalidInference, UnknownModel
from headrace.experiments import plan as plan_
from headrace.experiments import stages
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb

ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NUMBERS: Final = frozenset({"FP16", "BF16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64",
                            "UINT8", "UINT16", "UINT32", "UINT64"})  # fmt: skip
SCORE: Final = "score"


def drafted(
    request: pb.CreateExperimentRequest, versions: Versions, policy: control_pb2.TrafficPolicy, cuts: Sequence[float]
) -> pb.Experiment:
    """The experiment that was asked for. `cuts`: thresholds of the output `score` where none are given.

    Raises: UnknownModel for a version that is not registered; InvalidInference naming the field.
    """
    if not request.model:
        raise InvalidInference("model: required")
    incumbent = request.incumbent or in_charge(policy, versions)
    found(versions, request.model, incumbent)
    challenger = found(versions, request.model, request.challenger)
    if incumbent == request.challenger:
        raise InvalidInference(f"challenger: version {incumbent} is the incumbent itself")
    experiment = pb.Experiment(id=request.id, model=request.model, incumbent=incumbent, challenger=request.challenger)
    experiment.plan.CopyFrom(_plan(request.plan, versions[incumbent], challenger, cuts))
    if experiment.id and not ID.fullmatch(experiment.id):
        raise InvalidInference("id: letters, digits, dots, dashes and underscores, 128 at most")
    return experiment


def found(versions: Versions, model: str, version: str) -> Version:
    """Raises: UnknownModel when no replica of this version is registered."""
    if version not in versions:
        named = f"version '{version}' of '{model}'" if versions else f"model '{model}'"
        raise UnknownModel(f"{named} is not there")
    return versions[version]


def in_charge(policy: control_pb2.TrafficPolicy, versions: Versions) -> str:
    """The version that answers now. Raises: UnknownModel when none does."""
    chosen = routing.primary(policy.primary_version, (name for name, version in versions.items() if version.ready))
    if chosen is None:
        raise UnknownModel(f"no version of '{policy.model}' is ready")
    return chosen


def named(experiment: pb.Experiment, others: Iterable[pb.Experiment]) -> str:
    """An id made of the model and the two versions, numbered from the second time on.

    Raises: Conflict while these two are compared already.
    """
    pair = experiment.model, experiment.incumbent, experiment.challenger
    taken: Container[str] = {other.id for other in others}
    for other in others:
        if (other.model, other.incumbent, other.challenger) == pair and other.stage not in stages.OVER:
            raise Conflict(f"experiment '{other.id}' compares these two already")
    base = "-".join(re.sub(r"[^A-Za-z0-9._-]", "-", part) for part in pair)
    number = 1
    while (name := base if number == 1 else f"{base}-{number}") in taken:
        number += 1
    return name


def of_settings(model: str, shadow: ShadowSettings) -> pb.CreateExperimentRequest:
    """What a shadow in the settings asks for; its id is the same at every start."""
    return pb.CreateExperimentRequest(
        id=f"settings-{model}-{shadow.version}",
        model=model,
        challenger=shadow.version,
        plan=pb.Plan(
            share=shadow.share,
            noise_share=shadow.noise_share,
            timeout_ms=shadow.timeout_ms,
            max_in_flight_rows=shadow.max_in_flight_rows,
            output=shadow.output,
            thresholds=shadow.thresholds,
        ),
        start=True,
        why=f"models.{model}.traffic.shadows",
    )


def base_of(model: str, settings: ModelSettings) -> control_pb2.TrafficPolicy:
    """Who answers as the settings say it."""
    base = control_pb2.TrafficPolicy(model=model, primary_version=settings.primary_version)
    if canary := settings.traffic.canary:
        base.canary.CopyFrom(salted(model, control_pb2.Canary(version=canary.version, share=canary.share)))
    return base


def salted(model: str, canary: control_pb2.Canary) -> control_pb2.Canary:
    """A canary with a salt of its own where it has none, so that two of them do not hit the same cards."""
    salt = canary.salt or f"{model}/{canary.version}"
    return control_pb2.Canary(version=canary.version, share=canary.share, salt=salt)


def _plan(asked: pb.Plan, incumbent: Version, challenger: Version, cuts: Sequence[float]) -> pb.Plan:
    output = asked.output or _default_output(challenger.spec)
    for side in (incumbent.spec, challenger.spec):
        if output not in _numbers(side):
            raise InvalidInference(f"plan.output: '{output}' is not one number a row of version {side.version}")
    try:
        return plan_.filled(asked, output, cuts if output == SCORE else ())
    except ValueError as error:
        raise InvalidInference(str(error)) from error


def _default_output(spec: control_pb2.ModelSpec) -> str:
    numbers = _numbers(spec)
    if spec.HasField("signal") and SCORE in numbers:
        return SCORE
    if len(numbers) == 1:
        return numbers[0]
    raise InvalidInference(
        f"plan.output: required, '{spec.name}' has {', '.join(numbers) or 'no output of one number'}"
    )


def _numbers(spec: control_pb2.ModelSpec) -> list[str]:
    """The outputs that are one number a row."""
    return [
        tensor.name
        for tensor in spec.outputs
        if tensor.datatype in NUMBERS and list(tensor.dims) in ([], [1]) and not tensor.axis
    ]
