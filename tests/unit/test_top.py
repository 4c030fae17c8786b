"""`headrace top`: rates and quantiles from two looks at the metrics."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from tests.records import batch_of, rider

from headrace import top
from headrace.errors import StartupError
from headrace.telemetry.metrics import GatewayMetrics


def page(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def test_a_table_shows_what_came_between_two_looks_summed_over_gateways() -> None:
    registries = [CollectorRegistry(), CollectorRegistry()]
    gateways = [GatewayMetrics(registry) for registry in registries]
    gateways[0].observe_rpc(rider(end_ns=900_000_000))  # before the first look: in no rate and no quantile
    before, now = top.Reading(10.0), top.Reading(12.0)
    for registry in registries:
        before.add(page(registry))
    for metrics in gateways:
        for n in range(100):
            metrics.observe_rpc(rider(end_ns=1_000_000 + 4_000_000 + n))
        metrics.observe_rpc(rider(reason="Overloaded", code="UNAVAILABLE"))
        metrics.observe_batch(batch_of(rider(1), rider(2), rider(3)))
    for registry in registries:
        now.add(page(registry))

    console = Console(width=120)
    with console.capture() as captured:
        console.print(top.table(before, now))
    header, line = captured.get().splitlines()

    assert " ".join(header.split()) == "model version rate/s p50 ms p99 ms batch refused/s waiting replicas"
    assert line.split() == ["fraud-tx", "1", "100", "4.0", "5.0", "3.0", "1.0", "0", "0"]


def test_a_quantile_lies_within_its_bucket_and_nothing_has_none() -> None:
    now = {0.001: 50.0, 0.01: 100.0, float("inf"): 100.0}

    assert top.quantile_ms(0.5, {}, now) == pytest.approx(1.0)
    assert top.quantile_ms(0.75, {}, now) == pytest.approx(5.5)
    assert top.quantile_ms(0.5, now, now) is None
    assert top.quantile_ms(0.99, {}, {0.001: 0.0, float("inf"): 10.0}) == pytest.approx(1.0)
    assert top.quantile_ms(0.5, {}, {}) is None


def test_a_gateway_that_is_not_there_is_said(free_port: int) -> None:
    with pytest.raises(StartupError, match=f"127.0.0.1:{free_port}: no metrics"):
        top.read([f"127.0.0.1:{free_port}"])
