"""Every method has its permission written down, and one that has not is closed."""

from __future__ import annotations

import pytest
from tritonclient.grpc import service_pb2

from headrace.keda import externalscaler_pb2
from headrace.permissions import NEEDED, TELLING, needed
from headrace.v1 import control_pb2, experiments_pb2, replica_pb2, risk_pb2


def test_the_table_names_every_method_of_ours_and_none_that_is_not_there() -> None:
    modules = (control_pb2, experiments_pb2, replica_pb2, risk_pb2, externalscaler_pb2)
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    paths = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}

    protocol = ("ModelInfer", "ModelStreamInfer", "RepositoryModelLoad", "RepositoryModelUnload")
    assert set(NEEDED) == paths | {f"/inference.GRPCInferenceService/{name}" for name in protocol}


def test_what_tells_of_models_is_part_of_the_protocol_and_needs_nothing_else() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    methods = {f"/inference.GRPCInferenceService/{method.name}" for method in service.methods}

    assert methods > TELLING
    assert {needed(path) for path in TELLING} == {None}


@pytest.mark.parametrize(
    ("path", "permission"),
    [
        ("/headrace.v1.Control/Forgotten", "admin"),
        ("/another.Service/Check", "admin"),
        ("/grpc.health.v1.Health/Watch", None),
        ("/inference.GRPCInferenceService/ModelMetadata", None),
        ("/inference.GRPCInferenceService/ModelInfer", "infer"),
        ("/inference.GRPCInferenceService/ModelStreamInfer", "infer"),
        ("/inference.GRPCInferenceService/RepositoryModelLoad", "admin"),
        ("/inference.GRPCInferenceService/RepositoryModelUnload", "admin"),
        ("/inference.GRPCInferenceService/TraceSetting", None),
    ],
)
def test_what_stands_nowhere_is_the_admins(path: str, permission: str | None) -> None:
    assert needed(path) == permission
