"""Every setting: name, unit, default, reason; a file for each section. Loaded once, by the CLI.

Order: defaults < `headrace.yaml` < environment `HEADRACE_<SECTION>__<FIELD>` < command line.
A wrong key or value is a StartupError of one line that names the path.
"""

from headrace.config.batching import BatchingSettings, QueuePolicy
from headrace.config.doors import RESERVED, AccessSettings, Caller, Permission, Quota, TlsSettings
from headrace.config.fallback import FallbackSettings
from headrace.config.loading import OTEL_READ, PREFIX, load
from headrace.config.models import (
    AutoscalingSettings,
    CanarySettings,
    ModelSettings,
    ShadowSettings,
    TrafficSettings,
)
from headrace.config.processes import ControlSettings, GatewaySettings, ReplicaSettings, TelemetrySettings
from headrace.config.restricted import Group, Restriction
from headrace.config.risk import RiskSettings
from headrace.config.section import Section
from headrace.config.settings import Settings

__all__ = [
    "OTEL_READ",
    "PREFIX",
    "RESERVED",
    "AccessSettings",
    "AutoscalingSettings",
    "BatchingSettings",
    "Caller",
    "CanarySettings",
    "ControlSettings",
    "FallbackSettings",
    "GatewaySettings",
    "Group",
    "ModelSettings",
    "Permission",
    "QueuePolicy",
    "Quota",
    "ReplicaSettings",
    "Restriction",
    "RiskSettings",
    "Section",
    "Settings",
    "ShadowSettings",
    "TelemetrySettings",
    "TlsSettings",
    "TrafficSettings",
    "load",
]
