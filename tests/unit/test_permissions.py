"""Every method has its permission written down, and one that has not is closed."""

from __future__ import annotations

import pytest

from headrace.keda import externalscaler_pb2
from headrace.permissions import NEEDED, needed
from headrace.v1 import control_pb2, experiments_pb2, replica_pb2, risk_pb2


def test_the_table_names_every_method_of_ours_and_none_that_is_not_there() -> None:
    modules = (control_pb2, experiments_pb2, replica_pb2, risk_pb2, externalscaler_pb2)
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    paths = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}

    inferences = {f"/inference.GRPCInferenceService/{method}" for method in ("ModelInfer", "ModelStreamInfer")}
    assert set(NEEDED) == paths | inferences


@pytest.mark.parametrize(
    ("path", "permission"),
    [
        ("/headrace.v1.Control/Forgotten", "admin"),
        ("/another.Service/Check", "admin"),
        ("/grpc.health.v1.Health/Watch", None),
        ("/inference.GRPCInferenceService/ModelMetadata", None),
        ("/inference.GRPCInferenceService/ModelInfer", "infer"),
    ],
)
def test_what_stands_nowhere_is_the_admins(path: str, permission: str | None) -> None:
    assert needed(path) == permission
