"""What Ray Serve is told of each model version: its own config file, as a mapping made of the settings.

`headrace serve` runs what this says on one machine, and the chart's serveConfigV2 says the same in templates: a test
holds the two together. Never imports Ray: who reads or checks such a file needs none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from headrace.config import ModelSettings, Section, Settings
from headrace.errors import StartupError

ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # a hung replica must not keep its device
    "RAY_worker_niceness": "0",  # replicas share the cores with the gateway: neither goes first
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Of every process of the Ray cluster. Ray reads it at import."""
IMPORT_PATH: Final = "headrace.serving.app:build"
POLICY: Final = "headrace.serving.scaling:follow_deadlines"
"""By its path: Serve imports it where it reads the deployment, and pickles it for its controller."""
SECTIONS: Final = ("replica", "telemetry", "tls", "access")
"""Of the settings, what a replica reads beside how its own model is run: whoever sees Serve's config sees no more.
`access` holds hashes of tokens: a replica must know its gateways."""
TOLD: Final[Mapping[str, Any]] = {**dict.fromkeys(SECTIONS, True), "telemetry": {"log_level"}}
"""As pydantic wants to hear it: a replica tells no span of its own, so how those are told restarts none."""
OTHERS: Final = ("batching", "primary_version", "traffic", "replicas", "autoscaling")
"""Of how a model is run, what only gateways, control and Serve itself read: a change of it restarts no replica. To
Serve arguments are code, and other code is other replicas; how many there are is said beside them, in `deployments`."""


def of(settings: Settings, directories: Iterable[Path], control: str) -> dict[str, Any]:
    """The whole file: an application for each version in these directories. `control` is control's address."""
    return {
        "proxy_location": "Disabled",
        "applications": [application(settings, directory, control) for directory in directories],
    }


def application(settings: Settings, directory: Path, control: str) -> dict[str, Any]:
    """One version, named after it. The directory ends in its name and its number."""
    model, version = directory.parts[-2:]
    return {
        "name": f"{model}-{version}",
        "route_prefix": None,
        "import_path": IMPORT_PATH,
        "args": {"directory": str(directory), "control": control, "settings": _of_replica(settings, model)},
        "deployments": [deployment(settings, model)],
    }


def deployment(settings: Settings, model: str) -> dict[str, Any]:
    """How Serve runs the replicas of a version of this model."""
    run = settings.model(model)
    return {
        "name": "replica",
        **_how_many(run),
        "ray_actor_options": {"num_cpus": run.num_cpus, "num_gpus": run.num_gpus, "resources": dict(run.resources)},
        "health_check_period_s": 1,
        "health_check_timeout_s": 3,
        "graceful_shutdown_wait_loop_s": 0.1,  # Serve counts its own requests only: it reaches __del__ after one loop
        "graceful_shutdown_timeout_s": settings.replica.shutdown_s,
        "max_surge_percent": settings.replica.surge_percent,
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }


def _how_many(run: ModelSettings) -> dict[str, Any]:
    if run.autoscaling is None:
        return {"num_replicas": run.replicas}
    return {"autoscaling_config": {**run.autoscaling.model_dump(), "policy": {"policy_function": POLICY}}}


def _of_replica(settings: Settings, model: str) -> dict[str, Any]:
    """The settings as far as a replica of this model reads them, without what is as it is by default."""
    found: dict[str, Any] = settings.model_dump(mode="json", include=dict(TOLD), exclude_defaults=True)
    if run := settings.model(model).model_dump(mode="json", exclude=set(OTHERS), exclude_defaults=True):
        found["models"] = {model: run}
    return found


def _tree(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _named(directory: Path) -> Path:
    if not directory.absolute().name.isdigit():
        raise ValueError("must end in the model's name and the version's number")
    return directory.absolute()


class Arguments(Section):
    """`args` of an application, as it is built of them and as each of its replicas is."""

    directory: Annotated[Path, AfterValidator(_named)]
    """Of the version, on every node that has replicas of it."""
    control: str = Field(min_length=1)
    settings: Annotated[Settings, BeforeValidator(_tree)]
    """A mapping, or JSON."""
    source: str = ""
    """Where a replica fetches the version from when the directory is not there: a URI. Empty = it is there."""

    @property
    def model(self) -> str:
        return self.directory.parent.name


def arguments(given: Mapping[str, Any]) -> Arguments:
    """Raises: StartupError, one line that names the key."""
    try:
        return Arguments.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "args"
        raise StartupError(f"{IMPORT_PATH}: {where}: {first['msg']}") from error
