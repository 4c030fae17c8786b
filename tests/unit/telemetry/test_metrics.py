"""Names and labels that dashboards written for Triton rely on."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from headrace.core.records import BatchRecord, RpcRecord
from headrace.telemetry.metrics import GatewayMetrics


def observed() -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    answered = RpcRecord(
        b"t" * 16, 1, 0, True, 0, model="m", version="1", rows=2, queued_ns=10, closed_ns=2010, end_ns=5_000_000
    )
    refused = RpcRecord(
        b"t" * 16, 1, 0, True, 0, model="m", version="1", end_ns=1000, code="UNAVAILABLE", reason="Overloaded"
    )
    batch = BatchRecord(b"b" * 16, 1, "m", "1", "primary", 0, "slot", rows=2, tokens=80, members=[answered])
    metrics.observe_rpc(answered)
    metrics.observe_rpc(refused)
    metrics.observe_batch(batch, {"wait": 1, "unpack": 1000, "copy": 2000, "forward": 9000, "pack": 4000})
    return registry


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
    registry = observed()

    assert set(generate_latest(registry).decode().splitlines()) >= TRITON
    assert set(generate_openmetrics(registry).decode().splitlines()) >= TRITON


def test_our_histograms_say_how_long_and_how_large() -> None:
    lines = generate_latest(observed()).decode()

    assert 'headrace_request_duration_seconds_count{code="OK",model="m",version="1"} 1.0' in lines
    assert 'headrace_request_duration_seconds_count{code="UNAVAILABLE",model="m",version="1"} 1.0' in lines
    assert 'headrace_batch_rows_sum{model="m",version="1"} 2.0' in lines
    assert 'headrace_replica_stage_duration_seconds_count{model="m",stage="forward",version="1"} 1.0' in lines
