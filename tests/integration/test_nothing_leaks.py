"""What callers send is in no log, span or figure, and in nothing that another caller is told.

A caller of all RPCs, good and bad, marks every word and every number it sends; everything that three real processes'
parts write is then searched for the marks. Logs are searched at DEBUG, and as the processes write them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests import toy
from tests.callers import bearing, caller, closed
from tests.payments import earlier, event, payment
from tests.rpc import Raw
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace import doors
from headrace.client import request
from headrace.config import ModelSettings
from headrace.control.server import ControlServer
from headrace.gateway.server import Gateway
from headrace.rpc import frames
from headrace.rpc.fields import literal
from headrace.serving import weights
from headrace.serving.registration import RegistrationLoop
from headrace.serving.replica import ReplicaServer
from headrace.telemetry import pages
from headrace.telemetry.logging import JsonLines
from headrace.testing.gateway import settings
from headrace.testing.payments import FakePaymentReplica
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2, experiments_pb2, experiments_pb2_grpc, risk_pb2, risk_pb2_grpc

Run = Callable[..., Any]
MARK = "zqx"
CARD, ENTITY, EVENT, TOKEN, SECRET = (f"{MARK}-{kind}" for kind in ("card", "entity", "event", "token", "secret"))
MODEL, TENSOR, WORD, REQUEST_ID = f"{MARK}_model", f"{MARK}_tensor", f"{MARK}word", f"{MARK}-request"
AMOUNT = 481516.25
PAN = "4929481516123420"
"""A card's number, as an integer among the tensors and as a word."""
MARKS = (MARK, str(AMOUNT), PAN, "481516")
NEVER_ECHOED = (CARD, ENTITY, EVENT, TOKEN, SECRET, str(AMOUNT))
"""Not even its own caller is told these again: an error names fields, never what they held."""
RAISES = """
        if float(amount.sum()) > 1e5:
            raise ValueError(str(amount.tolist()))
"""
TRACED = (("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),)


@dataclass
class Kept:
    """Log lines as processes write them."""

    lines: list[str] = field(default_factory=list)


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Everything that anything logs, from DEBUG on."""
    found, root = Kept(), logging.getLogger()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.lines.append(self.format(record))

    handler, before = Keep(), root.level
    handler.setFormatter(JsonLines())
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield found
    root.removeHandler(handler)
    root.setLevel(before)


@dataclass
class Running:
    gateway: Gateway
    control: ControlServer
    fake: FakeReplica

    @contextlib.asynccontextmanager
    async def stubs(self) -> AsyncIterator[Stubs]:
        async with (
            aio.insecure_channel(f"127.0.0.1:{self.gateway.port}") as gateway,
            aio.insecure_channel(f"127.0.0.1:{self.control.port}") as control,
        ):
            yield Stubs(gateway, control)


class Stubs:
    """One caller's."""

    def __init__(self, gateway: aio.Channel, control: aio.Channel) -> None:
        self.channel = gateway
        self.oip = service_pb2_grpc.GRPCInferenceServiceStub(gateway)
        self.risk = risk_pb2_grpc.RiskServiceStub(gateway)
        self.health = health_pb2_grpc.HealthStub(gateway)
        self.experiments = experiments_pb2_grpc.ExperimentServiceStub(control)


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    """Control, a gateway, a real replica whose model fails on marked amounts, and two fake ones."""
    callers = (
        caller("marked", "infer", "outcome", "read"),
        caller("quiet", "infer", "read"),
        caller("narrow", infer_models=["echo"], quota={"requests_per_second": 0.01, "burst_s": 100}),
    )
    flags = closed(folder, *callers)
    chosen = settings(folder / "traces", **flags, telemetry__log_level="DEBUG")
    model = weights.read(toy.write(folder, RAISES.strip()))
    fake, payments = FakeReplica(), FakePaymentReplica()
    async with ControlServer(chosen) as control, fake, payments:
        address = f"127.0.0.1:{control.port}"
        replica = ReplicaServer(model, chosen.replica, ModelSettings(), address, doors.of(chosen))
        shown = doors.credentials(chosen)
        loops = [RegistrationLoop(address, one.registration, control_pb2.Load, shown) for one in (fake, payments)]
        try:
            await replica.start("127.0.0.1")
            for loop in loops:
                loop.start()
                await loop.wait_registered()
            async with Gateway(chosen, address) as gateway:
                await gateway.wait_ready(20)
                yield Running(gateway, control, fake)
        finally:
            for loop in loops:
                await loop.close()
            await replica.stop()


async def ended(call: Awaitable[Any]) -> str:
    """What its caller is told, good or bad."""
    try:
        return f"OK {await call}"
    except aio.AioRpcError as error:
        return f"{error.code().name} {error.details()} {error.trailing_metadata()}"


# What is sent ---------------------------------------------------------------------------------------------------------


def echo(**changes: Any) -> service_pb2.ModelInferRequest:
    columns = {"events": np.full((1, 3, 2), AMOUNT, np.float32), "key": np.array([[int(PAN)]], np.int64)}
    message = request("echo", columns, request_id=f"{REQUEST_ID}-{PAN}")
    message.parameters["headrace_entity"].string_param = ENTITY
    message.parameters["headrace_event_id"].string_param = EVENT
    message.parameters["headrace_amount"].double_param = AMOUNT
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def spoilt() -> Iterator[service_pb2.ModelInferRequest]:
    """One wrong request after another, each with marks wherever a caller may write a word."""
    yield echo(model_name=MODEL)
    yield echo(model_name=f"x' {MARK} '{PAN}")
    yield echo(model_name=MARK * 400)
    yield echo(model_version=WORD)
    yield echo(model_version=PAN)
    for spoil in (
        lambda m: setattr(m.inputs[0], "name", TENSOR),
        lambda m: setattr(m.inputs[0], "name", f"{TENSOR}'s"),
        lambda m: setattr(m.inputs[0], "datatype", WORD),
        lambda m: m.inputs[0].shape.append(int(PAN)),
        lambda m: m.inputs.add(name=TENSOR, datatype=WORD),
        lambda m: m.inputs.append(m.inputs[0]),
        lambda m: m.outputs.add(name=TENSOR),
        lambda m: m.raw_input_contents.append(PAN.encode()),
        lambda m: m.raw_input_contents.pop(),
        lambda m: m.inputs.pop(),
        lambda m: m.parameters[WORD].SetInParent(),
        lambda m: setattr(m.parameters[WORD], "uint64_param", int(PAN)),
        lambda m: setattr(m.parameters[f"triton_{MARK}"], "string_param", CARD),
        lambda m: setattr(m.parameters["headrace_currency"], "string_param", WORD),
        lambda m: setattr(m.parameters["headrace_entity"], "string_param", ENTITY * 100),
        lambda m: setattr(m.parameters["priority"], "string_param", WORD),
        lambda m: setattr(m.parameters["timeout"], "string_param", WORD),
        lambda m: setattr(m.parameters["sequence_id"], "string_param", WORD),
        lambda m: m.inputs[0].contents.bytes_contents.append(CARD.encode()),
    ):
        message = echo()
        spoil(message)
        yield message
    message = echo()
    message.raw_input_contents[0] = np.full((1, 3, 2), np.nan, np.float32).tobytes()
    yield message


def marked_payment(**changes: Any) -> risk_pb2.Payment:
    words = {"card_id": CARD, "merchant_id": f"{MARK}-merchant", "device_id": f"{MARK}-device", "issuer_bin": PAN[:6]}
    history = earlier(2, **words)
    return risk_pb2.Payment(event=event(EVENT, **(words | {"amount": AMOUNT} | changes)), card_history=history)


def payments() -> Iterator[risk_pb2.Payment]:
    yield marked_payment()
    for name in ("channel", "outcome", "country", "currency"):
        yield marked_payment(**{name: f"{WORD}"})
        yield marked_payment(**{name: f"{MARK}'{PAN}"})
    yield marked_payment(mcc=48_151_6)
    yield marked_payment(amount=-AMOUNT)
    yield risk_pb2.Payment()


def toy_question(amount: float) -> service_pb2.ModelInferRequest:
    return request("toy", {"amount": np.full((1, 2), amount, np.float32)}, request_id=REQUEST_ID)


async def told_to_the_marked(on: Running) -> list[str]:
    """Every RPC, good and bad, and what its own caller is told."""
    pb = service_pb2
    extra = (("x-note", MARK), ("user-agent", MARK), ("triton-grpc-protocol-x", SECRET))
    who = {"metadata": (*bearing("marked"), *TRACED, *extra), "timeout": 10}
    async with on.stubs() as stubs:
        oip, risk = stubs.oip, stubs.risk
        told = [await ended(oip.ModelInfer(message, **who)) for message in (echo(), *spoilt())]
        for one in payments():
            score = risk_pb2.ScoreRequest(payment=one, request_id=REQUEST_ID)
            told.append(await ended(risk.Score(score, **who)))
            batch = risk_pb2.ScoreBatchRequest(payments=[one, payment()], request_id=REQUEST_ID)
            told.append(await ended(risk.ScoreBatch(batch, **who)))
        told.append(await ended(risk.Score(risk_pb2.ScoreRequest(model=MODEL, payment=marked_payment()), **who)))
        told.append(await ended(oip.ModelInfer(toy_question(AMOUNT), **who)))
        named = {"name": MODEL, "version": WORD}
        loading = {"repository_name": MODEL, "model_name": MODEL}
        region = {"name": MODEL}
        others = (
            oip.ServerLive(pb.ServerLiveRequest(), **who),
            oip.ServerReady(pb.ServerReadyRequest(), **who),
            oip.ServerMetadata(pb.ServerMetadataRequest(), **who),
            oip.ModelReady(pb.ModelReadyRequest(**named), **who),
            oip.ModelMetadata(pb.ModelMetadataRequest(**named), **who),
            oip.ModelConfig(pb.ModelConfigRequest(**named), **who),
            oip.ModelStatistics(pb.ModelStatisticsRequest(name=MODEL), **who),
            oip.RepositoryIndex(pb.RepositoryIndexRequest(repository_name=MODEL), **who),
            oip.RepositoryModelLoad(pb.RepositoryModelLoadRequest(**loading), **who),
            oip.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(**loading), **who),
            oip.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(**region), **who),
            oip.SystemSharedMemoryRegister(pb.SystemSharedMemoryRegisterRequest(**region, key=WORD), **who),
            oip.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(**region), **who),
            oip.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest(**region), **who),
            oip.CudaSharedMemoryRegister(pb.CudaSharedMemoryRegisterRequest(**region), **who),
            oip.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(**region), **who),
            oip.TraceSetting(pb.TraceSettingRequest(model_name=MODEL), **who),
            oip.LogSettings(pb.LogSettingsRequest(), **who),
            stubs.health.Check(health_pb2.HealthCheckRequest(service=MODEL), **who),
            stubs.experiments.GetExperiment(experiments_pb2.GetExperimentRequest(id=WORD), **who),
            stubs.experiments.RecordOutcomes(outcomes(), **who),
            stubs.channel.unary_unary(f"/{MARK}.Service/{WORD}")(CARD.encode(), **who),
            stubs.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(CARD.encode(), **who),
        )
        told += [await ended(call) for call in others]
        stream = oip.ModelStreamInfer(iter([echo(), echo(model_name=MODEL)]), **who)
        told.append(await ended(stream.read()))
        told += await told_at_the_door(stubs)
    await torn(on)
    return told


def outcomes() -> experiments_pb2.RecordOutcomesRequest:
    return experiments_pb2.RecordOutcomesRequest(outcomes=[experiments_pb2.Outcome(event_id=EVENT, fraud=True)])


async def told_at_the_door(stubs: Stubs) -> list[str]:
    """Tokens of nobody, of another kind, and a caller beyond its models and its quota."""
    told = []
    for value in (f"Bearer {TOKEN}", f"Basic {TOKEN}", TOKEN):
        metadata = (("authorization", value),)
        told.append(await ended(stubs.oip.ModelInfer(echo(), metadata=metadata)))
        told.append(await ended(stubs.experiments.RecordOutcomes(outcomes(), metadata=metadata)))
    asked = (echo(model_name=MODEL), echo(), echo())
    return told + [await ended(stubs.oip.ModelInfer(message, metadata=bearing("narrow"))) for message in asked]


async def torn(on: Running) -> None:
    """Bytes that are no call, or half of one."""
    field_of = literal(b"authorization", b"Bearer " + TOKEN.encode()) + literal(f"{MARK}-bin".encode(), b"?")
    block = b"\x83\x86" + literal(b":path", f"/{MARK}/x".encode()) + literal(b"content-type", b"application/grpc")
    # Indexed, so that the table of the connection holds it, and Huffman-coded or not is the library's to read.
    indexed = b"\x40" + literal(b"authorization", b"Bearer " + TOKEN.encode())[1:]
    for sent in (
        frames.fields(1, block + field_of),
        frames.fields(1, block + indexed) + frames.fields(3, block + b"\xff\xff\xff"),
        frames.frame(frames.GOAWAY, 0, 0, bytes(8) + CARD.encode()),
        frames.frame(frames.DATA, 0, 1, CARD.encode()),
        frames.frame(99, 0, 0, CARD.encode()) * 1100,
    ):
        async with Raw.to(on.gateway) as raw:  # type: ignore[arg-type]  it has a port
            raw.send(sent + frames.frame(frames.PING, 0, 0, bytes(8)))
            with contextlib.suppress(EOFError, ConnectionError, TimeoutError):
                await raw.frame(1)
                await raw.frame(1)
                await raw.frame(1)


async def told_to_the_quiet(on: Running, stop: asyncio.Event) -> list[str]:
    """Another caller, in the same batches, until the first is through; and what it can ask for afterwards."""
    pb = service_pb2
    who = {"metadata": bearing("quiet"), "timeout": 10}
    told = []
    quiet = request("echo", {"events": np.ones((1, 3, 2), np.float32), "key": np.ones((1, 1), np.int64)})
    async with on.stubs() as stubs:
        while not stop.is_set():
            told.append(await ended(stubs.oip.ModelInfer(quiet, **who)))
            told.append(await ended(stubs.risk.Score(risk_pb2.ScoreRequest(payment=payment()), **who)))
            asking = stubs.oip.ModelInfer(toy_question(AMOUNT), metadata=bearing("marked"), timeout=10)
            told.append(await ended(stubs.oip.ModelInfer(request("toy", {"amount": np.ones((1, 2), "f4")}), **who)))
            await ended(asking)
        on.fake.change = lambda answer: answer.columns.append(b"more")
        marked = stubs.oip.ModelInfer(echo(), metadata=bearing("marked"), timeout=10)
        told.append(await ended(stubs.oip.ModelInfer(quiet, **who)))
        await ended(marked)
        asked = (
            stubs.oip.ModelStatistics(pb.ModelStatisticsRequest(), **who),
            stubs.oip.RepositoryIndex(pb.RepositoryIndexRequest(), **who),
            stubs.oip.ModelMetadata(pb.ModelMetadataRequest(name="echo"), **who),
            stubs.oip.ModelConfig(pb.ModelConfigRequest(name="echo"), **who),
            stubs.experiments.ListExperiments(experiments_pb2.ListExperimentsRequest(), **who),
        )
        told += [await ended(call) for call in asked]
    return told


def marks_in(text: str, marks: tuple[str, ...] = MARKS) -> list[str]:
    """Each with what stands around it, so that a failure says where it came from."""
    lowered = text.lower()
    places = [lowered.find(mark.lower()) for mark in marks]
    return [text[max(0, place - 200) : place + 100] for place in places if place >= 0]


@pytest.mark.slow
def test_nothing_that_a_caller_sends_is_in_logs_spans_figures_or_what_others_are_told(
    run: Run, tmp_path: Path, kept: Kept
) -> None:
    async def main() -> tuple[list[str], list[str], list[str]]:
        async with running(tmp_path) as on:
            stop = asyncio.Event()
            quietly = asyncio.create_task(told_to_the_quiet(on, stop))
            marked = await told_to_the_marked(on)
            stop.set()
            quiet = await quietly
            address = f"127.0.0.1:{on.gateway.metrics_port}"
            found = [await asyncio.to_thread(pages.fetch, address, page, 5) for page in ("/metrics", "/statistics")]
            return marked, quiet, [page.decode("latin-1") for page in found]

    marked, quiet, figures = run(main(), timeout_s=120)

    spans = "".join(path.read_text() for path in tmp_path.joinpath("traces").rglob("*.jsonl"))
    assert len([line for line in kept.lines if "headrace.requests" in line]) > 25, "refusals have left their lines"
    assert any("the model failed on this" in line for line in kept.lines), "the model has failed on a marked amount"
    assert "a" * 32 in spans, "the marked requests have left their spans"
    assert any(MODEL in one for one in marked), "who asks is told its own words"
    assert any(TENSOR in one for one in marked)
    assert [one for one in quiet if one.startswith("OK")]
    assert [one for one in quiet if one.startswith("INTERNAL")]

    assert marks_in("\n".join(kept.lines)) == []
    assert marks_in(spans) == []
    assert marks_in("\n".join(figures)) == []
    assert marks_in("\n".join(quiet)) == []
    errors = "\n".join(one for one in marked if not one.startswith("OK"))
    assert marks_in(errors, NEVER_ECHOED) == []
