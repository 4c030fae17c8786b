"""Every setting: name, unit, default, reason. Loaded once, by the CLI; nobody else reads the environment.

Order: defaults < `headrace.yaml` < environment `HEADRACE_<SECTION>__<FIELD>` < command line.
A wrong key or value is a StartupError of one line that names the path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headrace.errors import StartupError

PREFIX = "HEADRACE_"
OTEL_READ = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_SDK_DISABLED",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
)
"""OpenTelemetry's variables that become settings here; its SDK reads the others itself."""


class Section(BaseModel):
    """Frozen, and deaf to unknown keys: a typo stops the start."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class QueuePolicy(Section):
    """How the requests of one priority level wait. Names and meaning are those of Triton's `ModelQueuePolicy`."""

    max_queue_size: int = Field(0, ge=0)
    """Rows of this level that may wait. 0 = as many as the model's queue holds."""
    default_timeout_us: int = Field(10_000_000, ge=0)
    """Microseconds a request may wait for its batch; what it waits for its answer is up to its deadline. 0 = no end."""
    allow_timeout_override: bool = True
    """A request's `timeout` parameter counts where it is shorter than the default; it can't lengthen it."""
    timeout_action: Literal["reject", "delay"] = "reject"
    """When that time is over: refuse, or serve it after all of its level that have time left."""


class BatchingSettings(Section):
    """How one model is batched; budgets can only be tighter than the model's own limits."""

    max_rows: int | None = Field(None, ge=1)
    """Rows in a batch. None = the model's limit. Lower it when a full batch takes too long for the deadline."""
    max_tokens: int | None = Field(None, ge=1)
    """Events in a batch. None = the model's limit."""
    max_queue_delay_us: int = Field(0, ge=0)
    """Wait for company, microseconds. 0: whatever waits goes as soon as a replica has room. Triton's meaning."""
    preferred_batch_size: tuple[int, ...] = ()
    """Rows that end the wait for company: the largest that the queue can fill goes at once. Triton's meaning."""
    preserve_ordering: bool = False
    """Answers leave in the order in which their requests came. Refusals don't wait for anybody."""
    max_queue_rows: int = Field(2048, ge=1)
    """Rows that may wait. Full = refused at once. Raise it for longer deadlines, lower it for faster refusals."""
    default_timeout_ms: float = Field(10_000, gt=0)
    """Deadline of a caller that gave none: nothing waits for ever."""
    priority_levels: int = Field(1, ge=1, le=16)
    """Levels of the `priority` parameter: level 1 goes before level 2; inside a level, first come first served."""
    default_priority_level: int = Field(1, ge=1)
    """The level of requests that name none, or one that is not there."""
    lowest_level_share: float = Field(0.05, ge=0, lt=1)
    """Share of the rows that the lowest level gets whatever waits above it: it is slow under load, never starved."""
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policy: Mapping[int, QueuePolicy] = Field(default_factory=dict)
    """Level → its policy, where it is not the default one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        levels = range(1, self.priority_levels + 1)
        if self.default_priority_level not in levels:
            raise ValueError(f"default_priority_level must lie in 1..{self.priority_levels}")
        if unknown := [level for level in self.priority_queue_policy if level not in levels]:
            raise ValueError(f"priority_queue_policy names level {unknown[0]}, there are {self.priority_levels}")
        if any(size < 1 for size in self.preferred_batch_size):
            raise ValueError("preferred_batch_size must be positive")
        if self.preserve_ordering and self.priority_levels > 1:
            raise ValueError("preserve_ordering needs one priority level: a second one is there to overtake")
        if self.preserve_ordering and any(self.queue_policy(level).timeout_action == "delay" for level in levels):
            raise ValueError("preserve_ordering can't go with timeout_action: delay")
        return self

    def queue_policy(self, level: int) -> QueuePolicy:
        """The policy of a level, counted from 1."""
        return self.priority_queue_policy.get(level, self.default_queue_policy)


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
    """Of the requests, answered twice by the version in charge: what two runs of one model differ by."""
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


class ModelSettings(Section):
    """How one model is run."""

    batching: BatchingSettings = BatchingSettings()
    primary_version: str = ""
    """The version that answers. Empty = the highest that is ready. A later promotion wins, until this value changes."""
    traffic: TrafficSettings = TrafficSettings()
    replicas: int = Field(1, ge=1)
    num_cpus: float = Field(0, ge=0)
    """CPU share Ray reserves for a replica. 0 on a laptop, where shares only get in the way."""
    num_gpus: float = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1)
    """torch threads of a replica. Small models gain nothing from more."""

    @model_validator(mode="after")
    def _anchored(self) -> Self:
        if self.traffic.shadows and not self.primary_version:
            raise ValueError("traffic.shadows needs primary_version: the highest version would be the challenger")
        if self.traffic.canary and not self.primary_version:
            raise ValueError("traffic.canary needs primary_version: the highest version would be the canary")
        versions = [shadow.version for shadow in self.traffic.shadows]
        if len(set(versions)) < len(versions):
            raise ValueError("traffic.shadows names a version twice")
        return self


class GatewaySettings(Section):
    """The front door."""

    host: str = "127.0.0.1"
    port: int = Field(8001, ge=0, le=65535)
    """gRPC. 0 = any free port."""
    metrics_port: int = Field(8002, ge=0, le=65535)
    status_codes: Literal["triton", "grpc"] = "triton"
    """Codes for overload and deadlines on the Open Inference Protocol: Triton's UNAVAILABLE, or gRPC's own."""
    max_riders: int = Field(8192, ge=1)
    """Requests one gateway may hold, over all lanes."""
    drain_s: float = Field(30, gt=0)
    """How long a stopping gateway waits for what it has accepted."""
    retire_after_s: float = Field(600, gt=0)
    """A version without a replica for so long is forgotten, its metrics too."""
    processes: int = Field(1, ge=1, le=64)
    """Gateways that share the port on this machine; process i has its metrics on metrics_port + i."""
    index: int = Field(0, ge=0)
    """Which of them this one is."""


class ControlSettings(Section):
    """Discovery and policy."""

    host: str = "127.0.0.1"
    port: int = Field(8100, ge=0, le=65535)
    lease_s: float = Field(3, gt=0)
    """A replica that has been silent for so long is dropped from the snapshot."""
    ledger: Path = Path("build/control/ledger.db")
    """Experiments, their moves and figures, who answers: SQLite on a local disk. `:memory:` = gone with control."""

    @property
    def ledger_path(self) -> Path:
        """The ledger, wherever a child of this process is started."""
        return self.ledger if str(self.ledger) == ":memory:" else self.ledger.resolve()


class ReplicaSettings(Section):
    """The process that runs a model."""

    host: str = "127.0.0.1"
    """Address it binds and registers. Under Ray another than a loopback one means each node's own. One that the machine
    does not have, because it is mapped to it, is registered as it is, and all interfaces are bound."""
    queue_batches: int = Field(16, ge=1)
    """Batches that may wait at a replica, from all gateways; beyond it RESOURCE_EXHAUSTED."""
    max_batch_s: float = Field(10, gt=0)
    """A batch that runs longer fails the health check: the engine replaces the replica."""
    grace_s: float = Field(5, gt=0)
    """How long a stopping replica finishes what it holds."""
    notice_s: float = Field(0.3, ge=0)
    """Between DRAINING and closing the port: gateways read the change meanwhile."""


class RiskSettings(Section):
    """Where the bands of a score begin on RiskService: a score of so many or more. Below `normal` it is low.

    A score says how rare a payment is among the model's reference traffic: 25 is its top 10 %, 50 its top 1 %, 75 its
    top 0.1 %. Raise them when a band holds more payments than your analysts can look at.
    """

    normal: int = Field(25, ge=0, le=99)
    elevated: int = Field(50, ge=0, le=99)
    highest: int = Field(75, ge=0, le=99)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.normal < self.elevated < self.highest:
            raise ValueError("the cut points must ascend: normal < elevated < highest")
        return self

    @property
    def cuts(self) -> tuple[int, int, int]:
        return self.normal, self.elevated, self.highest


class TelemetrySettings(Section):
    """Traces and logs. OpenTelemetry's own variables (OTEL_*) win over the file."""

    enabled: bool = True
    """False records no span at all; metrics and logs go on. OTEL_SDK_DISABLED."""
    sampling: float = Field(1.0, ge=0, le=1)
    """Share of the traces that start here. OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG."""
    sampling_by_caller: bool = True
    """A caller's own flag wins over the share. False with the samplers that are not `parentbased_`."""
    otlp_endpoint: str = ""
    """The collector, OTLP/gRPC; empty = local files. OTEL_EXPORTER_OTLP_ENDPOINT, or _TRACES_ENDPOINT."""
    trace_dir: Path = Path("build/traces")
    """Where spans go without a collector: OTLP JSON lines."""
    max_file_bytes: int = Field(64 * 1024 * 1024, ge=64 * 1024)
    max_files: int = Field(4, ge=1)
    """So many files of so many bytes for each process, and as many again for what is worth keeping longer."""
    max_waiting: int = Field(65_536, ge=1)
    """Requests whose records may wait to be told: about a kilobyte each. What comes on top is dropped and counted."""
    max_links: int = Field(512, ge=1)
    """Members that a batch's span names; the others are counted. OTEL_SPAN_LINK_COUNT_LIMIT."""
    slow_ms: float | None = Field(None, gt=0)
    """A request that takes so long is marked to be kept. None = the slowest hundredth of each model version."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class TlsSettings(Section):
    """Files of this process, for its ports and for its way to the others. All are read again when they change."""

    certificate: Path | None = None
    """PEM: this process's certificate, then whoever signed it. Set, with `key`: the gRPC ports speak TLS alone."""
    key: Path | None = None
    """PEM, without a passphrase."""
    authorities: Path | None = None
    """PEM: who signs the certificates that are believed, of callers and of servers. None = callers are asked for no
    certificate, and servers need one that this machine's authorities have signed."""
    require_client_certificate: bool = False
    """Callers without a certificate do not get past the handshake. False: their token may still identify them."""
    name: str = ""
    """The name in the certificates of the cluster's own processes, if they share one: expected of control and replicas
    instead of their addresses."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        if self.require_client_certificate and (self.certificate is None or self.authorities is None):
            raise ValueError("require_client_certificate needs certificate, key and authorities")
        return self


RESERVED: Final = {
    "local": "callers who are not known by anything",
    "anonymous": "callers who are not known by anything",
    "headrace": "the moves that an experiment makes by itself",
    "settings": "the moves that a file of settings asks for",
}
"""Names in the ledger that are no caller's: what is written there under them, nobody else can have done."""
Permission = Literal["infer", "outcome", "read", "gateway", "replica", "admin"]


class Caller(Section):
    """Somebody who is known by a certificate or by a token. Several entries may have one name: old and new token."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,63}$")
    """As logs and experiments will say it."""
    certificate: str = ""
    """A name in the caller's certificate: with `://` in it a URI among the alternative names, after `cn:` the common
    name, else a DNS name among the alternative names; one kind never stands for another. `*` stands for any characters,
    dots and slashes too, and nothing else is special. Empty = not known by a certificate."""
    token_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$", repr=False)
    """SHA-256 of the token the caller bears, in hexadecimal: the token itself stands nowhere in the settings. Take 32
    random bytes, a word that can be guessed is found from its hash. Empty = not known by a token."""
    may: tuple[Permission, ...] = Field(min_length=1)
    """What it may do; the table is in docs/operations.md. `gateway`, `replica` and `admin` may `read` as well."""
    models: tuple[str, ...] = ()
    """Of a `replica`: the models that it may register. Empty = all."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if not self.certificate and not self.token_sha256:
            raise ValueError(f"caller '{self.name}' has neither certificate nor token_sha256")
        if self.models and "replica" not in self.may:
            raise ValueError(
                f"caller '{self.name}' has models and may not 'replica': they limit what that may register"
            )
        if self.name in RESERVED:
            raise ValueError(f"'{self.name}' is the name of {RESERVED[self.name]}")
        return self


class AccessSettings(Section):
    """Who may do what, on the ports of gateway, control and replicas alike."""

    mode: Literal["auto", "open", "closed"] = "auto"
    """`auto`: callers on this machine may do everything, others must be known. `closed`: everybody must be known; for
    machines that others use too, and behind a proxy, whose callers all look local. `open`: everybody may do all."""
    callers: tuple[Caller, ...] = ()
    token_file: Path | None = None
    """The token this process bears to the others, which know it by `token_sha256`. Not needed where its certificate is
    known, nor under `headrace serve`, which makes one for its own processes."""

    @model_validator(mode="after")
    def _someone(self) -> Self:
        if self.mode == "closed" and not self.callers:
            raise ValueError("mode 'closed' without callers: nobody could ask anything")
        return self


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

    def model(self, name: str) -> ModelSettings:
        return self.models.get(name, ModelSettings())


def load(path: Path | None = None, environment: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """The settings of this process. `flags` are dotted paths with `__`: `gateway__port=0`.

    Raises: StartupError, one line, with the path of the offending key.
    """
    environment = os.environ if environment is None else environment
    tree = _read_yaml(path) if path else {}
    for where, value in _from_environment(environment).items():
        _put(tree, where, value)
    for flag, value in flags.items():
        if value is not None:
            _put(tree, tuple(flag.split("__")), value)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise StartupError(_one_line(error, path)) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise StartupError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise StartupError(f"{path}: expected a mapping of sections, got {type(tree).__name__}")
    return tree


def _from_environment(environment: Mapping[str, str]) -> dict[tuple[str, ...], Any]:
    """`HEADRACE_GATEWAY__PORT=0` → gateway.port. Names without `__` (HEADRACE_DEMO_SECONDS) are not settings."""
    found: dict[tuple[str, ...], Any] = {("telemetry", key): value for key, value in _from_otel(environment).items()}
    for name, value in environment.items():
        if name.startswith(PREFIX) and "__" in name:
            found[tuple(name.removeprefix(PREFIX).lower().split("__"))] = value
    return found


def _from_otel(environment: Mapping[str, str]) -> dict[str, Any]:
    """What OpenTelemetry's variables say about ours. Headers, TLS and timeouts of a collector stay the SDK's business.

    Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables.
    """
    found: dict[str, Any] = {}
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        if endpoint := environment.get(name):
            found["otlp_endpoint"] = endpoint
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        found["enabled"] = False
    if links := environment.get("OTEL_SPAN_LINK_COUNT_LIMIT"):
        found["max_links"] = links
    if sampler := environment.get("OTEL_TRACES_SAMPLER"):
        kind = sampler.removeprefix("parentbased_")
        shares: dict[str, Any] = {
            "always_on": 1.0,
            "always_off": 0.0,
            "traceidratio": environment.get("OTEL_TRACES_SAMPLER_ARG") or 1.0,
        }
        if kind not in shares:
            raise StartupError(f"OTEL_TRACES_SAMPLER: '{sampler}' is not a sampler of this server")
        found["sampling"], found["sampling_by_caller"] = shares[kind], kind != sampler
    return found


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise StartupError(f"{'.'.join(path)}: '{key}' is not a section")
        tree = branch
    tree[path[-1]] = value


def _one_line(error: ValidationError, path: Path | None) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path or 'settings'}: {where}: {first['msg']}{more}"
