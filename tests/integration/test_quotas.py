"""Quotas and lists of models at a real port: each caller has its own, and is told which it ran into."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from prometheus_client.parser import text_string_to_metric_families
from tests.callers import bearing, caller, closed, outcome, pushback
from tests.payments import payment
from tests.rpc import until
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.client import request
from headrace.gateway.envelope import MAX_PARTS
from headrace.gateway.server import Gateway
from headrace.rpc import frames
from headrace.rpc.fields import literal
from headrace.telemetry import pages, reading
from headrace.testing.gateway import running_gateway
from headrace.testing.payments import FakePaymentReplica
from headrace.testing.replica import FakeReplica
from headrace.v1 import risk_pb2, risk_pb2_grpc

Run = Callable[..., Any]
UNAVAILABLE, EXHAUSTED = "UNAVAILABLE", "RESOURCE_EXHAUSTED"
SLOWLY = {"requests_per_second": 0.01, "burst_s": 200}
"""Two at once, and hardly ever another."""


def question(rows: int = 1) -> service_pb2.ModelInferRequest:
    columns = {"events": np.zeros((rows, 3, 2), np.float32), "key": np.zeros((rows, 1), np.int64)}
    return request("echo", columns)


@contextlib.asynccontextmanager
async def running(
    folder: Path, *replicas: FakeReplica, **flags: Any
) -> AsyncIterator[tuple[Gateway, service_pb2_grpc.GRPCInferenceServiceStub, aio.Channel]]:
    async with contextlib.AsyncExitStack() as stack:
        for replica in replicas:
            await stack.enter_async_context(replica)
        gateway, _ = await stack.enter_async_context(running_gateway(folder, replicas, **flags))
        channel = await stack.enter_async_context(aio.insecure_channel(f"127.0.0.1:{gateway.port}"))
        yield gateway, service_pb2_grpc.GRPCInferenceServiceStub(channel), channel


async def figures(gateway: Gateway, name: str) -> dict[tuple[str, ...], float]:
    page = await asyncio.to_thread(pages.fetch, f"127.0.0.1:{gateway.metrics_port}", "/metrics", 5)
    families = text_string_to_metric_families(page.decode())
    return {tuple(s.labels.values()): s.value for family in families for s in family.samples if s.name == name}


@pytest.mark.parametrize(("status_codes", "code"), [("triton", UNAVAILABLE), ("grpc", EXHAUSTED)])
def test_who_asks_more_than_its_quota_is_told_which_and_when_more_is_due(
    run: Run, tmp_path: Path, status_codes: str, code: str
) -> None:
    flags = closed(tmp_path, caller("busy", quota=SLOWLY), caller("calm"))

    async def main() -> tuple[list[tuple[str, str]], str, tuple[str, str], Any, int]:
        replica = FakeReplica()
        async with running(tmp_path, replica, gateway__status_codes=status_codes, **flags) as (gateway, stub, _):
            told = [await outcome(stub.ModelInfer(question(), metadata=bearing("busy"))) for _ in range(3)]
            with pytest.raises(aio.AioRpcError) as caught:
                await stub.ModelInfer(question(), metadata=bearing("busy"))
            calm = await outcome(stub.ModelInfer(question(), metadata=bearing("calm")))
            counted = await figures(gateway, "headrace_quota_refused_total")
            return told, pushback(caught.value), calm, counted, sum(batch.rows for batch in replica.batches)

    told, retry_ms, calm, counted, computed = run(main())

    refused = (code, "this caller's quota is used up: 0.01 requests a second")
    assert told == [("OK", ""), ("OK", ""), refused]
    assert 50_000 < int(retry_ms) <= 60_000
    assert calm == ("OK", "")
    assert counted == {("busy", "requests"): 2.0}
    assert computed == 3


def test_on_our_own_services_a_quota_is_resource_exhausted_and_the_same_one(run: Run, tmp_path: Path) -> None:
    flags = closed(tmp_path, caller("busy", quota=SLOWLY))

    async def main() -> list[str]:
        async with running(tmp_path, FakePaymentReplica(), **flags) as (_, stub, channel):
            risk = risk_pb2_grpc.RiskServiceStub(channel)
            score = risk_pb2.ScoreRequest(payment=payment())
            batch = risk_pb2.ScoreBatchRequest(payments=[payment()])
            codes = [await outcome(risk.Score(score, metadata=bearing("busy")))]
            codes.append(await outcome(risk.ScoreBatch(batch, metadata=bearing("busy"))))
            codes.append(await outcome(risk.Score(score, metadata=bearing("busy"))))
            codes.append(await outcome(risk.ScoreBatch(batch, metadata=bearing("busy"))))
            codes.append(await outcome(stub.ModelInfer(question(), metadata=bearing("busy"))))
            return [code for code, _ in codes]

    assert run(main()) == ["OK", "OK", EXHAUSTED, EXHAUSTED, UNAVAILABLE]


def test_no_more_requests_run_at_a_time_and_whoever_goes_makes_room(run: Run, tmp_path: Path) -> None:
    flags = closed(tmp_path, caller("wide", quota={"max_in_flight": 2}))

    async def main() -> tuple[Any, ...]:
        replica = FakeReplica()
        async with running(tmp_path, replica, **flags) as (gateway, stub, _):
            replica.hanging.set()
            held = [stub.ModelInfer(question(), metadata=bearing("wide"), timeout=30) for _ in range(2)]
            await until(lambda: replica.batches)
            in_flight = await figures(gateway, "headrace_quota_in_flight")
            third = await outcome(stub.ModelInfer(question(), metadata=bearing("wide")))
            held[0].cancel()
            await until(lambda: gateway._entry.quotas.meters["wide"].in_flight == 1)
            fourth = asyncio.ensure_future(outcome(stub.ModelInfer(question(), metadata=bearing("wide"), timeout=30)))
            replica.hanging.clear()
            answered = await outcome(held[1]), await fourth
            await until(lambda: gateway._entry.quotas.meters["wide"].in_flight == 0)
            return in_flight, third, answered

    in_flight, third, answered = run(main())

    assert in_flight == {("wide",): 2.0}
    assert third == (UNAVAILABLE, "this caller's quota is used up: 2 requests at a time")
    assert answered == (("OK", ""), ("OK", ""))


@pytest.mark.parametrize("quota", [{"rows_per_second": 1}, {"tokens_per_second": 3}], ids=["rows", "tokens"])
def test_a_large_request_is_paid_for_by_those_after_it(run: Run, tmp_path: Path, quota: dict[str, float]) -> None:
    flags = closed(tmp_path, caller("heavy", quota=quota))
    unit = next(iter(quota)).partition("_")[0]

    async def main() -> tuple[tuple[str, str], tuple[str, str], str]:
        async with running(tmp_path, FakeReplica(), **flags) as (_, stub, _channel):
            first = await outcome(stub.ModelInfer(question(rows=20), metadata=bearing("heavy")))
            with pytest.raises(aio.AioRpcError) as caught:
                await stub.ModelInfer(question(), metadata=bearing("heavy"))
            return first, (caught.value.code().name, str(caught.value.details())), pushback(caught.value)

    first, second, retry_ms = run(main())

    assert first == ("OK", "")
    assert second[0] == UNAVAILABLE
    assert f"{unit} a second" in second[1]
    assert 15_000 < int(retry_ms) <= 20_000


def test_callers_on_this_machine_share_the_default(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[list[str], Any]:
        async with running(tmp_path, FakeReplica(), access__quota=SLOWLY) as (gateway, stub, _):
            codes = [(await outcome(stub.ModelInfer(question())))[0] for _ in range(3)]
            live = await outcome(stub.ServerLive(service_pb2.ServerLiveRequest()))
            return [*codes, live[0]], await figures(gateway, "headrace_quota_refused_total")

    codes, counted = run(main())

    assert codes == ["OK", "OK", UNAVAILABLE, "OK"]
    assert counted == {("local", "requests"): 1.0}


def test_of_who_asks_too_much_or_may_not_ask_nothing_is_kept_but_a_count(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a stream too, whose requests are metered one by one: a flood would fill traces and log."""
    flags = closed(tmp_path, caller("busy", quota=SLOWLY, infer_models=["echo"]))

    async def stream(*requests: service_pb2.ModelInferRequest) -> AsyncIterator[service_pb2.ModelInferRequest]:
        for each in requests:
            yield each

    async def main() -> tuple[list[str], Any, Any, int]:
        async with running(tmp_path, FakeReplica(), other_model(), **flags) as (gateway, stub, _):
            asked = [question(), request("secret-model", {}), question(), question()]
            call = stub.ModelStreamInfer(stream(*asked), metadata=bearing("busy"))
            told = [answer.error_message async for answer in call]
            quotas = await figures(gateway, "headrace_quota_refused_total")
            refused = await figures(gateway, "headrace_refused_callers_total")
            await gateway.stop()
            return told, quotas, refused, len(reading.slowest(tmp_path, 10))

    with caplog.at_level(logging.INFO, "headrace.requests"):
        told, quotas, refused, traces = run(main())

    assert told[0] == ""
    assert "this caller may not ask the model 'secret-model'" in told[1]
    assert all("this caller's quota is used up" in sentence for sentence in told[2:])
    assert quotas == {("busy", "requests"): 2.0}
    assert refused["NotPermitted",] == 1.0
    assert traces == 1
    assert not [record for record in caplog.records if record.name == "headrace.requests"]


def test_a_refused_message_is_not_read(run: Run, tmp_path: Path) -> None:
    """Of a call beyond its quota the fields are enough: what it would send never comes."""
    block = b"\x83\x86" + literal(b":path", b"/inference.GRPCInferenceService/ModelInfer")
    opening = frames.fields(1, block + literal(b"content-type", b"application/grpc"))

    async def main() -> bytes:
        async with running(tmp_path, FakeReplica(), access__quota=SLOWLY) as (gateway, stub, _):
            for _ in range(2):
                await stub.ModelInfer(question())
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(frames.PREFACE + frames.settings({}) + opening)
            told = await asyncio.wait_for(reader.readuntil(b"0.01 requests"), 5)
            writer.close()
            return told

    assert b"grpc-message" in run(main())


# Models ---------------------------------------------------------------------------------------------------------------


def other_model() -> FakeReplica:
    spec = FakeReplica().spec
    named = type(spec)()
    named.CopyFrom(spec)
    named.name = "secret-model"
    return FakeReplica(named)


def told_of_models(stub: Any, name: str, **options: Any) -> dict[str, Any]:
    pb = service_pb2
    return {
        "ModelInfer": stub.ModelInfer(request(name, {}), **options),
        "ModelReady": stub.ModelReady(pb.ModelReadyRequest(name=name), **options),
        "ModelMetadata": stub.ModelMetadata(pb.ModelMetadataRequest(name=name), **options),
        "ModelConfig": stub.ModelConfig(pb.ModelConfigRequest(name=name), **options),
        "ModelStatistics": stub.ModelStatistics(pb.ModelStatisticsRequest(name=name), **options),
        "TraceSetting": stub.TraceSetting(pb.TraceSettingRequest(model_name=name), **options),
    }


def test_a_model_that_a_caller_may_not_ask_is_as_one_that_is_not_there(run: Run, tmp_path: Path) -> None:
    flags = closed(tmp_path, caller("narrow", infer_models=["echo", "fraud-*"]))

    async def main() -> dict[str, dict[str, tuple[str, str]]]:
        async with running(tmp_path, FakeReplica(), other_model(), **flags) as (_, stub, channel):
            options = {"metadata": bearing("narrow")}
            found = {}
            for name in ("secret-model", "no-such-model"):
                calls = told_of_models(stub, name, **options)
                found[name] = {rpc: await outcome(call) for rpc, call in calls.items()}
            risk = risk_pb2_grpc.RiskServiceStub(channel)
            for name, told in found.items():
                scored = risk.Score(risk_pb2.ScoreRequest(model=name, payment=payment()), **options)
                told["Score"] = await outcome(scored)
            return found

    found = run(main())

    for name, told in found.items():
        for rpc, (code, sentence) in told.items():
            assert code == "PERMISSION_DENIED", (name, rpc)
            assert sentence.removeprefix("[request id: <id_unknown>] ") == f"this caller may not ask the model '{name}'"


def test_a_caller_is_told_of_its_own_models_and_a_reader_of_all(run: Run, tmp_path: Path) -> None:
    narrow = {"infer_models": ["echo"]}
    flags = closed(tmp_path, caller("narrow", **narrow), caller("reader", "infer", "read", **narrow), caller("wide"))

    async def listed(stub: Any, who: str) -> tuple[set[str], set[str]]:
        index = await stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), metadata=bearing(who))
        statistics = await stub.ModelStatistics(service_pb2.ModelStatisticsRequest(), metadata=bearing(who))
        return {model.name for model in index.models}, {one.name for one in statistics.model_stats}

    async def main() -> tuple[Any, Any, Any]:
        async with running(tmp_path, FakeReplica(), other_model(), **flags) as (_, stub, _channel):
            seen = {who: await listed(stub, who) for who in ("narrow", "reader", "wide", "")}
            asked = await outcome(stub.ModelInfer(question(), metadata=bearing("narrow")))
            reader = await outcome(stub.ModelInfer(request("secret-model", {}), metadata=bearing("reader")))
            return seen, asked, reader

    seen, asked, reader = run(main())

    both = {"echo", "secret-model"}
    assert seen == {"narrow": ({"echo"}, {"echo"}), **dict.fromkeys(("reader", "wide", ""), (both, both))}
    assert asked == ("OK", "")
    assert reader[0] == "PERMISSION_DENIED", "who may read may be told of it, and still not ask it"


def test_where_metadata_is_for_the_known_a_stranger_is_told_of_no_model(run: Run, tmp_path: Path) -> None:
    flags = closed(tmp_path, caller("wide")) | {"access__metadata": "known"}
    pb = service_pb2

    async def main() -> tuple[dict[str, str], dict[str, str]]:
        async with running(tmp_path, FakeReplica(), **flags) as (_, stub, _channel):
            found = []
            for who in ("", "wide"):
                options = {"metadata": bearing(who)}
                calls = told_of_models(stub, "echo", **options)
                calls["RepositoryIndex"] = stub.RepositoryIndex(pb.RepositoryIndexRequest(), **options)
                calls["ServerLive"] = stub.ServerLive(pb.ServerLiveRequest(), **options)
                calls["ServerReady"] = stub.ServerReady(pb.ServerReadyRequest(), **options)
                calls["ServerMetadata"] = stub.ServerMetadata(pb.ServerMetadataRequest(), **options)
                found.append({rpc: (await outcome(call))[0] for rpc, call in calls.items()})
            return found[0], found[1]

    stranger, known = run(main())

    open_to_all = {"ServerLive": "OK", "ServerReady": "OK", "ServerMetadata": "OK"}
    assert stranger == {rpc: open_to_all.get(rpc, "UNAUTHENTICATED") for rpc in stranger}
    assert known == {rpc: "INVALID_ARGUMENT" if rpc == "ModelInfer" else "OK" for rpc in known}


def test_loading_a_model_is_the_admins(run: Run, tmp_path: Path) -> None:
    flags = closed(tmp_path, caller("asks"), caller("reads", "read"), caller("admin", "admin"))

    async def main() -> dict[str, set[str]]:
        async with running(tmp_path, FakeReplica(), **flags) as (_, stub, _channel):
            found: dict[str, set[str]] = {}
            for who in ("", "asks", "reads", "admin"):
                options = {"metadata": bearing(who)}
                load = stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="x"), **options)
                unload = stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="x"), **options)
                found[who] = {(await outcome(load))[0], (await outcome(unload))[0]}
            return found

    found = run(main())

    assert found.pop("admin").isdisjoint({"UNAUTHENTICATED", "PERMISSION_DENIED"})
    assert found == {"": {"UNAUTHENTICATED"}, "asks": {"PERMISSION_DENIED"}, "reads": {"PERMISSION_DENIED"}}


def test_a_message_larger_than_the_setting_is_refused_and_counted(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[tuple[str, str], Any]:
        async with running(tmp_path, FakeReplica(), gateway__max_message_bytes=4096) as (gateway, stub, _):
            large = question()
            large.raw_input_contents[0] = bytes(5000)
            told = await outcome(stub.ModelInfer(large))
            return told, await figures(gateway, "headrace_limited_total")

    told, counted = run(main())

    assert told[0] == grpc.StatusCode.RESOURCE_EXHAUSTED.name
    assert "larger than max" in told[1]
    assert counted["message",] == 1.0


def test_a_message_of_more_tensors_than_anybody_needs_is_refused_before_it_is_parsed(run: Run, tmp_path: Path) -> None:
    many = b"\x2a\x00" * (MAX_PARTS + 1)

    async def main() -> tuple[tuple[str, str], Any]:
        async with running(tmp_path, FakeReplica()) as (gateway, _, channel):
            told = await outcome(channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(many))
            return told, await figures(gateway, "headrace_limited_total")

    told, counted = run(main())

    assert told == ("RESOURCE_EXHAUSTED", f"the message has more than {MAX_PARTS} tensors, events and other parts")
    assert counted["message",] == 1.0
