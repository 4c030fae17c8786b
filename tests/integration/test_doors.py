"""The doors of gateway, control and replica, all of them real: who gets in where, with which certificate or token."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import grpc
import pytest
import tritonclient.grpc as triton
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.certificates import Authority
from tests.load import w1
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace import config, doors
from headrace.channel import REFUSALS, connect
from headrace.client import ScoringClient, SyncScoringClient, request
from headrace.cluster import Cluster
from headrace.config import ModelSettings, Permission, Settings
from headrace.control.server import ControlServer
from headrace.credentials import NOBODY, ClientCredentials
from headrace.errors import InvalidInference, NotPermitted, StartupError, Unauthenticated
from headrace.gateway.link import EXECUTE, ReplicaLink
from headrace.gateway.server import Gateway
from headrace.gateway.snapshot import SnapshotFollower
from headrace.keda import externalscaler_pb2, externalscaler_pb2_grpc
from headrace.rpc.channel import Channel
from headrace.rpc.messages import STATUS
from headrace.rpc.server import Server
from headrace.serving import weights
from headrace.serving.deploy import ReplicaCheck
from headrace.serving.registration import RegistrationLoop
from headrace.serving.replica import ReplicaServer
from headrace.telemetry import pages, reading
from headrace.v1 import (
    control_pb2,
    control_pb2_grpc,
    experiments_pb2,
    experiments_pb2_grpc,
    replica_pb2,
    replica_pb2_grpc,
    risk_pb2,
    risk_pb2_grpc,
)

Run = Callable[..., Any]
PERMISSIONS = get_args(Permission)
FREE = {"gateway__port": 0, "gateway__metrics_port": 0, "control__port": 0, "control__ledger": ":memory:"}
OURS = "spiffe://headrace.test/"
PAYMENT = {
    "event_id": "p",
    "ts": "2026-03-01T12:00:00Z",
    "card_id": "c",
    "merchant_id": "m",
    "currency": "EUR",
    "mcc": 5411,
    "country": "FR",
    "channel": "chip",
    "amount": 1.0,
}


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def bearing(folder: Path, token: str, authorities: Path | None = None) -> ClientCredentials:
    path = folder / f"{token}.token"
    path.write_text(f"{token}\n")
    return ClientCredentials(authorities=authorities, token_file=path)


@dataclass
class Running:
    """The three ports, and who is known there: `token-of-PERMISSION` has just that one."""

    gateway: Gateway
    control: ControlServer
    replica: ReplicaServer
    authorities: Path | None

    def connect(self, port: int, credentials: ClientCredentials) -> aio.Channel:
        return connect(f"127.0.0.1:{port}", credentials)


def settings(folder: Path, authority: Authority | None, **flags: Any) -> Settings:
    callers: list[dict[str, Any]] = [
        {"name": f"has-{permission}", "token_sha256": digest(f"token-of-{permission}"), "may": [permission]}
        for permission in PERMISSIONS
    ]
    if authority is not None:
        own = authority.issue("own", f"{OURS}own")
        callers.append({"name": "own", "certificate": f"{OURS}*", "may": ["gateway", "replica"]})
        callers.append({"name": "checkout", "certificate": "spiffe://pay.test/checkout", "may": ["infer"]})
        flags |= {f"tls__{field}": getattr(own, field) for field in ("certificate", "key")}
        flags["tls__authorities"] = authority.path
    else:
        callers.append({"name": "own", "token_sha256": digest("own"), "may": ["gateway", "replica"]})
        flags["access__token_file"] = bearing(folder, "own").token_file
    flags = FREE | {"access__mode": "closed", "access__callers": callers, "telemetry__trace_dir": folder} | flags
    return config.load(None, {}, **flags)


@contextlib.asynccontextmanager
async def running(root: Path, chosen: Settings) -> AsyncIterator[Running]:
    model = weights.read(root / "benchmarks" / "repository" / "w1-encoder" / "1")
    async with ControlServer(chosen) as control:
        address = f"127.0.0.1:{control.port}"
        replica = ReplicaServer(model, chosen.replica, ModelSettings(), address, doors.of(chosen))
        try:
            await replica.start("127.0.0.1")
            async with Gateway(chosen, address) as gateway:
                await gateway.wait_ready(20)
                yield Running(gateway, control, replica, chosen.tls.authorities)
        finally:
            await replica.stop()


async def code_of(asking: Awaitable[Any]) -> str:
    try:
        await asking
    except aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def _first(call: Any) -> None:
    try:
        await call.read()
        if not call.done():
            return
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            raise aio.AioRpcError(code, aio.Metadata(), aio.Metadata())
    finally:
        call.cancel()


async def streamed(address: str, who: ClientCredentials, batch: replica_pb2.PackedBatch) -> str:
    """What becomes of a batch in a stream as gateways keep it."""
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def tell(code: str) -> None:
        if not told.done():
            told.set_result(code)

    channel = Channel(address, who)
    stream = await channel.stream(
        EXECUTE,
        lambda message: tell(STATUS[replica_pb2.PackedAnswer.FromString(message).code].name),
        lambda code, _: tell(code.name),
    )
    stream.send(batch.SerializeToString())
    code = await told
    await channel.close()
    return code


def registration(replica_id: str = "stranger") -> control_pb2.Registration:
    spec = control_pb2.ModelSpec(name="theirs", version="1", digest="d")
    return control_pb2.Registration(replica_id=replica_id, endpoint="127.0.0.1:1", spec=spec)


async def asked(on: Running, who: ClientCredentials, root: Path) -> dict[str, str]:
    """Every call that needs a permission, and what becomes of it."""
    inputs, _ = w1(root)
    async with (
        on.connect(on.gateway.port, who) as gateway,
        on.connect(on.control.port, who) as control,
        on.connect(on.replica.port, who) as replica,
    ):
        inference = service_pb2_grpc.GRPCInferenceServiceStub(gateway)
        risk = risk_pb2_grpc.RiskServiceStub(gateway)
        directory = control_pb2_grpc.ControlStub(control)
        port = replica_pb2_grpc.ReplicaStub(replica)
        batch = replica_pb2.PackedBatch(replica_id="another")
        experiments = experiments_pb2_grpc.ExperimentServiceStub(control)
        pb = experiments_pb2
        scaler = externalscaler_pb2_grpc.ExternalScalerStub(gateway)
        scaled = externalscaler_pb2.ScaledObjectRef()
        return {
            "ModelInfer": await code_of(inference.ModelInfer(request("w1-encoder", {"events": inputs[:1]}))),
            "RepositoryModelLoad": await code_of(
                inference.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="w1-encoder"))
            ),
            "RepositoryModelUnload": await code_of(
                inference.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="w1-encoder"))
            ),
            "Score": await code_of(risk.Score(risk_pb2.ScoreRequest(model="none"))),
            "ScoreBatch": await code_of(risk.ScoreBatch(risk_pb2.ScoreBatchRequest(model="none"))),
            "Register": await code_of(_first(directory.Register(iter([registration()])))),
            "Follow": await code_of(_first(directory.Follow(control_pb2.FollowRequest()))),
            "Describe": await code_of(directory.Describe(control_pb2.DescribeRequest())),
            "Load": await code_of(directory.Load(control_pb2.LoadRequest(model="w1-encoder"))),
            "Unload": await code_of(directory.Unload(control_pb2.UnloadRequest(model="w1-encoder"))),
            "Drained": await code_of(directory.Drained(control_pb2.DrainedRequest(gateway_id="g"))),
            "Deploy": await code_of(_first(directory.Deploy(iter([control_pb2.DeployReport(deployer_id="d")])))),
            "CreateExperiment": await code_of(experiments.CreateExperiment(pb.CreateExperimentRequest())),
            "GetExperiment": await code_of(experiments.GetExperiment(pb.GetExperimentRequest(id="x"))),
            "ListExperiments": await code_of(experiments.ListExperiments(pb.ListExperimentsRequest())),
            "GetReport": await code_of(experiments.GetReport(pb.GetReportRequest(id="x"))),
            "Promote": await code_of(experiments.Promote(pb.PromoteRequest(id="x"))),
            "Rollback": await code_of(experiments.Rollback(pb.RollbackRequest(id="x"))),
            "GetTraffic": await code_of(experiments.GetTraffic(pb.GetTrafficRequest())),
            "SetTraffic": await code_of(experiments.SetTraffic(pb.SetTrafficRequest(model="w1-encoder"))),
            "RecordPairs": await code_of(experiments.RecordPairs(pb.RecordPairsRequest(gateway_id="g"))),
            "RecordOutcomes": await code_of(experiments.RecordOutcomes(pb.RecordOutcomesRequest())),
            "Execute": await code_of(port.Execute(batch)),
            "ExecuteStream": await streamed(f"127.0.0.1:{on.replica.port}", who, batch),
            "IsActive": await code_of(scaler.IsActive(scaled)),
            "StreamIsActive": await code_of(_first(scaler.StreamIsActive(scaled))),
            "GetMetricSpec": await code_of(scaler.GetMetricSpec(scaled)),
            "GetMetrics": await code_of(scaler.GetMetrics(externalscaler_pb2.GetMetricsRequest())),
            "StreamMetricSpec": await code_of(_first(scaler.StreamMetricSpec(scaled))),
        }


NEEDS = {
    "ModelInfer": "infer",
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
    "Score": "infer",
    "ScoreBatch": "infer",
    "Register": "replica",
    "Follow": "gateway",
    "Describe": "read",
    "Load": "gateway",
    "Unload": "gateway",
    "Drained": "gateway",
    "Deploy": "replica",
    "CreateExperiment": "admin",
    "GetExperiment": "read",
    "ListExperiments": "read",
    "GetReport": "read",
    "Promote": "admin",
    "Rollback": "admin",
    "GetTraffic": "read",
    "SetTraffic": "admin",
    "RecordPairs": "gateway",
    "RecordOutcomes": "outcome",
    "Execute": "gateway",
    "ExecuteStream": "gateway",
    "IsActive": "read",
    "StreamIsActive": "read",
    "GetMetricSpec": "read",
    "GetMetrics": "read",
    "StreamMetricSpec": "read",
}
ADMITTED = {
    "ModelInfer": "OK",
    "RepositoryModelLoad": "UNAVAILABLE",
    "RepositoryModelUnload": "UNAVAILABLE",
    "Score": "NOT_FOUND",
    "ScoreBatch": "NOT_FOUND",
    "Register": "OK",
    "Follow": "OK",
    "Describe": "OK",
    "Load": "UNAVAILABLE",
    "Unload": "UNAVAILABLE",
    "Drained": "OK",
    "Deploy": "UNAVAILABLE",
    "CreateExperiment": "INVALID_ARGUMENT",
    "GetExperiment": "NOT_FOUND",
    "ListExperiments": "OK",
    "GetReport": "NOT_FOUND",
    "Promote": "NOT_FOUND",
    "Rollback": "NOT_FOUND",
    "GetTraffic": "NOT_FOUND",
    "SetTraffic": "OK",
    "RecordPairs": "NOT_FOUND",
    "RecordOutcomes": "OK",
    "Execute": "FAILED_PRECONDITION",
    "ExecuteStream": "FAILED_PRECONDITION",
    "IsActive": "OK",
    "StreamIsActive": "OK",
    "GetMetricSpec": "INVALID_ARGUMENT",
    "GetMetrics": "OK",
    "StreamMetricSpec": "UNIMPLEMENTED",
}
READERS = {"gateway", "replica", "admin", "read"}


def test_the_table_names_every_method_of_control_and_replica() -> None:
    modules = (control_pb2, experiments_pb2, replica_pb2, risk_pb2, externalscaler_pb2)
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]

    guarded = {"ModelInfer", "RepositoryModelLoad", "RepositoryModelUnload"}
    assert {method.name for service in services for method in service.methods} | guarded == set(NEEDS)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_every_call_is_open_to_its_permission_and_to_no_other(
    run: Run,
    tmp_path: Path,
    root: Path,
    encrypted: bool,  # noqa: FBT001
) -> None:
    authority = Authority(tmp_path) if encrypted else None
    chosen = settings(tmp_path, authority)
    trust = chosen.tls.authorities

    async def main() -> dict[str, dict[str, str]]:
        async with running(root, chosen) as on:
            known = {p: await asked(on, bearing(tmp_path, f"token-of-{p}", trust), root) for p in PERMISSIONS}
            known["a wrong token"] = await asked(on, bearing(tmp_path, "guess", trust), root)
            known["nothing"] = await asked(on, ClientCredentials(authorities=trust), root)
            return known

    table = run(main(), timeout_s=120)

    for who, found in table.items():
        has = {who, "read"} if who in READERS else {who}
        if who not in PERMISSIONS:
            assert set(found.values()) == {"UNAUTHENTICATED"}, (who, found)
            continue
        expected = {name: ADMITTED[name] if need in has else "PERMISSION_DENIED" for name, need in NEEDS.items()}
        assert found == expected, who


def test_health_metadata_and_reflection_need_no_identity(run: Run, tmp_path: Path, root: Path) -> None:
    chosen = settings(tmp_path, None)

    async def reflected(channel: aio.Channel) -> str:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        return await code_of(_first(call))

    async def main() -> set[str]:
        async with running(root, chosen) as on:
            codes = set()
            for port in (on.gateway.port, on.control.port, on.replica.port):
                async with on.connect(port, NOBODY) as channel:
                    health = health_pb2_grpc.HealthStub(channel)
                    codes.add(await code_of(health.Check(health_pb2.HealthCheckRequest())))
                    codes.add(await reflected(channel) if port != on.replica.port else "OK")
            async with on.connect(on.gateway.port, NOBODY) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                codes.add(await code_of(stub.ServerReady(service_pb2.ServerReadyRequest())))
                codes.add(await code_of(stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="w1-encoder"))))
                codes.add(await code_of(stub.RepositoryIndex(service_pb2.RepositoryIndexRequest())))
            return codes

    assert run(main()) == {"OK"}


def test_of_a_caller_who_may_not_nothing_is_kept_but_a_count(
    run: Run, tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(tmp_path, None)
    inputs, _ = w1(root)
    traced = (("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),)

    async def main() -> str:
        async with running(root, chosen) as on:
            for who in (NOBODY, NOBODY, bearing(tmp_path, "token-of-read"), bearing(tmp_path, "token-of-infer")):
                async with on.connect(on.gateway.port, who) as channel:
                    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                    message = request("w1-encoder", {"events": inputs[:1]})
                    await code_of(stub.ModelInfer(message, metadata=traced if who is NOBODY else ()))
            address = f"127.0.0.1:{on.gateway.metrics_port}"
            return (await asyncio.to_thread(pages.fetch, address, "/metrics", 5)).decode()

    with caplog.at_level(logging.INFO, "headrace.requests"):
        page = run(main())

    counted = {line for line in page.splitlines() if line.startswith("headrace_refused_callers_total")}
    assert counted == {
        'headrace_refused_callers_total{reason="Unauthenticated"} 2.0',
        'headrace_refused_callers_total{reason="NotPermitted"} 1.0',
    }
    assert not [record for record in caplog.records if record.name == "headrace.requests"]
    assert reading.find(tmp_path, "a" * 32) == []
    assert reading.latest(tmp_path) is not None


def test_nobody_keeps_a_port_busy_with_names_that_are_none(run: Run, tmp_path: Path, root: Path) -> None:
    chosen = settings(tmp_path, None)
    long = "n" * (16 << 20)

    async def main() -> set[str]:
        async with running(root, chosen) as on:
            codes = set()
            for port in (on.gateway.port, on.control.port, on.replica.port):
                async with on.connect(port, NOBODY) as channel:
                    health = health_pb2_grpc.HealthStub(channel)
                    codes.add(await code_of(health.Check(health_pb2.HealthCheckRequest(service=long))))
                    codes.add(await code_of(_first(health.Watch(health_pb2.HealthCheckRequest(service=long)))))
            async with on.connect(on.gateway.port, NOBODY) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                codes.add(await code_of(stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=long))))
            return codes

    assert run(main()) == {"RESOURCE_EXHAUSTED"}


def test_clients_score_with_certificates_and_with_tokens_over_tls(run: Run, tmp_path: Path, root: Path) -> None:
    authority = Authority(tmp_path)
    chosen = settings(tmp_path, authority)
    mine = authority.issue("checkout", "spiffe://pay.test/checkout", here=False)
    other = authority.issue("other", "spiffe://pay.test/other", here=False)
    inputs, _ = w1(root)

    def by_triton(address: str) -> str:
        files = {"root_certificates": authority.path, "private_key": mine.key, "certificate_chain": mine.certificate}
        client = triton.InferenceServerClient(address, ssl=True, **{name: str(path) for name, path in files.items()})
        tensor = triton.InferInput("events", [1, 32, 16], "FP32")
        tensor.set_data_from_numpy(inputs[:1])
        name = client.infer("w1-encoder", [tensor]).get_response().model_name
        client.close()
        return name

    def by_ours(address: str) -> list[type[Exception]]:
        refused = []
        for certificate in (mine, other):
            shown = ClientCredentials(authority.path, certificate.certificate, certificate.key)
            with SyncScoringClient(address, model="w1-encoder", credentials=shown) as client:
                try:
                    client.score(PAYMENT)
                except Exception as error:  # noqa: BLE001  its type is what is asserted
                    refused.append(type(error))
        return refused

    async def main() -> tuple[Any, ...]:
        async with running(root, chosen) as on:
            address = f"127.0.0.1:{on.gateway.port}"
            triton_says = await asyncio.to_thread(by_triton, address)
            refused = await asyncio.to_thread(by_ours, address)
            token = bearing(tmp_path, "token-of-infer", authority.path)
            admin = bearing(tmp_path, "token-of-admin", authority.path)
            codes = []
            for shown in (token, admin):
                async with connect(address, shown) as channel:
                    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                    message = request("w1-encoder", {"events": inputs[:1]})
                    codes.append(await code_of(stub.ModelInfer(message)))
            return triton_says, refused, codes

    triton_says, refused, codes = run(main())

    assert triton_says == "w1-encoder"
    assert refused == [InvalidInference, Unauthenticated]  # the model knows no payments; the other is not known
    assert codes == ["OK", "PERMISSION_DENIED"]


def test_our_clients_raise_what_a_door_says(run: Run, tmp_path: Path, root: Path) -> None:
    chosen = settings(tmp_path, None)

    async def main() -> None:
        async with running(root, chosen) as on:
            address = f"127.0.0.1:{on.gateway.port}"
            async with ScoringClient(address, timeout_s=5) as nobody:
                with pytest.raises(Unauthenticated):
                    await nobody.score(PAYMENT)
            async with ScoringClient(address, credentials=bearing(tmp_path, "token-of-read"), timeout_s=5) as reader:
                with pytest.raises(NotPermitted, match="infer"):
                    await reader.score(PAYMENT)

    run(main())


def test_a_strangers_replica_is_refused_for_good_and_a_strangers_gateway_hears_nothing(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(tmp_path, None)
    snapshots: list[control_pb2.Snapshot] = []

    async def main() -> None:
        async with ControlServer(chosen) as control:
            address = f"127.0.0.1:{control.port}"
            for shown in (NOBODY, bearing(tmp_path, "token-of-gateway")):
                loop = RegistrationLoop(address, registration(), control_pb2.Load, shown)
                loop.start()
                with pytest.raises(StartupError, match="does not let this replica in"):
                    await loop.wait_registered()
                await loop.close()
            follower = SnapshotFollower(address, "g", snapshots.append, bearing(tmp_path, "token-of-replica"))
            following = asyncio.create_task(follower.run())
            while "does not let us in" not in caplog.text:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    run(main())

    assert not snapshots
    assert caplog.text.count("does not let us in") == 1


def test_a_replica_may_serve_the_models_of_its_caller_and_is_nobody_elses(run: Run, tmp_path: Path) -> None:
    chosen = settings(tmp_path, None)
    limited = config.Caller(name="limited", token_sha256=digest("limited"), may=("replica",), models=("other", "more"))
    callers = (*chosen.access.callers, limited)
    chosen = chosen.model_copy(update={"access": chosen.access.model_copy(update={"callers": callers})})

    async def main() -> list[str]:
        async with ControlServer(chosen) as control:
            address = f"127.0.0.1:{control.port}"

            async def register(who: str, entry: control_pb2.Registration) -> str:
                async with connect(address, bearing(tmp_path, who)) as channel:
                    return await code_of(_first(control_pb2_grpc.ControlStub(channel).Register(iter([entry]))))

            theirs, gone, others = registration("r"), registration("r"), registration("o")
            gone.state = control_pb2.REPLICA_STATE_GONE
            others.spec.name = "other"
            asked = [("own", theirs), ("token-of-replica", theirs), ("token-of-replica", gone)]
            asked += [("limited", registration("l")), ("limited", others), ("own", theirs)]
            return [await register(who, entry) for who, entry in asked]

    denied = "PERMISSION_DENIED"
    assert run(main()) == ["OK", denied, denied, denied, "OK", "OK"]


def test_a_registered_replica_serves_on_when_control_comes_back_without_knowing_it(
    run: Run, tmp_path: Path, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    knows = settings(tmp_path, None, control__port=free_port)
    strange = knows.access.model_copy(update={"callers": knows.access.callers[:-1]})
    forgets = knows.model_copy(update={"access": strange})

    async def main() -> None:
        shown = doors.credentials(knows)
        loop = RegistrationLoop(f"127.0.0.1:{free_port}", registration("mine"), control_pb2.Load, shown)
        async with ControlServer(knows):
            loop.start()
            await loop.wait_registered()
        async with ControlServer(forgets):
            while "does not let this replica in any more" not in caplog.text:
                await asyncio.sleep(0.01)
            await loop.wait_registered()
            loop.assert_alive(0.0)
        async with ControlServer(knows) as control, connect(f"127.0.0.1:{control.port}", shown) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            while not (await stub.Describe(control_pb2.DescribeRequest())).replicas:
                await asyncio.sleep(0.05)
        await loop.close()

    run(main())


def test_a_token_goes_with_batches_and_not_with_questions_about_health(run: Run, tmp_path: Path) -> None:
    """The endpoint is whatever a replica has registered."""
    told: list[tuple[str, str]] = []
    shown = bearing(tmp_path, "secret")
    serving_now = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()

    async def check(_: bytes, rpc: Any) -> bytes:
        told.append(("health", dict(rpc.invocation_metadata()).get("authorization", "")))
        return serving_now

    async def execute(_: Any, rpc: Any) -> AsyncIterator[bytes]:
        told.append(("batch", dict(rpc.invocation_metadata()).get("authorization", "")))
        yield replica_pb2.PackedAnswer(batch_id=7).SerializeToString()

    async def main() -> None:
        chosen = config.load(None, {}, telemetry__trace_dir=tmp_path, **FREE)
        server = Server()
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        async with ControlServer(chosen) as control:
            checked = {"Check": grpc.unary_unary_rpc_method_handler(check)}
            executed = {"ExecuteStream": grpc.stream_stream_rpc_method_handler(execute)}
            server.add_generic_rpc_handlers(
                (
                    grpc.method_handlers_generic_handler("grpc.health.v1.Health", checked),
                    grpc.method_handlers_generic_handler("headrace.v1.Replica", executed),
                )
            )
            await server.start()
            entry = registration("theirs-1-77-x")
            entry.endpoint = address
            link = ReplicaLink(entry, shown)
            assert await link.answers()
            assert (await link.execute(replica_pb2.PackedBatch(batch_id=7), 5.0)).batch_id == 7
            await link.close()
            loop = RegistrationLoop(f"127.0.0.1:{control.port}", entry, control_pb2.Load, shown)
            loop.start()
            await loop.wait_registered()
            assert await ReplicaCheck(f"127.0.0.1:{control.port}", "theirs-1", shown).passes(77)
            await loop.close()
            await server.stop(0.2)

    run(main())

    assert told == [("health", ""), ("batch", "Bearer secret"), ("health", "")]


def test_a_gateway_that_replicas_do_not_know_serves_nothing_and_says_why(
    run: Run, tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Control knows it; the replica's own settings do not."""
    chosen = settings(tmp_path, None)
    narrow = chosen.access.model_copy(update={"callers": chosen.access.callers[:1]})
    inputs, _ = w1(root)

    async def main() -> str:
        model = weights.read(root / "benchmarks" / "repository" / "w1-encoder" / "1")
        behind = doors.of(chosen.model_copy(update={"access": narrow}))
        async with ControlServer(chosen) as control:
            address = f"127.0.0.1:{control.port}"
            replica = ReplicaServer(model, chosen.replica, ModelSettings(), address, behind)
            await replica.start("127.0.0.1")
            async with Gateway(chosen, address) as gateway:
                await gateway.wait_ready(20)
                async with connect(f"127.0.0.1:{gateway.port}", bearing(tmp_path, "token-of-infer")) as channel:
                    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                    message = request("w1-encoder", {"events": inputs[:1]})
                    code = await code_of(stub.ModelInfer(message, timeout=2))
            await replica.stop()
        return code

    assert run(main()) in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    assert "does not let this gateway in" in caplog.text


def scored(arguments: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_a_closed_cluster_of_processes_answers_whom_it_knows(
    run: Run,
    tmp_path: Path,
    encrypted: bool,  # noqa: FBT001
) -> None:
    """Its own processes know each other by themselves: the settings name a caller and nothing else."""
    callers = [{"name": "checkout", "token_sha256": digest("a-token"), "may": ["infer"]}]
    flags: dict[str, Any] = FREE | {"access__mode": "closed", "access__callers": callers}
    trust: list[str] = []
    authorities = None
    if encrypted:
        authority = Authority(tmp_path)
        issued = authority.issue("all")
        flags |= {"tls__certificate": issued.certificate, "tls__key": issued.key, "tls__authorities": authority.path}
        authorities, trust = authority.path, ["--tls-authorities", str(authority.path)]
    chosen = config.load(
        None,
        {},
        engine="local",
        only=["fraud-tx"],
        telemetry__trace_dir=tmp_path / "traces",
        telemetry__log_level="ERROR",
        **flags,
    )
    lines = tmp_path / "payments.jsonl"
    lines.write_text(json.dumps({"payment": PAYMENT}) + "\n")
    known = bearing(tmp_path, "a-token", authorities)

    async def main() -> tuple[Any, ...]:
        async with Cluster(chosen) as cluster:
            address = ["--address", cluster.address, *trust]
            token = ["--token-file", str(known.token_file)]
            answered = await asyncio.to_thread(scored, ["score", str(lines), "--json", *address, *token])
            refused = await asyncio.to_thread(scored, ["score", str(lines), "--json", *address])
            listed = await asyncio.to_thread(scored, ["models", *address])
            mode = oct((cluster.config_file.parent / "token").stat().st_mode & 0o777)
            written = cluster.config_file.read_text()
            readable = [path for path in tmp_path.joinpath("traces").rglob("*") if path.stat().st_mode & 0o077]
            secret = (cluster.config_file.parent / "token").read_text()
            async with connect(cluster.control_address, known) as channel:
                stub = control_pb2_grpc.ControlStub(channel)
                code = await code_of(stub.Describe(control_pb2.DescribeRequest()))
            return answered, refused, listed, mode, secret in written, code, readable

    answered, refused, listed, mode, told, code, readable = run(main(), timeout_s=120)

    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout)["model"] == "fraud-tx"
    assert refused.returncode == 1
    assert "UNAUTHENTICATED" in refused.stderr
    assert "fraud-tx" in listed.stdout
    assert (mode, told) == ("0o600", False)
    assert code == "PERMISSION_DENIED"
    assert readable == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tls-authorities", "NOWHERE"], "No such file"),
        (["--tls-authorities", "GARBAGE"], "no certificates of authorities"),
        (["--tls-certificate", "GARBAGE"], "a certificate and its key go together"),
        (["--token-file", "EMPTY"], "expected a token"),
        (["--token-file", "GARBAGE", "--address", "10.255.255.1:8001"], "never in plain text"),
    ],
)
def test_what_a_command_cannot_use_is_one_line(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    files = {"NOWHERE": tmp_path / "nowhere", "GARBAGE": tmp_path / "garbage", "EMPTY": tmp_path / "empty"}
    files["GARBAGE"].write_text("x")
    files["EMPTY"].write_text("\n")

    done = scored(["models", *(str(files.get(argument, argument)) for argument in arguments)])

    assert done.returncode == 78
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["gateway", "control", "serve"])
def test_a_process_whose_files_cannot_be_used_does_not_start(tmp_path: Path, command: str) -> None:
    authority = Authority(tmp_path)
    one, another = authority.issue("one"), authority.issue("another")
    path = tmp_path / "headrace.yaml"
    path.write_text(json.dumps({"tls": {"certificate": str(one.certificate), "key": str(another.key)}}))

    done = scored([command, "--config", str(path), "--port", "0"])

    assert done.returncode == 78
    assert "no certificate to the key" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_ledger_is_for_its_own_user(tmp_path: Path) -> None:
    path = tmp_path / "headrace.yaml"
    path.write_text(json.dumps({"control": {"ledger": str(tmp_path / "kept" / "ledger.db")}}))
    command = [sys.executable, "-m", "headrace", "control", "--config", str(path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, umask=0o022) as control:
        assert control.stderr is not None
        assert any("serves on port" in line for line in control.stderr)
        modes = {found.name: oct(found.stat().st_mode & 0o077) for found in tmp_path.joinpath("kept").iterdir()}
        control.terminate()
        control.stderr.read()

    assert "ledger.db" in modes
    assert set(modes.values()) == {"0o0"}


def test_refusals_are_what_a_door_says() -> None:
    assert {code.name for code in REFUSALS} == {error.code for error in (Unauthenticated, NotPermitted)}
