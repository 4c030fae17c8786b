"""The ways out of a release lead where its processes go: to the collector and to Redis, wherever they are."""

from __future__ import annotations

import pytest
from tests.helm.conftest import Rendered
from tests.helm.release import Release

NAME = "risk-headrace"


def ports_out(release: Release, policy: str) -> set[int]:
    (found,) = [one for one in release.of("NetworkPolicy") if one["metadata"]["name"] == policy]
    return {port["port"] for rule in found["spec"]["egress"] for port in rule.get("ports") or []}


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://otel.example:4317", 4317),
        ("https://otel.example:8443/", 8443),
        ("http://otel.example", 443),
        ("https://otel.example/", 443),
    ],
)
def test_spans_leave_by_the_port_of_the_endpoint_or_by_that_of_grpc(
    rendered: Rendered, endpoint: str, port: int
) -> None:
    """The exporter hands a name without a port to gRPC, which takes 443, in plain text too."""
    assert ports_out(rendered({"telemetry": {"otlpEndpoint": endpoint}}), NAME) == {53, port}


@pytest.mark.parametrize("address", ["redis.example:6380", "redis://redis.example:6380", "rediss://redis.example:6380"])
def test_the_head_reaches_redis_over_tls_or_in_plain_text(rendered: Rendered, address: str) -> None:
    release = rendered({"ray": {"gcsFaultTolerance": {"enabled": True, "redisAddress": address}}})
    cluster = release.ray_service["spec"]["rayClusterConfig"]

    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == address
    assert 6380 in ports_out(release, f"{NAME}-ray-head")
