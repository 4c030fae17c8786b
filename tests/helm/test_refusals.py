"""What would be found out late, on a cluster, is refused by the chart, by its path: TLS, scalers, room for replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest
from tests.helm.chart import Refusal, render
from tests.helm.release import Release

TLS: Final = {"secretName": "certs", "name": "headrace.internal"}
CALLER: Final = {"name": "shop", "certificate": "shop.internal", "may": ["infer"]}
MODEL: Final = {"name": "fraud-tx", "version": "1", "group": "cpu"}
GROUP: Final = {"name": "cpu", "minReplicas": 1, "maxReplicas": 1, "resources": {"requests": {"cpu": "1500m"}}}
KEDA: Final = {"autoscaling": {"keda": {"enabled": True}}}
FASTER: Final = {"maxReplicas": 2, "lookBackPeriodS": 1, "metricsIntervalS": 1}


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"tls": {"secretName": "certs"}}, "tls.name"),
        ({"settings": {"access": {"mode": "closed", "callers": [CALLER]}}}, "settings.access.mode"),
        ({"settings": {"access": {"callers": [CALLER]}}}, "settings.access.mode"),
        ({"settings": {"replica": {"grace_s": 25}}}, "ray.gracefulShutdownSeconds"),
        ({"settings": {"telemetry": {"sampling": 0.5}}}, "settings.telemetry.sampling"),
        ({"settings": {"control": {"model_control": "explicit"}}}, "settings.control.model_control"),
        ({"gateway": {**KEDA, "service": {"headless": {"enabled": False}}}}, "gateway.service.headless.enabled"),
        ({"gateway": {**KEDA, "resources": {"requests": {"cpu": None}}}}, "gateway.resources.requests.cpu"),
        ({"control": {"metricsPort": 8103}}, "control.port"),
        ({"models": [{**MODEL, "numCpus": 3}]}, "models[0].numCpus"),
        ({"models": [{**MODEL, "path": "elsewhere"}]}, "models[0].path"),
        ({"models": [{**MODEL, "autoscaling": FASTER}]}, "models[0].autoscaling.lookBackPeriodS"),
        ({"models": [{**MODEL, "settings": {"num_gpus": 1}}]}, "models[0].settings.num_gpus"),
        (
            {"models": [{**MODEL, "version": v, "settings": {"primary_version": v}} for v in ("1", "2")]},
            "models[1].settings.primary_version",
        ),
        (
            {"models": [{**MODEL, "settings": {"batching": {"default_timeout_ms": 120_000}}}]},
            "ray.clusterDeletionDelaySeconds",
        ),
        ({"ray": {"groups": [{**GROUP, "resources": {}}]}}, "ray.groups[0].resources.requests.cpu"),
        ({"fullnameOverride": "f" * 40, "ray": {"groups": [{**GROUP, "name": "g" * 15}]}}, "ray.groups[0].name"),
    ],
)
def test_it_is_refused_in_a_sentence_that_names_the_path(which: str, values: Mapping[str, Any], path: str) -> None:
    found = render(values, which=which)

    assert isinstance(found, Refusal)
    assert found.deliberate, found.said
    assert f": {path}: " in found.said


@pytest.mark.usefixtures("helm_4")
def test_a_release_whose_name_is_no_services_name_is_refused_until_it_says_another() -> None:
    refused, made = render({}, name="1st"), render({"fullnameOverride": "first"}, name="1st")

    assert isinstance(refused, Refusal)
    assert ": fullnameOverride: " in refused.said
    assert isinstance(made, Release)


@pytest.mark.usefixtures("helm_4")
@pytest.mark.parametrize("mode", ["closed", "auto", "open"])
def test_our_own_processes_are_known_last_by_the_name_in_their_certificate(mode: str) -> None:
    found = render({"tls": TLS, "settings": {"access": {"mode": mode, "callers": [CALLER]}}})

    assert isinstance(found, Release)
    ours = {"name": "ours", "certificate": TLS["name"], "may": ["gateway", "replica", "infer"]}
    assert found.settings["access"] == {"mode": mode, "callers": [CALLER, ours]}


@pytest.mark.usefixtures("helm_4")
@pytest.mark.parametrize("access", [{"mode": "closed"}, {"mode": "auto"}, {"token_file": "/run/token"}])
def test_our_own_processes_are_known_where_nobody_else_is(access: Mapping[str, Any]) -> None:
    """Else control would know neither gateways nor replicas."""
    found = render({"tls": TLS, "settings": {"access": access}})

    assert isinstance(found, Release)
    assert [caller["name"] for caller in found.settings["access"]["callers"]] == ["ours"]


@pytest.mark.usefixtures("helm_4")
def test_versions_of_a_model_share_what_gateways_read_and_nothing_else() -> None:
    prior = {"prior": {"p": 0.004, "score": 10}}
    one = {**MODEL, "settings": {"threads": 2, "primary_version": "1", "fallback": prior}}
    other = {**MODEL, "version": "2", "settings": {"threads": 4, "batching": {"max_rows": 8}}}
    found = render({"models": [one, other]})

    assert isinstance(found, Release)
    shared = {"primary_version": "1", "batching": {"max_rows": 8}, "fallback": prior}
    assert found.settings["models"] == {"fraud-tx": shared}


@pytest.mark.usefixtures("helm_4")
@pytest.mark.parametrize(("values", "pods"), [({}, 1), ({"tests": {"model": "acceptance"}}, 0), ({"models": []}, 0)])
def test_helm_test_asks_a_model_that_is_served(values: Mapping[str, Any], pods: int) -> None:
    found = render(values)

    assert isinstance(found, Release)
    assert len(found.pods_of("test")) == pods
