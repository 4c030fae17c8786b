"""What Serve is told of a version: everything its replicas need, and nothing of the other processes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config import AutoscalingSettings, ModelSettings, Settings
from headrace.errors import StartupError
from headrace.serving import serve_config
from headrace.serving.scaling import follow_deadlines

DIRECTORY = Path("/models/fraud-tx/3")
CONTROL = "control.payments.svc:8100"
CALLER = {"name": "ours", "token_sha256": "ab" * 32, "may": ["gateway"]}
SETTINGS = Settings.model_validate(
    {
        "gateway": {"port": 7001, "max_riders": 77},
        "control": {"ledger": "/secret/ledger.db"},
        "replica": {"ports": [9100, 9199], "grace_s": 7, "shutdown_s": 12, "surge_percent": 20},
        "telemetry": {"otlp_endpoint": "http://collector:4317", "sampling": 0.5, "log_level": "DEBUG"},
        "tls": {"certificate": "/tls/own.crt", "key": "/tls/own.key", "authorities": "/tls/ca.crt"},
        "access": {"mode": "closed", "callers": [CALLER]},
        "models": {
            "fraud-tx": {
                "threads": 2,
                "num_cpus": 2,
                "num_gpus": 0.5,
                "resources": {"headrace-l4": 0.001},
                "autoscaling": {"min_replicas": 2, "max_replicas": 6},
                "batching": {"max_rows": 8},
                "primary_version": "3",
                "traffic": {"canary": {"version": "4", "share": 0.1}},
            },
            "other": {"threads": 7, "replicas": 3},
        },
    }
)


def application(settings: Settings = SETTINGS, directory: Path = DIRECTORY) -> dict[str, Any]:
    return serve_config.application(settings, directory, CONTROL)


def test_each_version_is_an_application_of_its_own_name() -> None:
    config = serve_config.of(SETTINGS, [DIRECTORY, Path("/models/other/1")], CONTROL)

    assert config["proxy_location"] == "Disabled"
    assert [one["name"] for one in config["applications"]] == ["fraud-tx-3", "other-1"]
    assert {one["route_prefix"] for one in config["applications"]} == {None}
    assert [one["args"]["directory"] for one in config["applications"]] == ["/models/fraud-tx/3", "/models/other/1"]


def test_replicas_that_follow_the_load_name_the_law_and_others_a_number() -> None:
    scaled, fixed = (serve_config.deployment(SETTINGS, model) for model in ("fraud-tx", "other"))

    bounds = AutoscalingSettings(min_replicas=2, max_replicas=6).model_dump()
    assert scaled["autoscaling_config"] == {**bounds, "policy": {"policy_function": serve_config.POLICY}}
    assert "num_replicas" not in scaled
    assert fixed["num_replicas"] == 3
    assert "autoscaling_config" not in fixed


def test_a_replica_gets_the_place_and_the_time_that_the_settings_say() -> None:
    options = application()["deployments"][0]

    assert options["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0.5, "resources": {"headrace-l4": 0.001}}
    assert options["graceful_shutdown_timeout_s"] == 12
    assert options["max_surge_percent"] == 20


def test_the_law_is_where_serve_looks_for_it() -> None:
    module, _, name = serve_config.POLICY.partition(":")

    assert getattr(importlib.import_module(module), name) is follow_deadlines


def test_only_what_a_replica_reads_travels() -> None:
    told = application()["args"]["settings"]

    assert set(told) == {"replica", "telemetry", "tls", "access", "models"}
    assert set(told["models"]) == {"fraud-tx"}
    assert not told["models"]["fraud-tx"].keys() & set(serve_config.OTHERS)
    assert told["telemetry"] == {"log_level": "DEBUG"}
    assert not [word for word in ("ledger", "7001", "max_riders") if word in json.dumps(told)]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_replica_reads_what_was_written(as_json: bool) -> None:  # noqa: FBT001
    args = application()["args"]
    found = serve_config.arguments({**args, "settings": json.dumps(args["settings"])} if as_json else args)

    assert (found.directory, found.model, found.control, found.source) == (DIRECTORY, "fraud-tx", CONTROL, "")
    for section in ("replica", "tls", "access"):
        assert getattr(found.settings, section) == getattr(SETTINGS, section)
    assert found.settings.telemetry.log_level == SETTINGS.telemetry.log_level
    unread = dict.fromkeys(serve_config.OTHERS)
    run, told = SETTINGS.model("fraud-tx").model_dump(), found.settings.model("fraud-tx").model_dump()
    assert {**told, **unread} == {**run, **unread}


@given(
    cpus=st.floats(0, 64),
    gpus=st.floats(0, 8),
    threads=st.integers(1, 64),
    device=st.sampled_from(["auto", "cpu", "cuda"]),
    places=st.dictionaries(st.from_regex(r"headrace-[a-z]{1,8}", fullmatch=True), st.floats(0.0001, 1), max_size=2),
)
def test_what_is_deployed_is_what_the_arguments_say_again(
    cpus: float, gpus: float, threads: int, device: Any, places: dict[str, float]
) -> None:
    """`build` makes its options of the arguments, Serve's file brings its own beside them: two answers to nothing but
    how many, which the file alone says."""
    run = ModelSettings(num_cpus=cpus, num_gpus=gpus, threads=threads, device=device, resources=places)
    made = application(Settings(models={"fraud-tx": run}))
    through_a_file = json.loads(json.dumps(made))
    found = serve_config.arguments(through_a_file["args"])

    assert serve_config.deployment(found.settings, found.model) == through_a_file["deployments"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"control": ""}, "control: String should have at least 1 character"),
        ({"directory": "/models/fraud-tx"}, "directory: Value error, must end in the model's name and the version's"),
        ({"folder": "/models/fraud-tx/3"}, "folder: Extra inputs are not permitted"),
        ({"settings": {"replica": {"prots": [1, 2]}}}, "settings.replica.prots: Extra inputs are not permitted"),
        ({"settings": "{"}, "settings: Value error, Expecting property name"),
        ({"settings": 3}, "settings: Input should be a valid dictionary"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line_that_names_the_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(StartupError) as refused:
        serve_config.arguments({**application()["args"], **change})

    assert str(refused.value).startswith(f"headrace.serving.app:build: {said}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["directory", "control", "settings"])
def test_an_argument_that_is_missing_is_named(missing: str) -> None:
    args = {key: value for key, value in application()["args"].items() if key != missing}

    with pytest.raises(StartupError, match=f"{missing}: Field required"):
        serve_config.arguments(args)


def test_a_refusal_repeats_nothing_of_the_settings() -> None:
    args = application()["args"]
    args["settings"]["access"]["callers"][0]["may"] = []

    with pytest.raises(StartupError) as refused:
        serve_config.arguments(args)

    assert "ab" * 32 not in str(refused.value)
