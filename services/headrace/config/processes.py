"""The processes: gateway, control, replica; and what all of them tell of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from headrace.config.restricted import Restriction
from headrace.config.section import Section

Number = Annotated[int, Field(ge=1, le=65535)]
"""A port's."""


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
    stream_requests: int = Field(256, ge=1)
    """Requests of one ModelStreamInfer that are at work, or whose answers its caller has not taken: no more are read
    until one has left. Raise it for callers whose only stream shall fill batches, lower it to hold less for each."""
    compression: Literal["none", "asked", "gzip"] = "none"
    """How answers leave: as they are; as their requests came; or by gzip for all who take it. Answers are small, and
    compressing takes the event loop's time: only where the network is dearer."""
    drain_s: float = Field(30, gt=0)
    """How long a stopping gateway waits for what it has accepted."""
    retire_after_s: float = Field(600, gt=0)
    """A version without a replica for so long is forgotten, its metrics too."""
    processes: int = Field(1, ge=1, le=64)
    """Gateways that share the port on this machine; process i has its metrics on metrics_port + i."""
    index: int = Field(0, ge=0)
    """Which of them this one is."""
    health_port: int = Field(0, ge=0, le=65535)
    """Health and nothing else, in plain text whatever `tls` says, for probes; process i has it on health_port + i.
    0 = none."""
    required_models: tuple[str, ...] = ()
    """Models whose version in charge has had a ready replica before readiness says that callers may come; then it
    stays. Empty = any one, and `control.lease_s` has passed: every living replica has come back by then, to a control
    that has just started."""
    max_connection_age_s: float = Field(0, ge=0)
    """A client whose connection is so old is told to make another, which may lead to another gateway: how long a new
    one may wait for its share. A tenth more or less, so that they do not all come at once. 0 = for ever."""
    max_connection_age_grace_s: float = Field(30, gt=0)
    """What runs on it then may take so long. Raise it where callers wait longer for an answer."""
    max_message_bytes: int = Field(64 << 20, ge=4096, le=64 << 20)
    """Of one message, expanded. A model's `max_rows` and `max_tokens` say how large one can be that is of use; what is
    larger is refused by its first bytes. No more than 64 MiB: the way to a replica takes no more either."""
    max_message_s: float = Field(30, gt=0)
    """How long one message may be on its way: half of one is memory that nobody can use. Raise it for huge messages
    over slow lines."""
    max_connections: int = Field(0, ge=0)
    """At a time, in this process; more are told so, and closed. 0 = three quarters of the files that it may open."""
    max_connections_per_address: int = Field(0, ge=0)
    """Of those, from one address (of IPv6, one network of 64 bits). 0 = all of them: behind a proxy, all callers have
    one address. Set it where strangers connect directly."""
    restricted: tuple[Restriction, ...] = ()
    """Triton's restricted protocol groups: which RPCs demand a secret of their own, beside what `access` says."""
    idempotency_window_s: float = Field(60, ge=0)
    """How long an answer is remembered for those who ask again with the same idempotency key. Longer than callers go on
    trying. 0 = not at all: only those who ask at the same time are answered together."""
    idempotency_max_entries: int = Field(65_536, ge=1)
    """Answers that are remembered; beyond it the oldest go before their time, counted."""
    idempotency_max_bytes: int = Field(64 * 1024 * 1024, ge=1)
    """The same in bytes of answers and keys."""
    peers: tuple[Annotated[str, Field(pattern=r"^\S+:[0-9]{1,5}$")], ...] = ()
    """HOST:PORT where gateways of this cluster have their metrics, this one too or not; a name stands for all of its
    addresses. Whoever scales gateways asks one and hears of all. Empty = those that share its port, and no others."""

    @model_validator(mode="after")
    def _restricted_once(self) -> Self:
        groups = [group for restriction in self.restricted for group in restriction.groups]
        twice = next((group for group in groups if groups.count(group) > 1), None)
        if twice is not None:
            raise ValueError(f"restricted: group '{twice}' is restricted twice")
        return self


class ControlSettings(Section):
    """Discovery and policy."""

    host: str = "127.0.0.1"
    port: int = Field(8100, ge=0, le=65535)
    metrics_port: int = Field(0, ge=0, le=65535)
    """HTTP: /metrics. 0 = none."""
    health_port: int = Field(0, ge=0, le=65535)
    """Health and nothing else, in plain text whatever `tls` says, for probes. 0 = none."""
    lease_s: float = Field(3, gt=0)
    """A replica that has been silent for so long is dropped from the snapshot."""
    ledger: Path = Path("build/control/ledger.db")
    """Experiments, their moves and figures, who answers: SQLite on a local disk. `:memory:` = gone with control."""

    model_control: Literal["none", "explicit"] = "none"
    """`explicit`: who may `admin` loads and unloads models over the wire (RepositoryModelLoad and -Unload), of those in
    the model directories; `only` says what is loaded at the start. `none`: what is served is what was started. In the
    chart always `none`: there serveConfigV2 says what is served. Gateways and control must agree on it."""

    @property
    def ledger_path(self) -> Path:
        """The ledger, wherever a child of this process is started."""
        return self.ledger if str(self.ledger) == ":memory:" else self.ledger.resolve()


class ReplicaSettings(Section):
    """The process that runs a model."""

    host: str = "127.0.0.1"
    """Address it binds and registers. Under Ray another than a loopback one means each node's own. One that the machine
    does not have, because it is mapped to it, is registered as it is, and all interfaces are bound."""
    ports: tuple[Number, Number] | None = None
    """First and last of the ports it may listen on; it takes the first that is free. None = any free one. Say a range
    where a firewall or a NetworkPolicy has to name it: at least as many as there are replicas behind one address."""
    queue_batches: int = Field(16, ge=1)
    """Batches that may wait at a replica, from all gateways; beyond it RESOURCE_EXHAUSTED."""
    max_batch_s: float = Field(10, gt=0)
    """A batch that runs longer fails the health check: the engine replaces the replica."""
    grace_s: float = Field(5, gt=0)
    """How long a stopping replica finishes what it holds."""
    notice_s: float = Field(0.3, ge=0)
    """Between DRAINING and closing the port: gateways read the change meanwhile."""
    service: str = Field("", max_length=256)
    """What Ray clusters follow each other in: the replicas of a later one take over from those of the one before.
    Services that stand side by side each need a name of their own. Empty = the replica stands by itself."""
    shutdown_s: float = Field(20, gt=0)
    """How long Ray Serve waits for one to stop before it kills it: more than `notice_s` and `grace_s` together."""
    surge_percent: int = Field(0, ge=0, le=100)
    """Replicas that Ray Serve starts beside those of a version when it makes them anew, in percent of them, rounded up:
    an old one stops once a new one serves, and goes on where there is no room. 0 = it stops first."""

    @model_validator(mode="after")
    def _unhurried(self) -> Self:
        if self.shutdown_s <= self.notice_s + self.grace_s:
            raise ValueError(f"shutdown_s {self.shutdown_s:g} must be more than notice_s and grace_s together")
        return self

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.ports is not None and self.ports[0] > self.ports[1]:
            raise ValueError(f"ports: the first, {self.ports[0]}, is behind the last, {self.ports[1]}")
        return self


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
