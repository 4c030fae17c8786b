"""How one model is run: its replicas, and which of its versions answers whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from headrace.config.batching import BatchingSettings
from headrace.config.fallback import FallbackSettings
from headrace.config.section import Section


class CanarySettings(Section):
    """A version that answers a share of the entities, always the same ones."""

    version: str = Field(pattern=r"^[0-9]+$")
    share: float = Field(gt=0, le=1)
    """Of the entities. A larger share keeps who is in."""


class ShadowSettings(Section):
    """A version that is compared with the one in charge; it becomes an experiment, once, when both are there.

    Taking it out of the file ends nothing: the experiment goes on until it is promoted or rolled back.
    """

    version: str = Field(pattern=r"^[0-9]+$")
    share: float = Field(1.0, gt=0, le=1)
    """Of the requests. Lower it when the challenger's replicas can't keep up."""
    noise_share: float = Field(0.1, ge=0, le=1)
    """Of the pairs, answered again by the version in charge: what two runs of one model differ by."""
    timeout_ms: int = Field(1000, ge=1)
    """What a copy may take."""
    max_in_flight_rows: int = Field(256, ge=1)
    """Copies that one gateway holds; beyond it the oldest that waits is dropped and counted."""
    output: str = ""
    """What is compared. Empty = `score` where the model has a signal."""
    thresholds: tuple[float, ...] = ()
    """Values from which a payment is blocked, ascending. Empty = `risk.highest` for `score`."""


class TrafficSettings(Section):
    """Who answers beside the primary, and who is compared with it, from the start."""

    canary: CanarySettings | None = None
    shadows: tuple[ShadowSettings, ...] = ()


class AutoscalingSettings(Section):
    """Between which bounds the replicas of each version follow the work that waits and arrives, and how fast.

    Under Ray Serve alone. How many are wanted is `headrace.serving.scaling`'s business.
    """

    min_replicas: int = Field(1, ge=1)
    """Never fewer. There is no zero: no request passes Serve, so nothing would wake the first one. 2 where one that is
    lost must not be noticed."""
    max_replicas: int = Field(ge=1)
    """Never more: what the devices hold. Callers who repeat what was refused look like more callers; this ends it."""
    upscale_delay_s: float = Field(0.5, ge=0)
    """Seconds that more must be wanted without a break. Raise it where bursts shorter than a model's start come in."""
    downscale_delay_s: float = Field(300, ge=0)
    """Seconds that fewer must be wanted without a break: a replica that was stopped too soon costs a start."""
    look_back_period_s: float = Field(2, gt=0)
    """Seconds over which what replicas report is averaged. Shorter is faster, and follows noise."""
    metrics_interval_s: float = Field(0.5, gt=0)
    """Seconds between two reports of a replica: each is a call to Serve's controller. Raise it for hundreds of them."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}")
        if self.metrics_interval_s >= self.look_back_period_s:
            raise ValueError("look_back_period_s must hold more than one report: raise it above metrics_interval_s")
        return self


COUNTED: Final = {"CPU": "num_cpus", "GPU": "num_gpus"}
"""Ray's own names for what has a setting here."""


class ModelSettings(Section):
    """How one model is run."""

    batching: BatchingSettings = BatchingSettings()
    primary_version: str = ""
    """The version that answers. Empty = the highest that is ready. A later promotion wins, until this value changes."""
    traffic: TrafficSettings = TrafficSettings()
    fallback: FallbackSettings | None = None
    """Who answers when the version in charge, `primary_version`, cannot. None = nobody: the caller gets an error."""
    replicas: int = Field(1, ge=1)
    """Of each version, where `autoscaling` does not say how many."""
    autoscaling: AutoscalingSettings | None = None
    """The replicas follow the load. None = there are `replicas`, whatever comes."""
    num_cpus: float = Field(0, ge=0)
    """CPU share Ray reserves for a replica. 0 on a laptop, where shares only get in the way."""
    num_gpus: float = Field(0, ge=0)
    resources: Mapping[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """What else of a Ray node a replica takes, by Ray's names. One that only some nodes have says where it may run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1)
    """torch threads of a replica. Small models gain nothing from more."""

    @model_validator(mode="after")
    def _anchored(self) -> Self:
        if self.traffic.shadows and not self.primary_version:
            raise ValueError("traffic.shadows needs primary_version: the highest version would be the challenger")
        if self.traffic.canary and not self.primary_version:
            raise ValueError("traffic.canary needs primary_version: the highest version would be the canary")
        if self.fallback is not None and not self.primary_version:
            raise ValueError("fallback needs primary_version: an earlier version would take over in silence")
        versions = [shadow.version for shadow in self.traffic.shadows]
        if len(set(versions)) < len(versions):
            raise ValueError("traffic.shadows names a version twice")
        return self

    @model_validator(mode="after")
    def _sized_once(self) -> Self:
        if self.autoscaling is not None and self.replicas != 1:  # 1 is what nobody has said
            raise ValueError("replicas and autoscaling both say how many: leave one out")
        if twice := COUNTED.keys() & self.resources.keys():
            name = min(twice)
            raise ValueError(f"resources names {name}: say {COUNTED[name]} instead")
        return self

    @property
    def least_replicas(self) -> int:
        """Those that are there without any load."""
        return self.autoscaling.min_replicas if self.autoscaling else self.replicas
