"""RepositoryModelLoad, RepositoryModelUnload and RepositoryIndex over a real socket: every row of the error table."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from tests.callers import outcome
from tests.deploying import Rig, deploying, until, write
from tests.payments import payment
from tritonclient.grpc import service_pb2, service_pb2_grpc
from typer.testing import CliRunner

from headrace.cli import app
from headrace.control.server import ControlServer
from headrace.gateway.server import Gateway
from headrace.serving import weights
from headrace.serving.orders import OWN_ERROR, Orders
from headrace.testing.deployer import FakeDeployer
from headrace.testing.gateway import settings
from headrace.testing.payments import FakePaymentReplica
from headrace.v1 import risk_pb2, risk_pb2_grpc

Run = Callable[..., Any]
NOT_EXPLICIT = "explicit model load / unload is not allowed if polling is enabled"
NOT_FOUND = "failed to poll from model repository: no directory of models has it"
OVERRIDE = (
    "is not supported: a version is loaded as it lies in the model directories, "
    "code and configuration never come over the wire"
)
Body = Callable[[Rig], Coroutine[Any, Any, Any]]


def with_rig(run: Run, tmp_path: Path, body: Body, *versions: int, **flags: Any) -> Any:
    async def main() -> Any:
        async with deploying(tmp_path, *versions, **flags) as rig:
            return await body(rig)

    return run(main())


def asked(model: str = "adder", version: str = "") -> str:
    return f"[request id: <id_unknown>] Request for unknown model: '{model}'" + (f" version {version}" * bool(version))


@pytest.mark.parametrize("act", [Rig.load, Rig.unload])
def test_where_models_are_not_loaded_by_name_it_says_tritons_sentence(
    run: Run, tmp_path: Path, act: Callable[..., Any]
) -> None:
    async def body(rig: Rig) -> Any:
        return await outcome(act(rig))

    found = with_rig(run, tmp_path, body, 1, attach=False, control__model_control="none")

    assert found == ("UNAVAILABLE", NOT_EXPLICIT)


def test_a_control_that_is_not_explicit_hears_neither_gateway_nor_deployer(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> Any:
        async with ControlServer(settings(tmp_path)) as control:
            address = f"127.0.0.1:{control.port}"
            orders = asyncio.create_task(Orders(address, FakeDeployer(address), [write(tmp_path, 1)], []).run())
            async with (
                Gateway(settings(tmp_path, control__model_control="explicit"), address) as gateway,
                aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
            ):
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                message = service_pb2.RepositoryModelLoadRequest(model_name="adder")
                found = await outcome(stub.RepositoryModelLoad(message, timeout=10))
                await until(lambda: asyncio.sleep(0.01, caplog.text), lambda text: NOT_EXPLICIT in text)
                orders.cancel()
                await asyncio.gather(orders, return_exceptions=True)
            return found

    assert run(main()) == ("UNAVAILABLE", NOT_EXPLICIT)


@pytest.mark.parametrize(
    ("act", "more", "expected"),
    [
        (Rig.load, {"repository_name": "r"}, ("UNIMPLEMENTED", "'repository_name' specification is not supported")),
        (Rig.unload, {"repository_name": "r"}, ("UNIMPLEMENTED", "'repository_name' specification is not supported")),
        (
            Rig.load,
            {"parameters": {"config": service_pb2.ModelRepositoryParameter(string_param="{}")}},
            ("UNIMPLEMENTED", f"load parameter 'config' {OVERRIDE}"),
        ),
        (
            Rig.load,
            {"parameters": {"file:1/model.py": service_pb2.ModelRepositoryParameter(bytes_param=b"import os")}},
            ("UNIMPLEMENTED", f"load parameter 'file:1/model.py' {OVERRIDE}"),
        ),
        (
            Rig.load,
            {"parameters": {"speed": service_pb2.ModelRepositoryParameter(int64_param=9)}},
            ("INVALID_ARGUMENT", "unrecognized load parameter 'speed'."),
        ),
        (
            Rig.unload,
            {"parameters": {"unload_dependents": service_pb2.ModelRepositoryParameter(int64_param=1)}},
            ("INVALID_ARGUMENT", "invalid value type for 'unload_dependents' parameter, expected bool_param."),
        ),
        (
            Rig.unload,
            {"parameters": {"speed": service_pb2.ModelRepositoryParameter(int64_param=9)}},
            ("INVALID_ARGUMENT", "unrecognized unload parameter 'speed'."),
        ),
        (Rig.load, {"model": ""}, ("INVALID_ARGUMENT", "model_name: required")),
        (
            Rig.load,
            {"model": "nobody"},
            ("INTERNAL", f"failed to load 'nobody', {NOT_FOUND}"),
        ),
        (
            Rig.load,
            {"model": "../adder"},
            ("INTERNAL", f"failed to load '../adder', {NOT_FOUND}"),
        ),
        (Rig.unload, {"model": "nobody"}, ("OK", "")),
        (
            Rig.unload,
            {"parameters": {"unload_dependents": service_pb2.ModelRepositoryParameter(bool_param=True)}},
            ("OK", ""),
        ),
    ],
)
def test_every_refusal_has_its_code_and_its_sentence(
    run: Run, tmp_path: Path, act: Callable[..., Any], more: dict[str, Any], expected: tuple[str, str]
) -> None:
    async def body(rig: Rig) -> Any:
        return await outcome(act(rig, **more)), rig.deployer.loads

    assert with_rig(run, tmp_path, body, 1) == (expected, [])


def test_the_index_has_one_repository(run: Run, tmp_path: Path) -> None:
    async def body(rig: Rig) -> Any:
        asked = service_pb2.RepositoryIndexRequest(repository_name="r")
        return await outcome(rig.stub.RepositoryIndex(asked, timeout=5))

    told = with_rig(run, tmp_path, body, 1)

    assert told == ("UNIMPLEMENTED", "'repository_name' specification is not supported")


def test_without_a_deployer_nobody_loads_anything(run: Run, tmp_path: Path) -> None:
    async def body(rig: Rig) -> Any:
        return await outcome(rig.load()), await outcome(rig.unload())

    found = with_rig(run, tmp_path, body, 1, attach=False)

    sentence = "no deployer is attached to control: there is nobody who could start or stop replicas"
    assert found == (("UNAVAILABLE", sentence),) * 2


def test_a_load_ends_when_every_version_is_ready_here_and_the_index_tells_the_way(run: Run, tmp_path: Path) -> None:
    async def body(rig: Rig) -> Any:
        states = [await rig.states()]
        refused = [await outcome(rig.infer())]
        rig.deployer.open.clear()
        loading = asyncio.create_task(rig.load())
        states.append(dict.fromkeys(["1"], (await rig.until("1", "LOADING"))["1"][0]))
        refused += [await outcome(rig.infer()), await outcome(rig.infer("1")), await outcome(rig.infer("9"))]
        assert not loading.done()
        rig.deployer.open.set()
        await loading
        ready = await rig.stub.ModelReady(service_pb2.ModelReadyRequest(name="adder", version="2"))
        return [*states, await rig.states()], refused, ready.ready, await rig.infer()

    states, refused, ready, answer = with_rig(run, tmp_path, body, 1, 2)

    assert states == [{"1": "", "2": ""}, {"1": "LOADING"}, {"1": "READY", "2": "READY"}]
    assert refused == [
        ("NOT_FOUND", f"{asked()} is not found"),
        ("NOT_FOUND", f"{asked()} has no available versions"),
        ("UNAVAILABLE", f"{asked(version='1')} is not at ready state"),
        ("NOT_FOUND", f"{asked(version='9')} is not found"),
    ]
    assert ready
    assert answer == (6.0, "2")


def test_what_is_unloaded_is_refused_as_the_table_says_and_can_be_loaded_again(run: Run, tmp_path: Path) -> None:
    async def body(rig: Rig) -> Any:
        before = await rig.infer()
        await rig.unload()
        refused = [await outcome(rig.infer(version)) for version in ("", "1", "9")]
        index = await rig.index()
        ready = await rig.stub.ModelReady(service_pb2.ModelReadyRequest(name="adder"))
        server = await rig.stub.ServerReady(service_pb2.ServerReadyRequest())
        replicas = dict(rig.deployer.replicas)
        await rig.load()
        return before, refused, index, (ready.ready, server.ready), replicas, await rig.infer()

    before, refused, index, ready, replicas, after = with_rig(run, tmp_path, body, 1, loaded=True)

    assert before == after == (3.0, "1")
    assert refused == [
        ("NOT_FOUND", f"{asked()} has no available versions"),
        ("UNAVAILABLE", f"{asked(version='1')} is not at ready state"),
        ("NOT_FOUND", f"{asked(version='9')} is not found"),
    ]
    assert index == {"1": ("UNAVAILABLE", "unloaded")}
    assert ready == (False, False)
    assert replicas == {}


def test_what_was_accepted_before_an_unload_is_answered_and_what_comes_after_is_not_asked(
    run: Run, tmp_path: Path
) -> None:
    async def body(rig: Rig) -> Any:
        (replica,) = rig.deployer.replicas.values()
        replica.hanging.set()
        accepted = [asyncio.create_task(rig.infer(number=number)) for number in range(5)]
        while not replica.batches:
            await asyncio.sleep(0.005)
        unloading = asyncio.create_task(rig.unload())
        await rig.until("1", "UNLOADING")
        refused = [await outcome(rig.infer(version)) for version in ("", "1")]
        assert not unloading.done()
        assert rig.deployer.replicas
        replica.hanging.clear()
        answers = await asyncio.gather(*accepted)
        await unloading
        return answers, refused, await rig.states()

    answers, refused, states = with_rig(run, tmp_path, body, 1, loaded=True)

    assert answers == [(number + 1.0, "1") for number in range(5)]
    assert refused == [
        ("NOT_FOUND", f"{asked()} has no available versions"),
        ("UNAVAILABLE", f"{asked(version='1')} is not at ready state"),
    ]
    assert states == {"1": "UNAVAILABLE"}


def test_a_batch_of_payments_that_is_still_being_read_holds_an_unload_back(run: Run, tmp_path: Path) -> None:
    message = risk_pb2.ScoreBatchRequest(payments=[payment(60, 60) for _ in range(32)])

    async def main() -> Any:
        shipped = {"models": weights.shipped_models(), "make": FakePaymentReplica}
        async with (
            deploying(tmp_path, **shipped) as rig,
            aio.insecure_channel(f"127.0.0.1:{rig.gateway.port}") as channel,
        ):
            await rig.load("fraud-tx")
            batch = asyncio.ensure_future(risk_pb2_grpc.RiskServiceStub(channel).ScoreBatch(message, timeout=30))
            while not rig.gateway.admission.held:
                await asyncio.sleep(0)
            await rig.unload("fraud-tx")
            return [one.signals[0].level for one in (await batch).assessments]

    levels = run(main())

    assert len(levels) == 32
    assert risk_pb2.RISK_LEVEL_NOT_ASSESSED not in levels


def test_a_model_that_is_unloaded_keeps_no_server_from_being_ready(run: Run, tmp_path: Path, root: Path) -> None:
    shutil.copytree(root / "benchmarks" / "repository" / "w1-encoder", tmp_path / "models" / "w1-encoder")

    async def body(rig: Rig) -> Any:
        await rig.load("w1-encoder")
        await rig.unload("w1-encoder")
        server = await rig.stub.ServerReady(service_pb2.ServerReadyRequest())
        return server.ready, await rig.infer(), await outcome(rig.infer(model="w1-encoder"))

    ready, answer, gone = with_rig(run, tmp_path, body, 1, loaded=True)

    assert ready
    assert answer == (3.0, "1")
    assert gone == ("NOT_FOUND", f"{asked('w1-encoder')} has no available versions")


def test_a_version_that_does_not_start_is_named_with_the_reason(run: Run, tmp_path: Path) -> None:
    async def body(rig: Rig) -> Any:
        rig.deployer.refuse["adder", "1"] = "its golden rows are wrong"
        return await outcome(rig.load()), await rig.index()

    failed, index = with_rig(run, tmp_path, body, 1)

    assert failed == ("INTERNAL", "failed to load 'adder', no version is available: its golden rows are wrong")
    assert index == {"1": ("UNAVAILABLE", "its golden rows are wrong")}


def test_an_error_of_the_deployers_own_is_told_as_one_and_the_next_load_begins_anew(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits hears that it failed; what went wrong there is for the log, not for the wire."""

    async def bug(_: object) -> None:
        raise RuntimeError("an address nobody is to see")

    async def body(rig: Rig) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(rig.deployer, "load", bug)
            failed = await outcome(rig.load()), await rig.index()
        await rig.load()
        return *failed, await rig.infer()

    failed, index, answer = with_rig(run, tmp_path, body, 1)

    assert failed == ("INTERNAL", f"failed to load or unload 'adder': {OWN_ERROR}")
    assert index == {"1": ("UNAVAILABLE", OWN_ERROR)}
    assert "RuntimeError: an address nobody is to see" in caplog.text
    assert answer == (3.0, "1")


def test_an_unload_that_fails_at_the_deployer_can_be_asked_for_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(*_: object) -> None:
        raise RuntimeError("the cluster does not answer")

    async def body(rig: Rig) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(rig.deployer, "unload", bug)
            failed = await outcome(rig.unload())
        await rig.unload()
        await rig.until("1", "UNAVAILABLE")
        await rig.load()
        return failed, await rig.infer()

    failed, answer = with_rig(run, tmp_path, body, 1, loaded=True)

    assert failed == ("INTERNAL", f"failed to load or unload 'adder': {OWN_ERROR}")
    assert answer == (3.0, "1")


def test_what_serves_goes_on_beside_a_new_version_that_is_broken(run: Run, tmp_path: Path) -> None:
    async def body(rig: Rig) -> Any:
        broken = write(tmp_path, 2) / "adder" / "2" / "weights.safetensors"
        broken.write_bytes(b"not these")
        return await outcome(rig.load()), await rig.index(), await rig.infer()

    failed, index, answer = with_rig(run, tmp_path, body, 1, loaded=True)

    assert failed[0] == "INTERNAL"
    assert failed[1].startswith("failed to load 'adder', version 2 is not available: ")
    assert "digest" in failed[1]
    assert {version: state for version, (state, _) in index.items()} == {"1": "READY", "2": "UNAVAILABLE"}
    assert answer == (3.0, "1")


def test_a_version_that_is_loaded_is_not_replaced_by_another_digest(run: Run, tmp_path: Path) -> None:
    async def body(rig: Rig) -> Any:
        directory = tmp_path / "models" / "adder" / "1"
        spec, other = directory / "spec.yaml", b"other weights"
        (directory / "weights.safetensors").write_bytes(other)
        spec.write_text(re.sub("sha256:[0-9a-f]{64}", f"sha256:{hashlib.sha256(other).hexdigest()}", spec.read_text()))
        return await outcome(rig.load()), await rig.infer()

    failed, answer = with_rig(run, tmp_path, body, 1, loaded=True)

    assert failed[0] == "INTERNAL"
    assert failed[1].startswith("failed to load 'adder', version 1 is not available: ")
    assert failed[1].endswith("a version is immutable")
    assert answer == (3.0, "1")


def test_loads_of_one_model_at_once_are_one_and_another_load_changes_nothing(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def heard(times: int, what: str) -> Any:
        """Until control has been asked so often."""
        return until(lambda: asyncio.sleep(0.01, caplog.text.count(f"to {what} 'adder'")), lambda found: found == times)

    async def body(rig: Rig) -> Any:
        rig.deployer.open.clear()
        first = asyncio.create_task(rig.load())
        await rig.until("1", "LOADING")
        more = [asyncio.create_task(rig.load()) for _ in range(10)]
        await heard(11, "load")
        turned = asyncio.create_task(rig.unload())
        await heard(1, "unload")
        assert not any(task.done() for task in (first, *more, turned))
        rig.deployer.open.set()
        await asyncio.gather(first, *more, turned)
        return rig.deployer.loads, await rig.states()

    with caplog.at_level(logging.INFO, "headrace.control"):
        loads, states = with_rig(run, tmp_path, body, 1)

    assert loads == [("adder", "1")] * 2  # one that had begun, and one for all who came after
    assert states == {"1": "UNAVAILABLE"}


def test_a_load_goes_on_without_its_caller(run: Run, tmp_path: Path) -> None:
    async def body(rig: Rig) -> Any:
        rig.deployer.open.clear()
        loading = asyncio.create_task(rig.load())
        await rig.until("1", "LOADING")
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        rig.deployer.open.set()
        await rig.until("1", "READY")
        return await rig.infer()

    assert with_rig(run, tmp_path, body, 1) == (3.0, "1")


def test_a_deployer_that_goes_leaves_its_callers_with_a_sentence(run: Run, tmp_path: Path) -> None:
    async def body(rig: Rig) -> Any:
        rig.deployer.open.clear()
        loading = asyncio.create_task(rig.load())
        await rig.until("1", "LOADING")
        rig.attached.cancel()
        return await outcome(loading)

    assert with_rig(run, tmp_path, body, 1) == (
        "UNAVAILABLE",
        "the deployer has gone: what has come of it, RepositoryIndex says once it is back",
    )


@pytest.mark.slow
def test_control_may_go_while_a_model_loads_and_the_deployer_goes_on(run: Run, tmp_path: Path, free_port: int) -> None:
    async def body(rig: Rig) -> Any:
        rig.deployer.open.clear()
        loading = asyncio.create_task(rig.load())
        await rig.until("1", "LOADING")
        await rig.lose_control()
        refused = [await outcome(loading), await outcome(rig.load())]
        rig.deployer.open.set()
        await rig.control.start()
        await rig.until("1", "READY")
        await until(
            lambda: outcome(rig.load()), lambda told: told[0] == "OK"
        )  # the deployer may come back after replicas
        return refused, await rig.infer()

    refused, answer = with_rig(run, tmp_path, body, 1, control__port=free_port)

    away = "control is away, or has gone: what has begun goes on, and RepositoryIndex says what has come of it"
    assert refused == [("UNAVAILABLE", away)] * 2
    assert answer == (3.0, "1")


def test_a_control_that_starts_anew_brings_nothing_back_that_is_unloaded(
    run: Run, tmp_path: Path, free_port: int
) -> None:
    async def body(rig: Rig) -> Any:
        await rig.unload()
        rig.attached.cancel()  # nobody tells the next control
        await rig.lose_control()
        await rig.control.start()
        await until(lambda: asyncio.sleep(0.01, rig.gateway.follower.connected), bool)
        return await rig.index(), await outcome(rig.infer("1"))

    index, refused = with_rig(run, tmp_path, body, 1, loaded=True, control__port=free_port)

    assert index == {"1": ("UNAVAILABLE", "unloaded")}
    assert refused == ("UNAVAILABLE", f"{asked(version='1')} is not at ready state")


def test_there_is_one_deployer(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(rig: Rig) -> Any:
        address = f"127.0.0.1:{rig.control.port}"
        second = asyncio.create_task(Orders(address, FakeDeployer(address), [tmp_path / "models"], []).run())
        await until(lambda: asyncio.sleep(0.01, caplog.text), lambda text: "another deployer is attached" in text)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await rig.load()
        return rig.deployer.loads

    assert with_rig(run, tmp_path, body, 1) == [("adder", "1")]


def test_control_writes_down_who_asked(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(rig: Rig) -> Any:
        await rig.load()
        await rig.unload()

    with caplog.at_level(logging.INFO, "headrace.control"):
        with_rig(run, tmp_path, body, 1)

    assert "'local' asks through 'local' to load 'adder'" in caplog.text
    assert "'local' asks through 'local' to unload 'adder'" in caplog.text
    assert "LOAD of 'adder' is done" in caplog.text


def test_the_command_line_loads_lists_and_unloads(run: Run, tmp_path: Path) -> None:
    async def body(rig: Rig) -> Any:
        def typed(*words: str) -> tuple[int, str, str]:
            done = CliRunner().invoke(app, ["models", *words, "--address", f"127.0.0.1:{rig.gateway.port}"])
            return done.exit_code, done.output, str(done.exception or "")

        async def at_a_prompt(*words: str) -> tuple[int, str, str]:
            return await asyncio.to_thread(typed, *words)

        loaded, listed = await at_a_prompt("load", "adder"), await at_a_prompt("list")
        return loaded, listed, await at_a_prompt("unload", "adder"), await at_a_prompt("load", "nobody")

    loaded, listed, unloaded, failed = with_rig(run, tmp_path, body, 1)

    assert loaded == unloaded == (0, "", "")
    assert "READY" in listed[1]
    assert failed[0] == 1
    assert "failed to load 'nobody', failed to poll from model repository" in failed[2]
