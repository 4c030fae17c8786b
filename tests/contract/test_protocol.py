"""The Open Inference Protocol over a real socket: every RPC. Rows of the error table: `test_errors.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.oip import Run, Stub, ask, columns, error_of, told, value, with_gateway
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.client import request
from headrace.gateway.server import Gateway
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2


def test_the_answer_is_the_callers_own_with_its_id(run: Run, tmp_path: Path) -> None:
    message = request("echo", columns(4, key=5), request_id="abc")

    answer = with_gateway(run, tmp_path, lambda stub, *_: stub.ModelInfer(message))

    assert answer.id == "abc"
    assert (answer.model_name, answer.model_version) == ("echo", "1")
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [("sum", "FP64", [1, 1])]
    assert value(answer) == [4 * 2 + 5]


def test_a_request_of_several_rows_gets_a_row_for_each(run: Run, tmp_path: Path) -> None:
    many = columns(2, rows=3)
    many["key"][:, 0] = [1, 2, 3]

    answer = with_gateway(run, tmp_path, lambda stub, *_: stub.ModelInfer(request("echo", many)))

    assert list(answer.outputs[0].shape) == [3, 1]
    assert value(answer) == [5, 6, 7]


def test_typed_contents_are_as_good_as_raw_ones(run: Run, tmp_path: Path) -> None:
    message = service_pb2.ModelInferRequest(model_name="echo")
    events = message.inputs.add(name="events", datatype="FP32", shape=[1, 1, 2])
    events.contents.fp32_contents.extend([1.5, 2.5])
    message.inputs.add(name="key", datatype="INT64", shape=[1, 1]).contents.int64_contents.append(10)

    answer = with_gateway(run, tmp_path, lambda stub, *_: stub.ModelInfer(message))

    assert value(answer) == [14.0]


def test_an_empty_history_is_an_answerable_row(run: Run, tmp_path: Path) -> None:
    answer = with_gateway(run, tmp_path, lambda stub, *_: stub.ModelInfer(request("echo", columns(0, key=3))))

    assert value(answer) == [3.0]


def test_a_history_over_the_cap_keeps_its_newest_events_and_says_so(run: Run, tmp_path: Path) -> None:
    long = columns(20, key=0)
    long["events"][0, :4] = 1000  # the four oldest

    answer = with_gateway(run, tmp_path, lambda stub, *_: stub.ModelInfer(request("echo", long)))

    assert value(answer) == [32.0]
    assert answer.parameters["headrace_truncated_events"].int64_param == 4


@pytest.mark.parametrize(("status_codes", "code"), [("triton", "UNAVAILABLE"), ("grpc", "RESOURCE_EXHAUSTED")])
def test_a_full_queue_refuses_at_once_with_a_pushback(run: Run, tmp_path: Path, status_codes: str, code: str) -> None:
    async def body(stub: Stub, _: Gateway, replica: FakeReplica) -> Any:
        replica.delay_s = 0.2
        answers = await asyncio.gather(*(stub.ModelInfer(ask()) for _ in range(40)), return_exceptions=True)
        return [a for a in answers if isinstance(a, Exception)], [a for a in answers if not isinstance(a, Exception)]

    refused, answered = with_gateway(
        run, tmp_path, body, models={"echo": {"batching": {"max_queue_rows": 4}}}, gateway__status_codes=status_codes
    )

    assert {error.code().name for error in refused} == {code}
    assert all("Exceeds maximum queue size" in error.details() for error in refused)
    assert dict(refused[0].trailing_metadata())["grpc-retry-pushback-ms"] == "50"
    assert len(answered) >= 4
    assert all(value(answer) == [13.0] for answer in answered)


@pytest.mark.parametrize(("status_codes", "code"), [("triton", "UNAVAILABLE"), ("grpc", "DEADLINE_EXCEEDED")])
def test_a_timeout_parameter_ends_the_wait_with_tritons_sentence(
    run: Run, tmp_path: Path, status_codes: str, code: str
) -> None:
    message = ask()
    message.parameters["timeout"].int64_param = 50_000

    async def body(stub: Stub, _: Gateway, replica: FakeReplica) -> Any:
        replica.hanging.set()
        running = []
        for count in (1, 2):  # one runs, one is staged
            running.append(asyncio.ensure_future(stub.ModelInfer(ask())))
            while len(replica.batches) < count:
                await asyncio.sleep(0.01)
        error = await error_of(stub.ModelInfer(message))
        replica.hanging.clear()
        await asyncio.gather(*running)
        return error

    error = with_gateway(run, tmp_path, body, gateway__status_codes=status_codes)

    assert error.code().name == code
    assert "Request timeout expired" in error.details()
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "50"


def test_a_grpc_deadline_is_kept_to(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, _: Gateway, replica: FakeReplica) -> Any:
        replica.hanging.set()
        begun = asyncio.get_running_loop().time()
        error = await error_of(stub.ModelInfer(ask(), timeout=0.1))
        replica.hanging.clear()
        return error.code(), asyncio.get_running_loop().time() - begun

    code, took_s = with_gateway(run, tmp_path, body)

    assert code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    assert took_s < 1.0


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda a: a.ClearField("columns"), "does not have the shape its spec promises"),
        (lambda a: setattr(a, "status", bytes([2])), "not a finite number"),
        (lambda a: setattr(a, "status", bytes([3])), "the model failed on this request"),
    ],
)
def test_a_broken_answer_is_internal_and_tells_nothing_more(
    run: Run, tmp_path: Path, spoil: Callable[[Any], None], sentence: str
) -> None:
    async def body(stub: Stub, _: Gateway, replica: FakeReplica) -> Any:
        replica.change = spoil
        return await error_of(stub.ModelInfer(ask()))

    error = with_gateway(run, tmp_path, body)

    assert error.code() is grpc.StatusCode.INTERNAL
    assert sentence in error.details()


@pytest.mark.parametrize("memory", ["System", "Cuda"])
@pytest.mark.parametrize("act", ["Status", "Register", "Unregister"])
def test_shared_memory_is_disabled_as_tritons_is_by_default(run: Run, tmp_path: Path, memory: str, act: str) -> None:
    async def body(stub: Stub, *_: Any) -> Any:
        name = f"{memory}SharedMemory{act}"
        return await error_of(getattr(stub, name)(getattr(service_pb2, f"{name}Request")()))

    error = with_gateway(run, tmp_path, body)

    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == (
        "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
    )


def test_metadata_configuration_and_index_describe_the_model(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, *_: Any) -> Any:
        return (
            await stub.ServerMetadata(service_pb2.ServerMetadataRequest()),
            await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="echo")),
            (await stub.ModelConfig(service_pb2.ModelConfigRequest(name="echo"))).config,
            await stub.RepositoryIndex(service_pb2.RepositoryIndexRequest()),
        )

    server, metadata, config, index = with_gateway(run, tmp_path, body)

    assert server.name == "headrace"
    assert "statistics" in server.extensions
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [
        ("events", "FP32", [-1, -1, 2]),
        ("key", "INT64", [-1, 1]),
    ]
    assert list(metadata.versions) == ["1"]
    assert config.max_batch_size == 32
    assert {tensor.name for tensor in config.input} == {tensor.name for tensor in metadata.inputs}
    assert [(m.name, m.version, m.state) for m in index.models] == [("echo", "1", "READY")]


def test_the_index_says_what_loads_and_can_be_asked_for_what_is_ready(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, gateway: Gateway, replica: FakeReplica) -> Any:
        warming = replica.registration
        warming.replica_id, warming.state = "cold", control_pb2.REPLICA_STATE_WARMING
        warming.spec.version = "2"
        gateway.models.apply(control_pb2.Snapshot(replicas=[replica.registration, warming]))
        asked = [service_pb2.RepositoryIndexRequest(ready=ready) for ready in (False, True)]
        return [[(m.version, m.state) for m in (await stub.RepositoryIndex(one)).models] for one in asked]

    known, ready = with_gateway(run, tmp_path, body)

    assert known == [("1", "READY"), ("2", "LOADING")]
    assert ready == [("1", "READY")]


def test_a_mate_that_got_no_answer_counts_in_no_compute_time(run: Run, tmp_path: Path) -> None:
    """Of one batch of three: a value that is no number leaves it, one caller leaves while it is computed."""

    async def body(stub: Stub, _: Gateway, replica: FakeReplica) -> Any:
        replica.hanging.set()
        running = []
        for count in (1, 2):  # one runs, one is staged: what comes now rides together
            running.append(asyncio.ensure_future(stub.ModelInfer(ask())))
            while len(replica.batches) < count:
                await asyncio.sleep(0.01)
        wrong = asyncio.ensure_future(error_of(stub.ModelInfer(request("echo", columns(value=float("nan"))))))
        mates = [asyncio.ensure_future(stub.ModelInfer(ask())) for _ in range(2)]
        await asyncio.sleep(0.1)
        replica.hanging.clear()
        replica.delay_s = 0.3
        while len(replica.batches) < 3:
            await asyncio.sleep(0.01)
        mates[1].cancel()
        await asyncio.gather(wrong, mates[0], *running)
        await asyncio.gather(*mates, return_exceptions=True)
        known = await stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="echo"))
        return known.model_stats[0], replica.batches[2].rows

    stats, rows = with_gateway(run, tmp_path, body)

    assert rows == 2
    assert stats.inference_stats.success.count == 3
    assert stats.inference_stats.compute_infer.count == stats.inference_stats.compute_input.count == 3
    assert (stats.inference_count, stats.execution_count) == (3, 3)


def test_statistics_count_requests_rows_and_batches(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, *_: Any) -> Any:
        for rows in (1, 1, 3):
            await stub.ModelInfer(request("echo", columns(rows=rows)))
        await error_of(stub.ModelInfer(request("echo", columns(value=float("nan")))))
        known = await stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="echo"))
        return known.model_stats[0], await error_of(
            stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="nobody"))
        )

    stats, unknown = with_gateway(run, tmp_path, body)

    assert (stats.name, stats.version, stats.inference_count, stats.execution_count) == ("echo", "1", 5, 3)
    assert stats.inference_stats.success.count == stats.inference_stats.queue.count == 3
    assert stats.inference_stats.fail.count == 1
    assert stats.inference_stats.compute_infer.count == 3
    assert sorted((b.batch_size, b.compute_infer.count) for b in stats.batch_stats) == [(1, 2), (3, 1)]
    assert unknown.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert unknown.details() == "requested model 'nobody' is not available"


async def _readiness(stub: Stub, channel: aio.Channel) -> tuple[bool, bool, str]:
    server = await stub.ServerReady(service_pb2.ServerReadyRequest())
    model = await stub.ModelReady(service_pb2.ModelReadyRequest(name="echo"))
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return server.ready, model.ready, health_pb2.HealthCheckResponse.ServingStatus.Name(health.status)


def test_readiness_follows_the_replicas_state(run: Run, tmp_path: Path) -> None:
    async def main() -> Any:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, []) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            seen = [await _readiness(stub, channel)]
            for state in (control_pb2.REPLICA_STATE_WARMING, control_pb2.REPLICA_STATE_READY):
                registration = replica.registration
                registration.state = state
                gateway.models.apply(control_pb2.Snapshot(replicas=[registration]))
                await asyncio.sleep(0.15)  # health is compared with the replicas every 0.1 s
                seen.append(await _readiness(stub, channel))
            return seen

    assert run(main()) == [(False, False, "NOT_SERVING"), (False, False, "NOT_SERVING"), (True, True, "SERVING")]


def test_an_unknown_model_is_simply_not_ready(run: Run, tmp_path: Path) -> None:
    question = service_pb2.ModelReadyRequest(name="nobody")

    assert with_gateway(run, tmp_path, lambda stub, *_: stub.ModelReady(question)).ready is False


def test_health_watch_tells_of_the_drain(run: Run, tmp_path: Path) -> None:
    name = health_pb2.HealthCheckResponse.ServingStatus.Name

    async def main() -> list[str]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            seen = [name((await watch.read()).status)]
            while seen[-1] != "SERVING":
                seen.append(name((await watch.read()).status))
            stopping = asyncio.create_task(gateway.stop())
            seen.append(name((await watch.read()).status))
            watch.cancel()
            await stopping
            return seen

    assert run(main())[-2:] == ["SERVING", "NOT_SERVING"]


def test_a_draining_gateway_answers_what_it_accepted_and_refuses_what_comes(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, gateway: Gateway, replica: FakeReplica) -> Any:
        replica.delay_s = 0.3
        accepted = asyncio.ensure_future(stub.ModelInfer(ask()))
        while not replica.batches:
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(gateway.stop())
        while gateway.admission.open:
            await asyncio.sleep(0.01)
        late = await error_of(stub.ModelInfer(ask()))
        answer = await accepted
        await stopping
        return answer, late

    answer, late = with_gateway(run, tmp_path, body)

    assert value(answer) == [13.0]
    assert late.code() is grpc.StatusCode.UNAVAILABLE


def test_who_still_comes_by_an_old_connection_hears_tritons_sentence(run: Run, tmp_path: Path) -> None:
    """The port is closed by then, and clients have been told to go: this is for those who had not heard it."""

    async def body(stub: Stub, gateway: Gateway, _: FakeReplica) -> Any:
        await stub.ModelInfer(ask())
        gateway.admission.open = False
        return await error_of(stub.ModelInfer(ask()))

    assert told(with_gateway(run, tmp_path, body)) == (
        "UNAVAILABLE",
        "[request id: <id_unknown>] GRPC server is shutting down and has stopped accepting new requests.",
    )


def test_reflection_lists_the_services(run: Run, tmp_path: Path) -> None:
    async def main() -> set[str]:
        async with (
            running_gateway(tmp_path, []) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            question = reflection_pb2.ServerReflectionRequest(list_services="")
            call = stub.ServerReflectionInfo(iter([question]))
            answer = await call.read()
            call.cancel()
            return {service.name for service in answer.list_services_response.service}

    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= run(main())
