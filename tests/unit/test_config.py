"""One line that names the path, whatever is wrong; and the order in which settings win."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace import config
from headrace.cluster import Cluster
from headrace.errors import HeadraceError, StartupError, status_of

TWICE = "{name: a, certificate: a, may: [infer]"
"""A caller's entry that goes on."""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "headrace.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gateway: {prot: 1}", "gateway.prot: Extra inputs are not permitted"),
        (
            "models: {m: {batching: {max_rows: 0}}}",
            "models.m.batching.max_rows: Input should be greater than or equal to 1",
        ),
        ("gateway: {port: x}", "gateway.port: Input should be a valid integer"),
        (
            "models: {m: {traffic: {shadows: [{version: 2}]}}}",
            "models.m.traffic.shadows.0.version: Input should be a valid string",
        ),
        (
            "models: {m: {traffic: {shadows: [{version: '2'}]}}}",
            "models.m: Value error, traffic.shadows needs primary_version",
        ),
        (
            "models: {m: {primary_version: '1', traffic: {shadows: [{version: '2'}, {version: '2'}]}}}",
            "traffic.shadows names a version twice",
        ),
        (
            "models: {m: {traffic: {canary: {version: '2', share: 0.1}}}}",
            "models.m: Value error, traffic.canary needs primary_version",
        ),
        ("models: {m: {traffic: {canary: {version: '2'}}}}", "models.m.traffic.canary.share: Field required"),
        ("models: {m: {autoscaling: {}}}", "models.m.autoscaling.max_replicas: Field required"),
        (
            "models: {m: {autoscaling: {min_replicas: 3, max_replicas: 2}}}",
            "models.m.autoscaling: Value error, min_replicas 3 is more than max_replicas 2",
        ),
        ("models: {m: {autoscaling: {min_replicas: 0, max_replicas: 2}}}", "models.m.autoscaling.min_replicas: Input"),
        (
            "models: {m: {autoscaling: {max_replicas: 2, look_back_period_s: 1, metrics_interval_s: 1}}}",
            "look_back_period_s must hold more than one report",
        ),
        (
            "models: {m: {replicas: 2, autoscaling: {max_replicas: 4}}}",
            "models.m: Value error, replicas and autoscaling both say how many",
        ),
        ("models: {m: {resources: {GPU: 1}}}", "models.m: Value error, resources names GPU: say num_gpus instead"),
        ("models: {m: {resources: {fast: 0}}}", "models.m.resources.fast: Input should be greater than 0"),
        ("replica: {ports: [9199, 9100]}", "replica: Value error, ports: the first, 9199, is behind the last, 9100"),
        ("replica: {ports: [0, 9100]}", "replica.ports.0: Input should be greater than or equal to 1"),
        ("replica: {ports: [9100]}", "replica.ports.1: Field required"),
        (
            "gateway: {max_message_bytes: 100}",
            "gateway.max_message_bytes: Input should be greater than or equal to 4096",
        ),
        ("gateway: {max_message_bytes: 134217728}", "gateway.max_message_bytes: Input should be less than or equal to"),
        (
            "access: {quota: {requests_per_second: 0}}",
            "access.quota.requests_per_second: Input should be greater than 0",
        ),
        ("access: {quota: {rps: 1}}", "access.quota.rps: Extra inputs are not permitted"),
        (
            "access: {callers: [{name: a, certificate: a, may: [read], quota: {max_in_flight: 1}}]}",
            "caller 'a' has quota and may not 'infer'",
        ),
        (
            "access: {callers: [{name: a, certificate: a, may: [read], infer_models: [m]}]}",
            "caller 'a' has infer_models and may not 'infer'",
        ),
        (
            f"access: {{callers: [{TWICE}, quota: {{max_in_flight: 1}}}}, {TWICE}}}]}}",
            "the entries of caller 'a' have quotas that differ: they are one caller",
        ),
        ("- a", "expected a mapping of sections, got list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_path(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(StartupError) as caught:
        config.load(path, {})

    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_parent_hands_on_as_json_means_the_same_to_its_child() -> None:
    scaled = {"autoscaling": {"min_replicas": 2, "max_replicas": 4}, "resources": {"fast": 0.001}}
    found = config.load(None, {}, replica__ports=[9100, 9199], models={"scaled": scaled, "fixed": {"replicas": 3}})

    assert config.Settings.model_validate_json(found.model_dump_json()) == found
    assert found.replica.ports == (9100, 9199)
    assert [found.model(name).least_replicas for name in ("scaled", "fixed", "another")] == [2, 3, 1]


HASH = "ab" * 32
CALLER = f"{{name: a, token_sha256: {HASH}, may: [infer]}}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tls: {certificate: a.crt}", "tls: Value error, certificate and key go together"),
        ("tls: {require_client_certificate: true}", "needs certificate, key and authorities"),
        ("access: {mode: closed}", "mode 'closed' without callers"),
        ("access: {mode: shut}", "access.mode: Input should be 'auto', 'open' or 'closed'"),
        ("access: {callers: [{name: a, may: [infer]}]}", "neither certificate nor token_sha256"),
        (f"access: {{callers: [{CALLER.replace(HASH, 'my-token')}]}}", "access.callers.0.token_sha256: String"),
        (f"access: {{callers: [{CALLER.replace('infer', 'fly')}]}}", "access.callers.0.may.0: Input should be"),
        (f"access: {{callers: [{CALLER.replace('[infer]', '[]')}]}}", "access.callers.0.may: Tuple should have"),
        (f"access: {{callers: [{CALLER.replace('name: a', 'name: local')}]}}", "who are not known by anything"),
        (f"access: {{callers: [{CALLER.replace('name: a', 'name: anonymous')}]}}", "who are not known by anything"),
        (f"access: {{callers: [{CALLER.replace('name: a', 'name: headrace')}]}}", "makes by itself"),
        (f"access: {{callers: [{CALLER.replace('name: a', 'name: settings')}]}}", "file of settings asks for"),
        (f"access: {{callers: [{CALLER.replace('}', ', models: [m]}')}]}}", "has models and may not 'replica'"),
        (f"access: {{callers: [{CALLER.replace('name: a', 'name: a b')}]}}", "access.callers.0.name: String should"),
        ("access: {callers: [{name: a, certificate: x, may: [infer]}]}", "needs tls.certificate and .authorities"),
    ],
)
def test_doors_that_cannot_be_meant_are_one_line_that_tells_no_secret(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(StartupError) as caught:
        config.load(write(tmp_path, text), {})

    assert sentence in str(caught.value)
    assert "my-token" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_printed_settings_hold_no_hash_of_a_token(tmp_path: Path) -> None:
    found = config.load(write(tmp_path, f"access: {{mode: closed, callers: [{CALLER}]}}"), {})

    assert found.access.callers[0].token_sha256 == HASH
    assert HASH not in f"{found} {found!r}"


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "gateway: {port: 1, metrics_port: 2, drain_s: 3}")

    found = config.load(path, {"HEADRACE_GATEWAY__PORT": "4", "HEADRACE_GATEWAY__METRICS_PORT": "5"}, gateway__port=6)

    assert (found.gateway.port, found.gateway.metrics_port, found.gateway.drain_s) == (6, 5, 3)


def test_a_collector_in_the_environment_is_used() -> None:
    found = config.load(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "HEADRACE_DEMO_SECONDS": "3"})

    assert found.telemetry.otlp_endpoint == "http://c:4317"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        config.load(tmp_path / "nowhere.yaml", {})


def leaves(kind: type[HeadraceError]) -> list[type[HeadraceError]]:
    below = kind.__subclasses__()
    return [leaf for child in below for leaf in leaves(child)] if below else [kind]


def test_every_error_has_a_status_on_both_services() -> None:
    import grpc  # noqa: PLC0415

    for leaf in leaves(HeadraceError):
        for status_codes in ("triton", "grpc"):
            assert status_of(leaf("x"), oip=True, status_codes=status_codes) in grpc.StatusCode.__members__, leaf


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, {"enabled": False}),
        ({"OTEL_SDK_DISABLED": "no"}, {"enabled": True}),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, {"sampling": 0.0, "sampling_by_caller": False}),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, {"sampling": 0.0, "sampling_by_caller": True}),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"},
            {"sampling": 0.25, "sampling_by_caller": True},
        ),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, {"sampling": 1.0, "sampling_by_caller": False}),
        ({"OTEL_SPAN_LINK_COUNT_LIMIT": "128"}, {"max_links": 128}),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b:2"},
            {"otlp_endpoint": "http://b:2"},
        ),
    ],
)
def test_opentelemetrys_variables_mean_what_they_mean_elsewhere(
    environment: dict[str, str], expected: dict[str, object]
) -> None:
    found = config.load(None, environment).telemetry

    assert {name: getattr(found, name) for name in expected} == expected


def test_children_read_what_the_parent_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """HEADRACE_* wins over OTEL_* in the parent: so it must in a child, which reads the parent's file."""
    monkeypatch.setenv("HEADRACE_TELEMETRY__SAMPLING", "0.1")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "tenant=payments")
    cluster = Cluster(config.load(None, engine="local", gateway__port=0, gateway__metrics_port=0, control__port=0))
    environment = cluster.gateways[0]._environment

    assert config.load(cluster.config_file, environment).telemetry.sampling == 0.1
    assert environment["OTEL_EXPORTER_OTLP_HEADERS"] == "tenant=payments"


@pytest.mark.parametrize("ledger", ["build/ledger.db", ":memory:"])
def test_a_child_finds_the_ledger_wherever_it_is_started(ledger: str) -> None:
    free = {"gateway__port": 0, "gateway__metrics_port": 0, "control__port": 0}
    cluster = Cluster(config.load(None, {}, engine="local", control__ledger=ledger, **free))

    found = config.load(cluster.config_file, {}).control.ledger_path

    assert str(found) == ledger if ledger == ":memory:" else found == Path.cwd() / ledger


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"control__port": 8003, "gateway__processes": 2}, "control.port: 8003 is one of the gateways' metrics ports"),
        ({"gateway__port": 8002}, "gateway.port: 8002 is one of the gateways' metrics ports"),
        ({"control__port": 8001}, "control.port: 8001 is the gateway's"),
        ({"gateway__health_port": 8001}, "gateway.port: 8001 is one of the gateways' health ports"),
        (
            {"gateway__health_port": 9003, "gateway__processes": 2, "control__health_port": 9004},
            "control.health_port: 9004",
        ),
        ({"control__metrics_port": 8002}, "control.metrics_port: 8002 is one of the gateways' metrics ports"),
    ],
)
def test_ports_that_would_meet_stop_the_start(flags: dict[str, int], sentence: str) -> None:
    with pytest.raises(StartupError, match=sentence):
        Cluster(config.load(None, {}, engine="local", **flags))


def test_a_sampler_that_is_not_there_stops_the_start() -> None:
    with pytest.raises(StartupError, match="'jaeger_remote' is not a sampler"):
        config.load(None, {"OTEL_TRACES_SAMPLER": "jaeger_remote"})


def test_nobody_is_called_as_the_clusters_own_processes_are() -> None:
    known = {"name": "cluster", "token_sha256": "0" * 64, "may": ["infer"]}
    free = {"gateway__port": 0, "gateway__metrics_port": 0, "control__port": 0}

    with pytest.raises(StartupError, match="'cluster' is the name of this cluster's own processes"):
        Cluster(config.load(None, {}, engine="local", access__callers=[known], **free))
