"""Which permission each of our methods needs: the one table of it, read at every port before a message is.

A method that stands nowhere here is the admins': one that is forgotten is closed.
"""

from __future__ import annotations

from typing import Final

from headrace.config import Permission

INFERENCE: Final = "inference.GRPCInferenceService"
RISK: Final = "headrace.v1.RiskService"
CONTROL: Final = "headrace.v1.Control"
EXPERIMENTS: Final = "headrace.v1.ExperimentService"
REPLICA: Final = "headrace.v1.Replica"
SCALER: Final = "externalscaler.ExternalScaler"

METHODS: Final[tuple[tuple[Permission, str, tuple[str, ...]], ...]] = (
    ("infer", INFERENCE, ("ModelInfer", "ModelStreamInfer")),
    ("infer", RISK, ("Score", "ScoreBatch")),
    ("replica", CONTROL, ("Register",)),
    ("gateway", CONTROL, ("Follow",)),
    ("read", CONTROL, ("Describe",)),
    ("read", EXPERIMENTS, ("GetExperiment", "ListExperiments", "GetReport", "GetTraffic")),
    ("admin", EXPERIMENTS, ("CreateExperiment", "Promote", "Rollback", "SetTraffic")),
    ("gateway", EXPERIMENTS, ("RecordPairs",)),
    ("outcome", EXPERIMENTS, ("RecordOutcomes",)),
    ("gateway", REPLICA, ("Execute", "ExecuteStream")),
    ("read", SCALER, ("IsActive", "StreamIsActive", "GetMetricSpec", "GetMetrics", "StreamMetricSpec")),
)
NEEDED: Final = {f"/{service}/{method}": permission for permission, service, methods in METHODS for method in methods}
OPEN: Final = frozenset({"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", INFERENCE})
"""Services whose other methods anybody may call: they tell what is served, and change nothing."""


def needed(path: str) -> Permission | None:
    """What a caller of `/package.Service/Method` must be permitted; None = nothing."""
    if path in NEEDED:
        return NEEDED[path]
    return None if path.split("/")[1] in OPEN else "admin"
