"""The whole way on plain replica processes: real model, real gateway process, real control process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc import aio
from tests.load import Load, ready_replicas, until_replicas, w1
from tritonclient.grpc import service_pb2_grpc

from headrace import config
from headrace.client import ScoringClient, SyncScoringClient, request
from headrace.cluster import Cluster
from headrace.errors import InvalidInference, NotServing
from headrace.serving.deploy import LocalDeployer
from headrace.telemetry import reading
from headrace_models import spec
from headrace_models.training.evaluate import REPOSITORY

SHIPPED = REPOSITORY / "fraud-tx" / "1"

Run = Callable[..., Any]


def local(tmp_path: Path, root: Path, *models: str, **flags: Any) -> Cluster:
    free = {"gateway__port": 0, "gateway__metrics_port": 0, "control__port": 0, "control__ledger": ":memory:"}
    chosen = config.load(
        None,
        {},
        engine="local",
        model_dirs=[root / "benchmarks" / "repository"],
        only=list(models),
        telemetry__trace_dir=tmp_path / "traces",
        telemetry__log_level="ERROR",
        **(free | flags),
    )
    return Cluster(chosen)


def payment() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    base = {"card_id": "c", "merchant_id": "m", "currency": "EUR", "mcc": 5411, "country": "FR", "channel": "chip"}
    history = [
        {**base, "event_id": f"h{i}", "ts": f"2026-02-{i + 1:02}T10:00:00Z", "amount": 20 + i, "outcome": "approved"}
        for i in range(20)
    ]
    return {**base, "event_id": "p1", "ts": "2026-03-01T12:00:00Z", "amount": 33.0}, history


def test_every_client_people_have_scores_through_the_gateway(run: Run, tmp_path: Path, root: Path) -> None:
    inputs, expected = w1(root)

    def tensor(kind: Any) -> Any:
        made = kind.InferInput("events", [1, 32, 16], "FP32")
        made.set_data_from_numpy(inputs[:1])
        return [made]

    def blocking(address: str) -> list[float]:
        client = triton.InferenceServerClient(address)
        found = [client.infer("w1-encoder", tensor(triton)).as_numpy("score")[0, 0]]
        answers: list[Any] = []
        client.async_infer("w1-encoder", tensor(triton), lambda result, error: answers.append((result, error)))
        while not answers:
            time.sleep(0.005)
        found.append(answers[0][0].as_numpy("score")[0, 0])
        assert client.is_model_ready("fraud-tx")
        client.close()
        with SyncScoringClient(address, timeout_s=5) as scorer:
            found.append(scorer.score(*payment()).p)
        return found

    async def main() -> tuple[list[float], list[Any]]:
        async with local(tmp_path, root, "fraud-tx", "w1-encoder") as cluster:
            found = await asyncio.to_thread(blocking, cluster.address)
            async with triton_aio.InferenceServerClient(cluster.address) as client:
                result = await client.infer("w1-encoder", tensor(triton_aio))
                found.append(result.as_numpy("score")[0, 0])
            async with ScoringClient([cluster.address, cluster.address], timeout_s=5) as scorer:
                scored = await scorer.score(*payment())
                found.append(scored.p)
                with pytest.raises(InvalidInference, match="has no field 'ts'"):
                    await scorer.score({"amount": 1})
            lines = tmp_path / "payments.jsonl"
            one, history = payment()
            lines.write_text(json.dumps({"payment": one, "card_history": history}) + "\nnot json\n")
            command = [sys.executable, "-m", "headrace", "score", str(lines), "--address", cluster.address, "--json"]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
            return found, [done.returncode, json.loads(done.stdout), done.stderr, scored]

    (sync, callback, sync_p, aio_score, async_p), (code, printed, stderr, scored) = run(main(), timeout_s=120)

    assert np.allclose([sync, callback, aio_score], expected[0, 0], atol=1e-5)
    assert sync_p == pytest.approx(async_p, abs=1e-6)
    assert code == 1
    assert "payments.jsonl:2: expected" in stderr
    assert printed["p"] == pytest.approx(scored.p, abs=1e-6)
    assert 0 <= scored.score <= 99


def test_golden_payments_get_their_golden_scores_whatever_rides_along(run: Run, tmp_path: Path, root: Path) -> None:
    found = spec.load_spec(SHIPPED)
    inputs, lengths, outputs = spec.golden(found, SHIPPED)
    ends = {axis: np.cumsum(values) for axis, values in lengths.items()}

    def row(i: int) -> Any:
        columns = {}
        for tensor in found.inputs:
            if tensor.axis:
                end = ends[tensor.axis][i]
                columns[tensor.name] = inputs[tensor.name][end - lengths[tensor.axis][i] : end][None]
            else:
                columns[tensor.name] = inputs[tensor.name][i : i + 1]
        return request("fraud-tx", columns)

    async def main() -> list[float]:
        async with local(tmp_path, root, "fraud-tx") as cluster, aio.insecure_channel(cluster.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answers = await asyncio.gather(*(stub.ModelInfer(row(i), timeout=20) for i in range(len(outputs["p"]))))
            return [np.frombuffer(answer.raw_output_contents[0], "<f4")[0] for answer in answers]

    assert np.allclose(run(main(), timeout_s=120), outputs["p"][:, 0], atol=1e-5)


def test_one_inferences_trace_is_whole_and_its_batch_names_every_member(run: Run, tmp_path: Path, root: Path) -> None:
    inputs, _ = w1(root)
    callers = [f"{i:032x}" for i in range(1, 33)]

    async def main() -> None:
        async with local(tmp_path, root, "w1-encoder") as cluster, aio.insecure_channel(cluster.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            message = request("w1-encoder", {"events": inputs[:1]})
            await asyncio.gather(
                *(
                    stub.ModelInfer(message, metadata=(("traceparent", f"00-{caller}-00000000000000aa-01"),))
                    for caller in callers
                )
            )

    run(main(), timeout_s=120)
    traces = [next(iter(reading.find(tmp_path / "traces", caller)), None) for caller in callers]

    members: dict[str, set[str]] = {}
    for trace, caller in zip(traces, callers, strict=True):
        assert trace is not None
        assert trace.complete
        assert trace.rpc.trace_id == caller
        assert trace.rpc.parent_id == "00000000000000aa"
        own = {span.name: span for span in trace.own}
        assert own["queue"].parent_id == own["execute"].parent_id == trace.rpc.span_id
        assert own["forward"].parent_id == own["execute"].span_id
        batch = {span.name: span for span in trace.batch}
        assert batch["dispatch"].parent_id == batch["batch"].span_id
        assert batch["replica.batch"].parent_id == batch["dispatch"].span_id
        assert batch["forward"].parent_id == batch["unpack"].parent_id == batch["replica.batch"].span_id
        assert own["execute"].links == ((batch["batch"].trace_id, batch["batch"].span_id),)
        assert trace.rpc.start_ns <= own["queue"].start_ns <= own["queue"].end_ns <= own["execute"].end_ns
        assert (trace.rpc.trace_id, trace.rpc.span_id) in batch["batch"].links
        members.setdefault(batch["batch"].span_id, set()).add(caller)
    linked = {t.batch[0].span_id: {trace_id for trace_id, _ in t.batch[0].links} for t in traces if t}
    assert all(len(t.mates) == len(t.batch[0].links) - 1 for t in traces if t)
    assert linked == members


@pytest.mark.slow
def test_killed_stopped_and_without_control_under_load_no_caller_notices(
    run: Run, tmp_path: Path, root: Path, record_property: Callable[[str, object], None]
) -> None:
    """Two replicas; one killed, then one stopped, then control killed for a while. Everything mends itself."""

    async def main() -> tuple[Counter[str], float, dict[str, float]]:
        async with local(tmp_path, root, "w1-encoder", models={"w1-encoder": {"replicas": 2}}) as cluster:
            load = Load(cluster.address, root)
            loading = asyncio.create_task(load.run())
            times = {}
            await asyncio.sleep(1)
            (first, second) = await ready_replicas(cluster, "w1-encoder")
            os.kill(first, signal.SIGKILL)
            times["killed replica replaced, s"] = await until_replicas(cluster, 2, without=first)
            os.kill(second, signal.SIGSTOP)
            times["stopped replica replaced, s"] = await until_replicas(cluster, 2, without=second)
            assert cluster.control.pid is not None
            os.kill(cluster.control.pid, signal.SIGKILL)
            times["control back with both replicas, s"] = await until_replicas(cluster, 2)
            await asyncio.sleep(1)
            load.stop()
            await loading
            assert isinstance(cluster.deployer, LocalDeployer)
            return load.results, load.slowest_s, times

    results, slowest_s, times = run(main(), timeout_s=150)
    for name, seconds in times.items():
        record_property(name, round(seconds, 2))

    assert set(results) == {"right"}, results
    assert slowest_s < 3


def test_nobody_there_is_said_clearly(free_port: int) -> None:
    with SyncScoringClient(f"127.0.0.1:{free_port}") as client, pytest.raises(NotServing):
        client.score(*payment())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gateway", "--config", "BAD"], "gateway.prot: Extra inputs are not permitted"),
        (["replica", "--model-dir", "EMPTY"], "spec.yaml: No such file or directory"),
        (["serve", "--models", "EMPTY/none"], "no such directory of models"),
    ],
)
def test_a_start_that_cannot_work_is_one_line_and_exit_code_78(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "bad.yaml").write_text("gateway: {prot: 1}")
    filled = [a.replace("BAD", str(tmp_path / "bad.yaml")).replace("EMPTY", str(tmp_path)) for a in arguments]

    done = subprocess.run([sys.executable, "-m", "headrace", *filled], capture_output=True, text=True, check=False)

    assert done.returncode == 78
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
