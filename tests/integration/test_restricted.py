"""Triton's restricted protocol groups at a real port: all of its RPCs and health's, with its code and its sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from tests.callers import outcome
from tests.payments import payment
from tritonclient.grpc import service_pb2
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from headrace import config
from headrace.config import Group
from headrace.errors import StartupError
from headrace.gateway.restricted import paths
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica
from headrace.v1 import risk_pb2, risk_pb2_grpc

Run = Callable[..., Any]
OIP = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
GROUPS = get_args(Group)
METHODS = {f"/{service.full_name}/{method.name}": method for service in (OIP, HEALTH) for method in service.methods}
SECRET = "open-sesame"  # noqa: S105  it opens a test
HEADER = "triton-grpc-protocol-a-key"
REFUSED = ("UNAVAILABLE", f"This protocol is restricted, expecting header '{HEADER}'")


def restriction(*groups: str, secret: str = SECRET, key: str = "a-key") -> dict[str, Any]:
    return {"groups": groups, "key": key, "value_sha256": hashlib.sha256(secret.encode()).hexdigest()}


async def first(call: Any) -> None:
    """Of a stream: what comes first, or how it ends."""
    try:
        await call.read()
        if call.done():
            raise aio.AioRpcError(await call.code(), aio.Metadata(), aio.Metadata(), await call.details())
    finally:
        call.cancel()


def ask(channel: aio.Channel, path: str, metadata: Any = ()) -> Any:
    if path.endswith("/ModelStreamInfer"):
        return first(channel.stream_stream(path)(iter([b""]), metadata=metadata, timeout=10))
    if path.endswith("/Watch"):
        return first(channel.unary_stream(path)(b"", metadata=metadata, timeout=10))
    return channel.unary_unary(path)(b"", metadata=metadata, timeout=10)


async def asked(channel: aio.Channel, metadata: Any = ()) -> dict[str, tuple[str, str]]:
    return {path: await outcome(ask(channel, path, metadata)) for path in METHODS}


def test_every_rpc_of_the_protocol_is_in_one_group() -> None:
    found = [path for group in GROUPS for path in paths(group)]

    assert len(found) == len(set(found))
    assert set(found) >= set(METHODS)
    assert len(OIP.methods) == 20


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_demands_its_secret_and_no_other_does(run: Run, tmp_path: Path, group: Group) -> None:
    async def main() -> tuple[Any, ...]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica], gateway__restricted=[restriction(group)]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            nothing = await asked(channel)
            wrong = await asked(channel, ((HEADER, f"{SECRET}x"), ("a-key", SECRET)))
            right = await asked(channel, ((HEADER, SECRET),))
            return nothing, wrong, right

    nothing, wrong, right = run(main())

    restricted = {path for path in METHODS if path in paths(group)}
    assert restricted
    for found in (nothing, wrong):
        assert {path for path, told in found.items() if told == REFUSED} == restricted
    assert not [path for path, told in right.items() if "restricted" in told[1]]


def test_groups_may_have_secrets_of_their_own(run: Run, tmp_path: Path) -> None:
    restricted = [restriction("health", "metadata"), restriction("inference", secret="other", key="b")]  # noqa: S106

    async def main() -> tuple[Any, Any]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica], gateway__restricted=restricted) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            swapped = await asked(channel, ((HEADER, "other"), ("triton-grpc-protocol-b", SECRET)))
            right = await asked(channel, ((HEADER, SECRET), ("triton-grpc-protocol-b", "other")))
            return swapped, right

    swapped, right = run(main())

    expected = {*paths("health"), *paths("metadata"), *paths("inference")} & set(METHODS)
    assert {path for path, told in swapped.items() if "restricted" in told[1]} == expected
    assert not [told for told in right.values() if "restricted" in told[1]]


def test_tritons_client_gets_in_with_its_headers(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[bool, str]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica], gateway__restricted=[restriction("health")]) as (gateway, _),
        ):
            client = InferenceServerClient(f"127.0.0.1:{gateway.port}")
            live = await client.is_server_live(headers={HEADER: SECRET})
            with pytest.raises(InferenceServerException) as caught:
                await client.is_server_live()
            await client.close()
            return live, str(caught.value)

    live, told = run(main())

    assert live
    assert REFUSED[1] in told


def test_our_own_services_and_the_port_for_probes_are_in_no_group(run: Run, tmp_path: Path, free_port: int) -> None:
    flags = {"gateway__restricted": [restriction(*GROUPS)], "gateway__health_port": free_port}

    async def main() -> tuple[Any, Any]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica], **flags) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
            aio.insecure_channel(f"127.0.0.1:{free_port}") as probes,
        ):
            score = risk_pb2.ScoreRequest(payment=payment())
            scored = await outcome(risk_pb2_grpc.RiskServiceStub(channel).Score(score))
            return scored, await outcome(ask(probes, f"/{HEALTH.full_name}/Check"))

    scored, probed = run(main())

    assert scored[0] == "NOT_FOUND"
    assert probed == ("OK", "")


def test_a_secret_may_come_from_a_file_and_stands_in_no_print(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    restricted = [{"groups": ["metadata"], "key": "a-key", "value_file": file}]

    async def main() -> list[str]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica], gateway__restricted=restricted) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            path = f"/{OIP.full_name}/ServerMetadata"
            return [(await outcome(ask(channel, path, ((HEADER, value),))))[0] for value in (SECRET, f"{SECRET}x")]

    assert run(main()) == ["OK", "UNAVAILABLE"]
    shown = repr(config.load(None, {}, gateway__restricted=[restriction("health")]))
    assert restriction("health")["value_sha256"] not in shown


@pytest.mark.parametrize(
    ("restricted", "sentence"),
    [
        ([restriction("health"), restriction("metadata", "health")], "group 'health' is restricted twice"),
        ([restriction("health", "health")], "group 'health' is restricted twice"),
        ([restriction("nothing")], "gateway.restricted.0.groups.0: Input should be 'health'"),
        ([restriction()], "gateway.restricted.0.groups: Tuple should have at least 1 item"),
        ([restriction("health", key="A Key")], "gateway.restricted.0.key: String should match"),
        ([restriction("health", key="a-bin")], "what ends in -bin is binary metadata"),
        ([{"groups": ["health"], "key": "a"}], "needs value_sha256 or value_file, one of them"),
        ([{**restriction("health"), "value_file": "x"}], "needs value_sha256 or value_file, one of them"),
    ],
)
def test_a_restriction_that_says_nothing_clear_stops_the_start(restricted: Any, sentence: str) -> None:
    with pytest.raises(StartupError) as caught:
        config.load(None, {}, gateway__restricted=restricted)

    assert sentence in str(caught.value)


def test_a_gateway_without_the_file_of_a_secret_does_not_start(run: Run, tmp_path: Path) -> None:
    restricted = [{"groups": ["metadata"], "key": "a-key", "value_file": tmp_path / "nowhere"}]

    async def main() -> None:
        async with running_gateway(tmp_path, [], gateway__restricted=restricted):
            pytest.fail("it has started")

    with pytest.raises(StartupError, match=r"gateway.restricted: .*nowhere: No such file"):
        run(main())
