"""An application as Serve builds it from its config file, without a cluster: its options, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve.schema import ServeApplicationSchema
from tests.helm import schemas

from headrace.config import Settings
from headrace.errors import StartupError
from headrace.serving import serve_config
from headrace.serving.app import bound, build

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own
SETTINGS = Settings.model_validate(
    {
        "replica": {"shutdown_s": 12},
        "models": {
            "fraud-tx": {"autoscaling": {"min_replicas": 2, "max_replicas": 6}, "resources": {"headrace-l4": 0.001}},
            "other": {"replicas": 3},
        },
    }
)
DIRECTORIES = [Path("/nowhere/fraud-tx/3"), Path("/nowhere/other/1")]
CONFIG = serve_config.of(SETTINGS, DIRECTORIES, "control:8100")
SCALED, FIXED = CONFIG["applications"]


def test_serve_knows_every_key_of_the_config() -> None:
    assert schemas.serve_complaints(yaml.safe_dump(CONFIG)) == []


@pytest.mark.parametrize("as_json", [False, True])
def test_an_application_is_built_where_no_model_is(as_json: bool) -> None:  # noqa: FBT001
    """On the head: only workers have models."""
    args: dict[str, Any] = dict(SCALED["args"])
    if as_json:
        args["settings"] = json.dumps(args["settings"])

    deployment = build(args)._bound_deployment

    assert deployment.name == "replica"
    assert deployment.ray_actor_options["resources"] == {"headrace-l4": 0.001}
    assert deployment._deployment_config.graceful_shutdown_timeout_s == 12


def test_replicas_that_follow_the_load_do_so_by_the_law() -> None:
    options = bound(SCALED["args"], SCALED["deployments"][0])._bound_deployment._deployment_config

    assert (options.autoscaling_config.min_replicas, options.autoscaling_config.max_replicas) == (2, 6)
    assert options.autoscaling_config.policy.policy_function == serve_config.POLICY


def test_a_number_of_replicas_stays_one() -> None:
    options = bound(FIXED["args"], FIXED["deployments"][0])._bound_deployment._deployment_config

    assert options.num_replicas == 3
    assert options.autoscaling_config is None


def code_version(**run: Any) -> str:
    """Serve stops the replicas of an application, and starts others, when this has changed."""
    settings = Settings.model_validate({"models": {"fraud-tx": run}})
    made = serve_config.application(settings, DIRECTORIES[0], "control:8100")
    return get_app_code_version(ServeApplicationSchema.model_validate(made))


def test_another_number_of_replicas_and_other_bounds_restart_none() -> None:
    bounds = [{"autoscaling": {"min_replicas": 2, "max_replicas": most}} for most in (6, 12)]

    assert code_version(**bounds[0]) == code_version(**bounds[1])
    assert code_version(replicas=2) == code_version(replicas=3)
    assert code_version(threads=2) != code_version(threads=3)


def test_wrong_arguments_are_one_line() -> None:
    with pytest.raises(StartupError, match=r"^headrace\.serving\.app:build: controls: Extra inputs are not permitted$"):
        build({**FIXED["args"], "controls": "x"})
