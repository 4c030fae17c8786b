"""A registration, at control's directory: refused by a field's name; or entered, and any gateway can serve it."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError
from tests.fuzz.targets.target import Target
from tritonclient.grpc import service_pb2

from headrace.control.discovery import Directory
from headrace.errors import HeadraceError
from headrace.gateway import wire
from headrace.gateway.codec import Decoder
from headrace.testing.clock import FakeClock
from headrace.testing.replica import ECHO_SPEC
from headrace.v1 import control_pb2

LARGE: Final = 64 << 20
"""Bytes: no row of a model is larger than what a request may be."""


def check(data: bytes) -> None:
    try:
        registration = control_pb2.Registration.FromString(data)
    except DecodeError:
        return
    directory = Directory(FakeClock(), 3.0)
    try:
        directory.register(registration, "somebody")
    except HeadraceError:
        assert not directory.snapshot("e").replicas
        return
    for entry in control_pb2.Snapshot.FromString(directory.snapshot("e").SerializeToString()).replicas:
        _check_served(entry.spec)


def _check_served(told: control_pb2.ModelSpec) -> None:
    spec = wire.spec(told)
    for tensor in (*spec.inputs, *spec.answers):
        assert 0 < tensor.entry_bytes <= LARGE
    request: Any = service_pb2.ModelInferRequest(model_name=spec.name)
    for tensor in spec.inputs:
        shape = (1, *[1 if size < 0 else size for size in tensor.dims])
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        request.raw_input_contents.append(b"12345678")
    try:
        Decoder(spec).decode(request, 0.0)
    except HeadraceError:
        return


def _seeds() -> list[bytes]:
    whole = control_pb2.Registration(
        replica_id="r-1",
        endpoint="127.0.0.1:1234",
        spec=ECHO_SPEC,
        state=control_pb2.REPLICA_STATE_READY,
        host="h",
        device="cpu",
        precision="float32",
        started_us=1,
    )
    other = control_pb2.Registration()
    other.CopyFrom(whole)
    other.spec.extras.add(name="why", datatype="FP32", dims=[2], labels=["a", "b"], costs_rows=2)
    other.spec.inputs.add(name="state", datatype="FP64", dims=[3], optional=True)
    other.spec.signal.name = "fraud"
    return [message.SerializeToString() for message in (whole, other)]


TARGET: Final = Target(
    _seeds(),
    check,
    ("headrace.control.specs", "headrace.control.registering", "headrace.gateway.wire"),
    control_pb2.Registration,
)
