"""Control's messages as the core's values: specs and policies, once a snapshot."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.core.routing import Canary, Policy, Shadow
from headrace.core.tensors import Axis, ModelSpec, Signal, TensorSpec
from headrace.v1 import control_pb2


def spec(wire: control_pb2.ModelSpec) -> ModelSpec:
    """Raises: KeyError for an axis or a datatype that is none."""
    made = ModelSpec(
        name=wire.name,
        version=wire.version,
        digest=wire.digest,
        inputs=_tensors(wire.inputs),
        outputs=_tensors(wire.outputs),
        axes=tuple(Axis(axis.name, axis.cap, axis.required) for axis in wire.axes),
        max_rows=wire.max_rows,
        max_tokens=wire.max_tokens,
        platform=wire.platform,
        extras=_tensors(wire.extras),
        signal=Signal(wire.signal.name, wire.signal.calibration_version) if wire.HasField("signal") else None,
    )
    for tensor in (*made.inputs, *made.answers):  # worked out now, and not when the first request comes
        made.input_axes, tensor.entry_bytes  # noqa: B018
    return made


def policy(wire: control_pb2.TrafficPolicy) -> Policy:
    canary = wire.canary if wire.HasField("canary") else None
    return Policy(
        primary=wire.primary_version,
        canary=None if canary is None else Canary(canary.version, canary.share, canary.salt),
        shadows=tuple(
            Shadow(
                experiment_id=shadow.experiment_id,
                incumbent=shadow.incumbent,
                challenger=shadow.challenger,
                share=shadow.share,
                timeout_s=shadow.timeout_ms / 1000,
                max_rows=shadow.max_in_flight_rows,
                output=shadow.output,
            )
            for shadow in wire.shadows
        ),
        revision=wire.revision,
    )


def _tensors(wire: Iterable[control_pb2.TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=tensor.name,
            datatype=tensor.datatype,
            dims=tuple(tensor.dims),
            axis=tensor.axis or None,
            finite=tensor.finite,
            minimum=tensor.minimum if tensor.bounded_below else None,
            ordered=tensor.ordered,
            optional=tensor.optional,
            labels=tuple(tensor.labels),
            costs_rows=tensor.costs_rows,
            max_bytes=tensor.max_bytes,
        )
        for tensor in wire
    )
