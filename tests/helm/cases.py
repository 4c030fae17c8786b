"""The values that every test of a rendered chart goes through: those of ci/, and each switch at least once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from tests.helm.chart import CHART, merged

HERE: Final = Path(__file__).resolve().parent


def _file(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(path.read_text())
    return tree or {}


EVERYTHING: Final = _file(HERE / "values" / "everything.yaml")
"""All switches on, every value another one than its default."""
HPA: Final = merged(
    EVERYTHING,
    {
        "gateway": {
            "autoscaling": {
                "keda": {"enabled": False},
                "hpa": {
                    "enabled": True,
                    "minReplicas": 3,
                    "maxReplicas": 9,
                    "targetCPUUtilizationPercentage": 55,
                    "queuedSeconds": {"enabled": True, "metricName": "queued", "target": "100m"},
                    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
                },
            },
            "pdb": {"maxUnavailable": "40%"},
        }
    },
)
"""The same with an HPA, which excludes KEDA."""
BARE: Final = {
    "gateway": {
        "pdb": {"enabled": False},
        "topologySpread": {"enabled": False},
        "service": {"headless": {"enabled": False}},
    },
    "control": {"persistence": {"enabled": False}},
    "networkPolicy": {"enabled": False},
    "serviceAccount": {"create": False, "name": "own"},
    "ray": {"autoscaler": {"enabled": False}},
    "models": [{"name": "fraud-tx", "version": "1", "group": "cpu", "numCpus": 1, "replicas": 1}],
    "tests": {"enabled": False},
}
"""Every switch off."""

CASES: Final[dict[str, Mapping[str, Any]]] = {
    "defaults": {},
    "bare": BARE,
    "everything-keda": EVERYTHING,
    "everything-hpa": HPA,
    "uri": merged(EVERYTHING, {"modelStore": {"existingClaim": "", "uri": "s3://models/live", "secretName": "store"}}),
    "claim": {
        "gateway": {"replicas": 1},
        "control": {"persistence": {"existingClaim": "own"}},
        "telemetry": {"otlpEndpoint": "http://otel:4317"},
    },
    **{path.stem: _file(path) for path in sorted((CHART / "ci").glob("*.yaml"))},
}
"""Name → values."""
