"""Every method has its permission written down, and one that has not is closed."""

from __future__ import annotations

import pytest

from headrace.permissions import NEEDED, needed
from headrace.v1 import control_pb2, experiments_pb2, replica_pb2, risk_pb2


def test_the_table_names_every_method_of_ours_and_none_that_is_not_there() -> None:
    files = (control_pb2.DESCRIPTOR, experiments_pb2.DESCRIPTOR, replica_pb2.DESCRIPTOR, risk_pb2.DESCRIPTOR)
    services = [service for file in files for service in file.services_by_name.values()]
    paths = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}

    assert set(NEEDED) == paths | {"/inference.GRPCInferenceService/ModelInfer"}


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
