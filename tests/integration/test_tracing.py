"""Tracing on real processes, read back from a collector: whole whatever happens, and never in the way."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.parser import text_string_to_metric_families
from tests.load import Load, ready_replicas, until_replicas, w1
from tests.records import batch_of, rider
from tests.sink import Sink
from tests.trace_checker import MODEL_INFER, attributes, check
from tritonclient.grpc import service_pb2_grpc

from headrace import config
from headrace.client import ScoringClient, request
from headrace.cluster import Cluster
from headrace.config import TelemetrySettings
from headrace.telemetry import context
from headrace.telemetry.tracing import Tracer
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica

Run = Callable[..., Any]
PARENT = 0xAA


def traced(root: Path, endpoint: str, **flags: Any) -> Cluster:
    free = {"gateway__port": 0, "gateway__metrics_port": 0, "control__port": 0, "control__ledger": ":memory:"}
    chosen = config.load(
        None,
        {},
        engine="local",
        model_dirs=[root / "benchmarks" / "repository"],
        only=["fraud-tx", "w1-encoder", "w2-ragged"],
        telemetry__otlp_endpoint=endpoint,
        telemetry__log_level="ERROR",
        **(free | flags),
    )
    return Cluster(chosen)


def metric(cluster: Cluster, name: str, **labels: str) -> float:
    """The sum of a metric's samples over all gateways."""
    total = 0.0
    for address in cluster.metrics_addresses:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
            for family in text_string_to_metric_families(page.read().decode()):
                total += sum(s.value for s in family.samples if s.name == name and labels.items() <= s.labels.items())
    return total


class Crowd:
    """Callers with a trace each, of which some ask nonsense, some have no time, and some go away."""

    def __init__(self, address: str, root: Path, count: int, concurrency: int = 64) -> None:
        self._random = random.Random(7)
        self._address, self._count, self._concurrency = address, count, concurrency
        self._inputs, self._expected = w1(root)
        self.outcomes: dict[bytes, str] = {}
        self.wrong = 0

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.outcomes.values())

    async def run(self) -> None:
        numbers = iter(range(self._count))
        async with aio.insecure_channel(self._address) as channel, asyncio.TaskGroup() as group:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for _ in range(self._concurrency):
                group.create_task(self._ask_for_ever(stub, numbers))

    async def _ask_for_ever(self, stub: Any, numbers: Any) -> None:
        for number in numbers:
            trace_id = self._random.getrandbits(127).to_bytes(16)
            self.outcomes[trace_id] = await self._ask(stub, number, trace_id)

    async def _ask(self, stub: Any, number: int, trace_id: bytes) -> str:
        row, kind = number % 8, self._random.random()
        message = request("w1-encoder", {"events": self._inputs[row : row + 1]})
        if kind < 0.02:
            message.model_name = "nobody"
        elif kind < 0.04:
            message.inputs[0].shape[1] = 31
        elif kind < 0.06:
            message.parameters["timeout"].int64_param = 1
        elif kind < 0.09:  # too short for a busy queue
            message.parameters["timeout"].int64_param = 4000
        metadata = (("traceparent", context.header(trace_id, PARENT, sampled=True)),)
        call = stub.ModelInfer(message, timeout=5, metadata=metadata)
        if kind > 0.9:
            asyncio.get_running_loop().call_later(self._random.random() * 0.02, call.cancel)
        try:
            answer = await call
        except aio.AioRpcError as error:
            return str(error.code().name)
        except asyncio.CancelledError:
            return "CANCELLED"
        found = np.frombuffer(answer.raw_output_contents[0], "<f4")
        self.wrong += not np.allclose(found, self._expected[row], atol=1e-5)
        return "OK"


@pytest.mark.proof
def test_ten_thousand_requests_with_cancellations_refusals_and_a_killed_replica_are_all_told_whole(
    run: Run, root: Path, record_property: Callable[[str, object], None]
) -> None:
    sink = Sink()

    async def main() -> tuple[Crowd, float]:
        async with traced(root, sink.endpoint, models={"w1-encoder": {"replicas": 2}}) as cluster:
            crowd = Crowd(cluster.address, root, 10_000)
            asking = asyncio.create_task(crowd.run())
            await asyncio.sleep(1.5)
            (first, _) = await ready_replicas(cluster, "w1-encoder")
            os.kill(
                first, signal.SIGSTOP
            )  # what reaches it now is not answered any more: it dies with batches on board
            await asyncio.sleep(0.1)
            os.kill(first, signal.SIGKILL)
            await asking
            counted = await asyncio.to_thread(metric, cluster, "headrace_request_duration_seconds_count")
            assert await asyncio.to_thread(metric, cluster, "headrace_telemetry_dropped_requests_total") == 0
            await until_replicas(cluster, 2, without=first)
            return crowd, counted

    crowd, counted = run(main(), timeout_s=150)
    seen = check(sink.spans())
    sink.close()
    for name, value in (("outcomes", crowd.counts), ("reasons", seen.reasons), ("lost", seen.lost_dispatches)):
        record_property(name, dict(value))

    assert crowd.wrong == 0
    assert set(crowd.counts) == {"OK", "CANCELLED", "NOT_FOUND", "INVALID_ARGUMENT", "UNAVAILABLE"}
    assert crowd.counts["CANCELLED"] > 700
    assert seen.lost_dispatches["UNAVAILABLE"] >= 1
    assert seen.masked > 0
    assert seen.left_queue > 0
    assert seen.kept["retried"] >= 1
    assert set(seen.reasons) == {"", "Cancelled", "UnknownModel", "InvalidInference", "DeadlinePassed"}
    assert len(seen.rpcs) == counted
    for trace_id, outcome in crowd.outcomes.items():
        rpc = seen.rpcs.get(trace_id)
        if rpc is None:
            assert outcome == "CANCELLED", f"a request that ended {outcome} was not told"
            continue
        assert int.from_bytes(rpc.parent_span_id) == PARENT
        code = attributes(rpc)["rpc.response.status_code"]
        assert outcome in (code, "CANCELLED")
    assert set(seen.rpcs) <= set(crowd.outcomes)


def test_two_gateways_and_a_client_with_its_own_spans_are_one_trace(run: Run, root: Path) -> None:
    """From the client's span to the forward pass, whichever gateway the connection reached."""
    sink = Sink()
    provider = TracerProvider(resource=Resource({"service.name": "checkout"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(sink.endpoint)))
    tracer = provider.get_tracer("checkout")
    inputs, _ = w1(root)
    payment = {"card_id": "c", "merchant_id": "m", "currency": "EUR", "mcc": 5411, "country": "FR", "channel": "chip"}
    payment |= {"event_id": "p", "ts": "2026-03-01T12:00:00Z", "amount": 33.0}

    async def ask(cluster: Cluster, number: int) -> None:
        """A connection of its own: the kernel chooses a gateway for each."""
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with aio.insecure_channel(cluster.address, options) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with tracer.start_as_current_span(f"authorise-{number}"):
                headers: dict[str, str] = {}
                TraceContextTextMapPropagator().inject(headers)
                await stub.ModelInfer(request("w1-encoder", {"events": inputs[:1]}), metadata=tuple(headers.items()))

    async def main() -> list[float]:
        async with traced(root, sink.endpoint, gateway__processes=2) as cluster:
            await asyncio.gather(*(ask(cluster, number) for number in range(40)))
            async with ScoringClient(cluster.address, timeout_s=5) as client:
                with tracer.start_as_current_span("score"):
                    await client.score(payment)
            async with aio.insecure_channel(cluster.address) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                statistics = await stub.ModelStatistics(statistics_request("w1-encoder"))
            single = cluster.metrics_addresses
            counts = [await asyncio.to_thread(answered, address) for address in single]
            return [*counts, statistics.model_stats[0].inference_stats.success.count]

    *counts, summed = run(main(), timeout_s=90)
    provider.shutdown()
    spans = list(sink.spans())
    clients = {span.span_id: span for service, span in spans if service == "checkout"}
    seen = check(span for span in spans if span[0] != "checkout")
    gateways = {
        value.value.string_value
        for sent in sink.requests
        for resource in sent.resource_spans
        for value in resource.resource.attributes
        if value.key == "service.instance.id"
    }
    sink.close()

    assert all(count > 0 for count in counts), "the kernel gave one gateway nothing"
    assert summed == sum(counts) == 40
    assert seen.codes == {"OK": 41}
    assert len(clients) == 41
    for rpc in seen.rpcs.values():
        client = clients[rpc.parent_span_id]
        assert client.trace_id == rpc.trace_id
        assert client.start_time_unix_nano <= rpc.start_time_unix_nano + 2_000_000
    assert len(gateways) >= 4  # two gateways, a replica of each of two models


def statistics_request(name: str) -> Any:
    from tritonclient.grpc import service_pb2  # noqa: PLC0415

    return service_pb2.ModelStatisticsRequest(name=name)


def answered(address: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    return sum(float(x.split()[-1]) for x in lines if x.startswith('nv_inference_request_success{model="w1-encoder"'))


@pytest.mark.proof
def test_a_collector_that_stops_for_thirty_seconds_under_load_costs_no_request_anything(
    run: Run, root: Path, record_property: Callable[[str, object], None]
) -> None:
    """The ring is kept small here, so that it fills: what does not fit is dropped whole, and counted."""
    sink = Sink()
    bound = 4000

    async def main() -> tuple[Load, dict[str, float], Sink]:
        async with traced(root, sink.endpoint, telemetry__max_waiting=bound) as cluster:
            load = Load(cluster.address, root)
            loading = asyncio.create_task(load.run(16))
            gateway = cluster.gateways[0].pid
            await asyncio.sleep(3)
            found = {"MiB before": resident_mib(gateway)}
            await asyncio.to_thread(sink.close)
            await asyncio.sleep(30)
            found["MiB while it was away"] = resident_mib(gateway)
            found["waiting"] = await asyncio.to_thread(metric, cluster, "headrace_telemetry_waiting_requests")
            again = Sink(sink.port)
            while not again.requests:
                await asyncio.sleep(0.05)
            await asyncio.sleep(2)
            load.stop()
            await loading
            found["MiB at the end"] = resident_mib(gateway)
            dropped, failed = "headrace_telemetry_dropped_requests_total", "headrace_telemetry_spans_total"
            found["dropped"] = await asyncio.to_thread(metric, cluster, dropped)
            found["failed"] = await asyncio.to_thread(lambda: metric(cluster, failed, result="failed"))
            return load, found, again

    load, found, again = run(main(), timeout_s=150)
    # An export whose answer was lost is sent again, the same to the byte: a receiver sees it twice, as OTLP allows.
    sent = {request.SerializeToString(): request for request in (*sink.requests, *again.requests)}
    sink.requests = list(sent.values())
    seen = check(sink.spans())
    again.close()
    for name, value in found.items():
        record_property(name, round(value, 1))

    assert set(load.results) == {"right"}, load.results
    assert load.slowest_s < 2
    assert found["waiting"] <= bound
    assert found["dropped"] > 0
    assert found["failed"] == 0
    assert found["MiB at the end"] - found["MiB before"] < 40
    assert len(seen.rpcs) + found["dropped"] == load.results["right"]


def resident_mib(pid: int | None) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_a_collector_that_is_slow_delays_no_request_and_gets_everything(run: Run, tmp_path: Path) -> None:
    sink = Sink()
    sink.delay_s = 0.5

    async def main() -> list[float]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica], telemetry__otlp_endpoint=sink.endpoint) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            message = request("echo", {"events": np.zeros((1, 3, 2), np.float32), "key": np.array([[1]], np.int64)})
            took = []
            begun = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < begun + 3:
                asked = asyncio.get_running_loop().time()
                await stub.ModelInfer(message, timeout=2)
                took.append(asyncio.get_running_loop().time() - asked)
            sink.delay_s = 0.0
            return took

    took = run(main())
    seen = check(sink.spans())
    sink.close()

    assert len(seen.rpcs) == len(took) > 100
    assert max(took) < 0.4, "a request waited for an export"


def test_what_a_caller_says_of_its_trace_is_honoured_carried_and_given_back(run: Run, tmp_path: Path) -> None:
    sink = Sink()
    secret = "4111111111111111"  # noqa: S105  a test card's number

    async def main() -> tuple[list[dict[str, str]], list[Any]]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica], telemetry__otlp_endpoint=sink.endpoint) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            inputs = {"events": np.zeros((1, 3, 2), np.float32), "key": np.array([[int(secret)]], np.int64)}
            trailing = []
            for sampled in (True, False):
                call = stub.ModelInfer(
                    request("echo", inputs),
                    metadata=(
                        ("traceparent", context.header(bytes([7 + sampled]) * 16, PARENT, sampled=sampled)),
                        ("tracestate", "vendor=blue"),
                        ("baggage", f"card={secret}"),
                        ("authorization", f"Bearer {secret}"),
                    ),
                )
                await call
                trailing.append({key: str(value) for key, value in await call.trailing_metadata()})
            refused = stub.ModelInfer(request("nobody", {}), timeout=2)
            with pytest.raises(aio.AioRpcError):
                await refused
            trailing.append({key: str(value) for key, value in await refused.trailing_metadata()})
            return trailing, replica.batches

    (sampled, unsampled, refused), batches = run(main())
    seen = check(sink.spans())
    sink.close()

    (rpc,) = [span for span in seen.rpcs.values() if span.trace_id == bytes([8]) * 16]
    assert sampled["traceparent"] == f"00-{rpc.trace_id.hex()}-{rpc.span_id.hex()}-01"
    assert sampled["tracestate"] == "vendor=blue"
    assert [part.split(";")[0] for part in sampled["server-timing"].split(", ")] == ["queue", "execute", "forward"]
    assert unsampled["traceparent"].endswith("-00")
    assert refused["server-timing"] == "queue;dur=0.000"
    assert refused["traceparent"][3:35] in {trace_id.hex() for trace_id in seen.rpcs}
    assert len(seen.rpcs) == 2, "the one that its caller did not sample was told"
    assert all(span.trace_state == "vendor=blue" for _, span in sink.spans() if span.trace_id == rpc.trace_id)
    assert [dict(batch.row_tracestates) for batch in batches] == [{0: "vendor=blue"}] * 2
    assert rpc.name == MODEL_INFER
    assert not [sent for sent in sink.requests if secret.encode() in sent.SerializeToString()]


@asynccontextmanager
async def rotel(folder: Path, to: Sink) -> AsyncIterator[tuple[str, str]]:
    """A collector that somebody else wrote; its OTLP/gRPC and OTLP/HTTP addresses."""
    agent = f"{pytest.importorskip('rotel').__path__[0]}/rotel-agent"
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        grpc_address, http_address = (f"127.0.0.1:{probe.getsockname()[1]}" for probe in (one, two))
    collector = await asyncio.create_subprocess_exec(
        agent,
        "start",
        *("--otlp-grpc-endpoint", grpc_address, "--otlp-http-endpoint", http_address),
        *("--exporter", "otlp", "--otlp-exporter-endpoint", to.endpoint),
        *("--pid-file", str(folder / "pid"), "--log-file", str(folder / "log")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield grpc_address, http_address
    finally:
        collector.terminate()
        await collector.wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.05)


def test_a_real_collector_passes_everything_on(run: Run, root: Path, tmp_path: Path) -> None:
    sink = Sink()

    async def main() -> int:
        async with rotel(tmp_path, sink) as (address, _):
            async with traced(root, f"http://{address}") as cluster:
                await Crowd(cluster.address, root, 500).run()
                told = int(await asyncio.to_thread(metric, cluster, "headrace_request_duration_seconds_count"))
            await until(lambda: sink.names[MODEL_INFER] >= told)
            return told

    told = run(main(), timeout_s=90)
    seen = check(sink.spans())
    sink.close()

    assert len(seen.rpcs) == told
    assert seen.members > 300


def test_a_line_of_the_local_file_can_be_posted_to_a_collector_later(run: Run, tmp_path: Path) -> None:
    """What was written on a laptop is OTLP/JSON as any receiver of OTLP/HTTP takes it."""
    sink = Sink()
    tracer = Tracer("headrace-gateway", TelemetrySettings(trace_dir=tmp_path / "traces"), "g")
    tracer.family(batch_of(*(rider(n, parent_id=9) for n in range(5))))
    tracer.close()
    (file,) = (tmp_path / "traces").glob("*.jsonl")

    def post(address: str) -> int:
        headers = {"Content-Type": "application/json"}
        message = urllib.request.Request(f"http://{address}/v1/traces", file.read_bytes(), headers)
        with urllib.request.urlopen(message, timeout=5) as answer:
            return int(answer.status)

    async def main() -> int:
        async with rotel(tmp_path, sink) as (_, address):
            await asyncio.sleep(0.5)
            status = await asyncio.to_thread(post, address)
            await until(lambda: sink.names[MODEL_INFER] == 5)
            return status

    assert run(main()) == 200
    assert sink.names["forward"] == 6
    assert {service for service, _ in sink.spans()} == {"headrace-gateway", "headrace-replica"}
    sink.close()
