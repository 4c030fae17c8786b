"""The Open Inference Protocol over a real socket: every RPC, and every row of the error table that applies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.client import request
from headrace.gateway.server import Gateway
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2

Run = Callable[[Awaitable[Any]], Any]
Stub = Any
INVALID = "INVALID_ARGUMENT"


def columns(length: int = 3, key: int = 7, rows: int = 1, value: float = 1.0) -> dict[str, np.ndarray]:
    return {
        "events": np.full((rows, length, 2), value, np.float32),
        "key": np.full((rows, 1), key, np.int64),
    }


def ask(**changes: Any) -> service_pb2.ModelInferRequest:
    return request("echo", columns(), **changes)


def with_gateway(
    run: Run, tmp_path: Path, body: Callable[[Stub, Gateway, FakeReplica], Awaitable[Any]], **flags: Any
) -> Any:
    async def main() -> Any:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica], **flags) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            return await body(service_pb2_grpc.GRPCInferenceServiceStub(channel), gateway, replica)

    return run(main())


async def error_of(call: Awaitable[Any]) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


def value(answer: service_pb2.ModelInferResponse) -> list[float]:
    return np.frombuffer(answer.raw_output_contents[0]).tolist()


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


def _drop_key(message: Any) -> None:
    del message.inputs[1], message.raw_input_contents[1]


def _mixed(message: Any) -> None:
    message.inputs[0].contents.fp32_contents.append(1.0)


def _no_data(message: Any) -> None:
    del message.raw_input_contents[:]


def _too_many_rows(message: Any) -> None:
    message.inputs[0].shape[0] = message.inputs[1].shape[0] = 33


def _shape(*dims: int) -> Callable[[Any], None]:
    def edit(message: Any) -> None:
        message.inputs[0].shape[:] = dims

    return edit


def _raw(place: int, data: bytes) -> Callable[[Any], None]:
    def edit(message: Any) -> None:
        message.raw_input_contents[place] = data

    return edit


def _parameter(name: str, kind: str, content: Any) -> Callable[[Any], None]:
    return lambda message: setattr(message.parameters[name], kind, content)


UNKNOWN = "Request for unknown model: 'echo' version 9 is not found"
VERSION = "failed to get model version from specified version string"
MISSING = (
    "expected 2 inputs but got 1 inputs for model 'echo'. Got input(s) ['events'], but missing required input(s) "
    "['key']. Please provide all required input(s)."
)
SHAPE = "unexpected shape for input 'events' for model 'echo'. Expected [-1,-1,2], got "
REFUSALS: list[tuple[Callable[[Any], None], str, str]] = [
    (lambda m: setattr(m, "model_name", "x"), "NOT_FOUND", "Request for unknown model: 'x' is not found"),
    (lambda m: setattr(m, "model_version", "9"), "NOT_FOUND", UNKNOWN),
    (lambda m: setattr(m, "model_version", "x"), INVALID, VERSION),
    (lambda m: setattr(m, "model_version", "-1"), INVALID, VERSION),
    (_drop_key, INVALID, MISSING),
    (lambda m: setattr(m.inputs[0], "name", "n"), INVALID, "unexpected inference input 'n' for model 'echo'"),
    (lambda m: setattr(m.inputs[1], "name", "events"), INVALID, "input 'events' already exists in request"),
    (lambda m: m.outputs.add(name="n"), INVALID, "unexpected inference output 'n' for model 'echo'"),
    (
        lambda m: setattr(m.inputs[0], "datatype", "INT32"),
        INVALID,
        "inference input 'events' data-type is 'INT32', but model 'echo' expects 'FP32'",
    ),
    (_shape(1, 3, 3), INVALID, SHAPE + "[1,3,3]."),
    (_shape(1, 3, 2, 1), INVALID, SHAPE + "[1,3,2,1]."),
    (_shape(1, -3, 2), INVALID, SHAPE + "[1,-3,2]."),
    (_shape(2, 3, 2), INVALID, "batch size does not match other inputs for 'echo'"),
    (_shape(), INVALID, "input 'events' has no shape but model requires batch dimension"),
    (_too_many_rows, INVALID, "inference request batch-size must be <= 32 for 'echo'"),
    (_raw(0, b"1234"), INVALID, "input byte size mismatch for input 'events' for model 'echo'. Expected 24, got 4"),
    (_mixed, INVALID, "contents field must not be specified when using raw_input_contents for 'events'"),
    (_no_data, INVALID, "unable to find data for input tensor 'events' for model 'echo' in request."),
    (_raw(0, np.full(6, np.nan, "f4").tobytes()), INVALID, "input 'events' has a value that is not finite"),
    (_raw(0, np.full(6, np.inf, "f4").tobytes()), INVALID, "input 'events' has a value that is not finite"),
    (_raw(1, np.array([-1]).tobytes()), INVALID, "input 'key' has a value below 0"),
    (_parameter("priority", "int64_param", -1), INVALID, "invalid value for 'priority', expected value >= 0."),
    (
        _parameter("timeout", "string_param", "1"),
        INVALID,
        "invalid value type for 'timeout' parameter, expected int64_param.",
    ),
    (_parameter("triton_x", "int64_param", 1), INVALID, "parameter keys starting with 'triton_' are reserved"),
    (
        _parameter("mine", "uint64_param", 1),
        INVALID,
        "invalid value type for 'mine' parameter, expected int64_param, bool_param, or string_param.",
    ),
    (
        lambda m: setattr(m.inputs[0].parameters["shared_memory_region"], "string_param", "r"),
        "UNIMPLEMENTED",
        "Client shared memory is disabled.",
    ),
]


@pytest.mark.parametrize(
    ("edit", "code", "sentence"), REFUSALS, ids=[f"{i}-{r[2][:40]}" for i, r in enumerate(REFUSALS)]
)
def test_a_bad_request_is_told_what_is_wrong_and_harms_nobody(
    run: Run, tmp_path: Path, edit: Callable[[Any], None], code: str, sentence: str
) -> None:
    message = ask()
    edit(message)

    async def body(stub: Stub, *_: Any) -> Any:
        mates = [asyncio.ensure_future(stub.ModelInfer(ask())) for _ in range(3)]  # they may share its batch
        error = await error_of(stub.ModelInfer(message))
        return error, [value(await mate) for mate in mates]

    error, answers = with_gateway(run, tmp_path, body)

    assert error.code().name == code
    assert sentence in error.details()
    assert error.details().startswith("[request id: <id_unknown>] ")
    assert answers == [[13.0]] * 3


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


def test_every_other_rpc_says_that_it_is_not_offered(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, *_: Any) -> Any:
        calls = {
            "RepositoryModelLoad": stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest()),
            "RepositoryModelUnload": stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest()),
            "SystemSharedMemoryStatus": stub.SystemSharedMemoryStatus(service_pb2.SystemSharedMemoryStatusRequest()),
            "CudaSharedMemoryRegister": stub.CudaSharedMemoryRegister(service_pb2.CudaSharedMemoryRegisterRequest()),
        }
        return {name: await error_of(call) for name, call in calls.items()}

    errors = with_gateway(run, tmp_path, body)

    assert {error.code() for error in errors.values()} == {grpc.StatusCode.UNIMPLEMENTED}
    assert errors["RepositoryModelLoad"].details() == "RepositoryModelLoad is not offered by this server yet"
    assert "Client shared memory is disabled" in errors["CudaSharedMemoryRegister"].details()


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


def test_a_warming_version_is_not_at_ready_state(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, gateway: Gateway, replica: FakeReplica) -> Any:
        second = replica.registration
        second.spec.version, second.replica_id, second.state = "2", "other", control_pb2.REPLICA_STATE_WARMING
        gateway.models.apply(control_pb2.Snapshot(replicas=[replica.registration, second]))
        return await error_of(stub.ModelInfer(ask(version="2")))

    error = with_gateway(run, tmp_path, body)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "Request for unknown model: 'echo' version 2 is not at ready state" in error.details()


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
