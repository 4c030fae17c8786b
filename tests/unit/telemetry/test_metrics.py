"""Names and labels that dashboards written for Triton rely on, and our own."""

from __future__ import annotations

import re
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from tests.records import batch_of, rider

from headrace.core.records import BatchRecord, DispatchRecord, ReplicaIdentity, RpcRecord, Stages
from headrace.telemetry.http import MetricsServer
from headrace.telemetry.metrics import GatewayMetrics


def observed() -> tuple[CollectorRegistry, GatewayMetrics]:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    answered = RpcRecord(
        b"t" * 16, 1, 0, True, 0, model="m", version="1", rows=2, queued_ns=10, closed_ns=2010, end_ns=5_000_000, row=0
    )
    refused = RpcRecord(
        b"t" * 16, 2, 0, True, 0, model="m", version="1", end_ns=1000, code="UNAVAILABLE", reason="Overloaded"
    )
    stages = Stages(1, 2, 1002, 3002, 12002, 13002, 16002)
    dispatch = DispatchRecord(7, 1, ReplicaIdentity("r"), 0, 9_000_000, stages=stages, padded_tokens=120)
    batch = BatchRecord(
        b"b" * 16,
        1,
        "m",
        "1",
        "primary",
        0,
        "slot",
        rows=2,
        tokens=80,
        members=[answered],
        succeeded=1,
        dispatches=[dispatch],
    )
    metrics.observe_rpc(answered)
    metrics.observe_rpc(refused)
    metrics.observe_batch(batch)
    return registry, metrics


TRITON = {
    'nv_inference_request_success{model="m",version="1"} 1.0',
    'nv_inference_request_failure{model="m",reason="REJECTED",version="1"} 1.0',
    'nv_inference_count{model="m",version="1"} 2.0',
    'nv_inference_exec_count{model="m",version="1"} 1.0',
    'nv_inference_request_duration_us{model="m",version="1"} 5000.0',
    'nv_inference_queue_duration_us{model="m",version="1"} 2.0',
    'nv_inference_compute_input_duration_us{model="m",version="1"} 3.0',
    'nv_inference_compute_infer_duration_us{model="m",version="1"} 9.0',
    'nv_inference_compute_output_duration_us{model="m",version="1"} 4.0',
}


def test_tritons_names_survive_in_both_formats() -> None:
    registry, _ = observed()

    assert set(generate_latest(registry).decode().splitlines()) >= TRITON
    assert set(generate_openmetrics(registry).decode().splitlines()) >= TRITON


def test_our_histograms_say_how_long_and_how_large() -> None:
    lines = set(generate_latest(observed()[0]).decode().splitlines())
    lane = 'model="m",path="primary"'

    assert lines >= {
        f'headrace_request_duration_seconds_count{{code="OK",{lane},version="1"}} 1.0',
        f'headrace_request_duration_seconds_count{{code="UNAVAILABLE",{lane},version="1"}} 1.0',
        f'headrace_batch_rows_sum{{{lane},version="1"}} 2.0',
        f'headrace_batch_padding_ratio_sum{{{lane},version="1"}} 1.5',
        f'headrace_dispatch_duration_seconds_sum{{{lane},version="1"}} 0.009',
        f'headrace_replica_stage_duration_seconds_count{{{lane},stage="h2d",version="1"}} 1.0',
        'headrace_shed_total{model="m",reason="Overloaded",version="1"} 1.0',
    }


def test_an_exemplar_leads_to_the_trace_in_openmetrics() -> None:
    """The oldest of a batch has one; who was refused for load has none: it would be most of the work then."""
    text = generate_openmetrics(observed()[0]).decode()

    found = re.findall(r'^(headrace_\w+)_bucket.* # \{span_id="(\w+)",trace_id="(\w+)"\}', text, re.MULTILINE)
    assert {(name, trace, span) for name, span, trace in found} == {
        ("headrace_request_duration_seconds", (b"t" * 16).hex(), f"{1:016x}"),
        ("headrace_queue_duration_seconds", (b"t" * 16).hex(), f"{1:016x}"),
        ("headrace_dispatch_duration_seconds", (b"b" * 16).hex(), f"{7:016x}"),
    }


def test_a_masked_row_and_a_batch_without_an_answer_are_told_apart() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    gone = rider(reason="Cancelled")
    gone.masked = "Cancelled"
    metrics.observe_batch(batch_of(gone, rider(2)))
    metrics.observe_batch(batch_of(rider(3), answered=False))

    lines = set(generate_latest(registry).decode().splitlines())
    assert 'headrace_masked_rows_total{model="fraud-tx",reason="Cancelled",version="1"} 1.0' in lines
    assert 'nv_inference_exec_count{model="fraud-tx",version="1"} 1.0' in lines
    assert 'headrace_batch_rows_count{model="fraud-tx",path="primary",version="1"} 2.0' in lines


def test_a_lane_that_is_closed_takes_its_series_along() -> None:
    registry, metrics = observed()
    metrics.observe_rpc(rider())

    metrics.forget("m", "1")

    text = generate_latest(registry).decode()
    assert 'model="m"' not in text
    assert 'model="fraud-tx"' in text


def test_the_http_port_serves_metrics_pages_and_negotiates_openmetrics() -> None:
    registry, _ = observed()
    server = MetricsServer("127.0.0.1", 0, registry, {"/ready": lambda: (503, b"no")})
    try:
        address = f"http://127.0.0.1:{server.port}"
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{address}/ready")
        with urllib.request.urlopen(f"{address}/metrics") as page:
            assert b"nv_inference_count" in page.read()
        asking = urllib.request.Request(f"{address}/metrics", headers={"Accept": "application/openmetrics-text"})
        with urllib.request.urlopen(asking) as page:
            assert page.headers["Content-Type"].startswith("application/openmetrics-text")
            assert page.read().endswith(b"# EOF\n")
    finally:
        server.close()
