"""All sections under one roof, and what they must agree on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from headrace.config.doors import AccessSettings, TlsSettings
from headrace.config.models import ModelSettings
from headrace.config.processes import ControlSettings, GatewaySettings, ReplicaSettings, TelemetrySettings
from headrace.config.risk import RiskSettings
from headrace.config.section import Section


class Settings(Section):
    """All of it."""

    gateway: GatewaySettings = GatewaySettings()
    control: ControlSettings = ControlSettings()
    replica: ReplicaSettings = ReplicaSettings()
    risk: RiskSettings = RiskSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    tls: TlsSettings = TlsSettings()
    access: AccessSettings = AccessSettings()
    models: Mapping[str, ModelSettings] = Field(default_factory=dict)
    engine: Literal["ray", "local"] = "ray"
    model_dirs: tuple[Path, ...] = ()
    """Directories of models served beside the shipped one."""
    only: tuple[str, ...] = ()
    """Names of the models to serve, of those found. Empty = all. A replica of each costs a process and its memory."""

    @model_validator(mode="after")
    def _certificates_can_be_checked(self) -> Self:
        known = next((caller for caller in self.access.callers if caller.certificate), None)
        if known is not None and (self.tls.authorities is None or self.tls.certificate is None):
            raise ValueError(
                f"caller '{known.name}' is known by a certificate: that needs tls.certificate and .authorities"
            )
        return self

    @model_validator(mode="after")
    def _falls_back_on_another(self) -> Self:
        for name, model in self.models.items():
            if model.fallback is not None and model.fallback.model == name:
                raise ValueError(f"models.{name}.fallback.model is the model itself: name a version of it instead")
        return self

    def model(self, name: str) -> ModelSettings:
        return self.models.get(name, ModelSettings())
