"""Sequences over a real socket: parameters of every model, and the state that a model carries between requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tests import streaming
from tests.callers import bearing, caller, closed
from tests.streaming import Opened, Run, Talk, converse, echo, error_of, with_gateway
from tritonclient.grpc import service_pb2

from headrace.client import request
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2, replica_pb2

INVALID = "INVALID_ARGUMENT"
START = (
    "inference request for sequence {} to model 'teller' must specify the START flag on the first request of the "
    "sequence"
)
NO_SLOT = "timeout of the corresponding sequence has been expired"


def spec(version: str = "1") -> control_pb2.ModelSpec:
    """Adds x to a total that it carries, and says it twice its version times."""
    tensor = control_pb2.TensorSpec
    return control_pb2.ModelSpec(
        name="teller",
        version=version,
        digest=f"sha256:{version}",
        platform="fake",
        inputs=[
            tensor(name="x", datatype="FP32", dims=[1], finite=True),
            tensor(name="total", datatype="FP32", dims=[1], optional=True),
        ],
        outputs=[tensor(name="told", datatype="FP32", dims=[1]), tensor(name="total", datatype="FP32", dims=[1])],
        max_rows=8,
        max_tokens=8,
    )


class Teller(FakeReplica):
    def __init__(self, version: str = "1") -> None:
        super().__init__(spec(version))
        self._factor = float(version)

    def _answer(self, batch: replica_pb2.PackedBatch) -> replica_pb2.PackedAnswer:
        x, total = (np.frombuffer(column, "<f4") for column in batch.columns)
        columns = [(self._factor * (total + x)).tobytes(), (total + x).tobytes()]
        return replica_pb2.PackedAnswer(columns=columns, status=bytes(batch.rows))


def ask(x: float, name: int | str | None = 7, *, rows: int = 1, version: str = "", **flags: bool) -> Any:
    message = request("teller", {"x": np.full((rows, 1), x, np.float32)}, version=version)
    if isinstance(name, str):
        message.parameters["sequence_id"].string_param = name
    elif name is not None:
        message.parameters["sequence_id"].int64_param = name
    for flag, wanted in flags.items():
        message.parameters[f"sequence_{flag}"].bool_param = wanted
    return message


def with_teller(run: Run, folder: Path, body: Callable[[Opened], Any], **batching: Any) -> Any:
    return run_with(run, folder, body, models={"teller": {"batching": batching}})


def run_with(run: Run, folder: Path, body: Callable[[Opened], Any], **flags: Any) -> Any:
    return with_gateway(run, folder, body, Teller, **flags)


def value(answer: service_pb2.ModelInferResponse) -> float:
    return float(np.frombuffer(answer.raw_output_contents[0], "<f4")[0])


async def told(it: Opened, *messages: Any) -> list[float]:
    return [value(await it.stub.ModelInfer(message)) for message in messages]


@pytest.mark.parametrize("name", [7, -1, "7", "a card"])
def test_a_sequence_goes_on_from_what_its_last_answer_has_left(run: Run, tmp_path: Path, name: int | str) -> None:
    async def body(it: Opened) -> Any:
        totals = await told(it, ask(1, name, start=True), ask(2, name), ask(3, name, end=True))
        return totals, await error_of(it.stub.ModelInfer(ask(4, name)))

    totals, error = with_teller(run, tmp_path, body)

    assert totals == [1.0, 3.0, 6.0]
    assert error.code().name == INVALID
    assert error.details().endswith(START.format(2**64 - 1 if name == -1 else name))


def test_7_and_the_word_7_are_two_sequences(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> list[float]:
        return await told(it, ask(1, 7, start=True), ask(10, "7", start=True), ask(1, 7), ask(10, "7"))

    assert with_teller(run, tmp_path, body) == [1.0, 10.0, 2.0, 20.0]


def test_a_name_is_its_callers_own(run: Run, tmp_path: Path) -> None:
    flags = closed(tmp_path, caller("checkout"), caller("terminals"), caller("stranger"))

    async def body(it: Opened) -> Any:
        found = []
        for who, x, start in (("checkout", 1, True), ("terminals", 10, True), ("checkout", 2, False)):
            found.append(value(await it.stub.ModelInfer(ask(x, 7, start=start), metadata=bearing(who))))
        return found, await error_of(it.stub.ModelInfer(ask(5, 7), metadata=bearing("stranger")))

    totals, error = run_with(run, tmp_path, body, **flags)

    assert totals == [1.0, 10.0, 3.0]
    assert error.details().endswith(START.format(7))


@pytest.mark.parametrize("name", [0, "", None])
def test_without_a_name_a_request_is_part_of_no_sequence(run: Run, tmp_path: Path, name: int | str | None) -> None:
    async def body(it: Opened) -> list[float]:
        return await told(it, ask(1, name, start=True), ask(2, name), ask(3, name, rows=3))

    assert with_teller(run, tmp_path, body) == [1.0, 2.0, 3.0]


def test_the_state_goes_back_to_the_caller_too_and_may_be_carried_by_it_instead(run: Run, tmp_path: Path) -> None:
    message = request("teller", {"x": np.full((1, 1), 2.0, np.float32), "total": np.full((1, 1), 40.0, np.float32)})

    async def body(it: Opened) -> Any:
        return await it.stub.ModelInfer(message)

    answer = with_teller(run, tmp_path, body)

    assert [output.name for output in answer.outputs] == ["told", "total"]
    assert value(answer) == 42.0


def test_a_batch_in_a_sequence_is_refused(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        return await error_of(it.stub.ModelInfer(ask(1, rows=2, start=True)))

    error = with_teller(run, tmp_path, body)

    assert error.code().name == INVALID
    assert error.details().endswith(
        "inference request to model 'teller' must specify batch-size 1 due to requirements of sequence batcher"
    )


def test_a_state_that_is_brought_into_a_sequence_is_refused(run: Run, tmp_path: Path) -> None:
    message = ask(1, start=True)
    message.inputs.add(name="total", datatype="FP32", shape=[1, 1])
    message.raw_input_contents.append(bytes(4))

    async def body(it: Opened) -> Any:
        return await error_of(it.stub.ModelInfer(message))

    error = with_teller(run, tmp_path, body)

    assert error.code().name == INVALID
    assert "input 'total' of model 'teller' is kept here within a sequence: leave it out" in error.details()


@pytest.mark.parametrize(("status_codes", "code"), [("triton", "UNAVAILABLE"), ("grpc", "DEADLINE_EXCEEDED")])
def test_a_sequence_that_finds_no_slot_in_time_is_told_so(
    run: Run, tmp_path: Path, status_codes: str, code: str
) -> None:
    late = ask(1, 2, start=True)
    late.parameters["timeout"].int64_param = 20_000

    async def body(it: Opened) -> Any:
        await told(it, ask(1, 1, start=True))
        return await error_of(it.stub.ModelInfer(late))

    batching = {"max_sequences": 1, "max_sequence_idle_us": 60_000_000}
    error = run_with(run, tmp_path, body, models={"teller": {"batching": batching}}, gateway__status_codes=status_codes)

    assert error.code().name == code
    assert error.details().endswith(NO_SLOT)


@pytest.mark.parametrize("started", [True, False])
def test_who_holds_a_slot_waits_as_long_as_it_takes_whatever_its_timeout_says(
    run: Run,
    tmp_path: Path,
    started: bool,  # noqa: FBT001
) -> None:
    hurried = ask(2, 1, start=not started)
    hurried.parameters["timeout"].int64_param = 20_000

    async def body(it: Opened) -> Any:
        if started:
            await told(it, ask(1, 1, start=True))
        it.replica.hanging.set()
        before, sent = [], len(it.replica.batches)
        for count in (1, 2):  # one runs, one is staged
            before.append(asyncio.ensure_future(it.stub.ModelInfer(ask(1, 0))))
            while len(it.replica.batches) < sent + count:
                await asyncio.sleep(0.01)
        asked = asyncio.ensure_future(it.stub.ModelInfer(hurried))
        await asyncio.sleep(0.2)
        waits = not asked.done()
        it.replica.hanging.clear()
        await asyncio.gather(*before)
        return waits, value(await asked)

    assert run_with(run, tmp_path, body) == (True, 3.0 if started else 2.0)


def test_a_sequence_that_rests_for_too_long_is_forgotten(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        await told(it, ask(1, start=True))
        (lane,) = it.gateway.models.lanes()
        kept = it.gateway.sequences.of(lane)
        while len(kept):
            await asyncio.sleep(0.01)
        return await error_of(it.stub.ModelInfer(ask(1)))

    error = with_teller(run, tmp_path, body, max_sequence_idle_us=50_000)

    assert error.details().endswith(START.format(7))


ID = "invalid value type for 'sequence_id' parameter, expected int64_param or string_param."
BOOL = "invalid value type for '{}' parameter, expected bool_param."
WRONG = [
    ("sequence_id", {"bool_param": True}, ID),
    ("sequence_id", {"uint64_param": 7}, ID),
    (
        "sequence_id",
        {"string_param": "x" * 129},
        "invalid value for 'sequence_id' parameter, expected at most 128 bytes.",
    ),
    ("sequence_start", {"int64_param": 1}, BOOL.format("sequence_start")),
    ("sequence_end", {"string_param": "true"}, BOOL.format("sequence_end")),
]


@pytest.mark.parametrize("model", ["teller", "echo"])
def test_a_parameter_of_another_type_is_refused_whatever_the_model(run: Run, tmp_path: Path, model: str) -> None:
    messages = [ask(1) if model == "teller" else echo() for _ in WRONG]
    for message, (name, given, _) in zip(messages, WRONG, strict=True):
        message.parameters[name].CopyFrom(service_pb2.InferParameter(**given))

    async def body(it: Opened) -> Any:
        return [await error_of(it.stub.ModelInfer(message)) for message in messages]

    errors = with_gateway(run, tmp_path, body, Teller if model == "teller" else FakeReplica)

    for error, (_, _, sentence) in zip(errors, WRONG, strict=True):
        assert error.code().name == INVALID
        assert error.details().endswith(sentence)


def test_a_model_that_carries_nothing_takes_no_notice_of_sequences(run: Run, tmp_path: Path) -> None:
    middle = echo(1)
    middle.parameters["sequence_id"].int64_param = 7
    several = echo(2)
    for place, size in enumerate((1, 1)):
        several.inputs[place].shape[0] = 2 * size
        several.raw_input_contents[place] *= 2
    several.parameters["sequence_id"].string_param = "a"

    async def body(it: Opened) -> list[float]:
        return [streaming.value(await it.stub.ModelInfer(message)) for message in (middle, several)]

    assert with_gateway(run, tmp_path, body) == [7.0, 8.0]


def test_a_sequence_in_one_stream_needs_no_waiting_for_answers(run: Run, tmp_path: Path) -> None:
    messages = [ask(1, name, start=not place, end=place == 9) for place in range(10) for name in ("a", "b")]

    async def body(it: Opened) -> list[float]:
        return [value(answer.infer_response) for answer in await converse(it.stub, messages)]

    assert with_teller(run, tmp_path, body) == [float(place + 1) for place in range(10) for _ in range(2)]


@pytest.mark.parametrize("keyed", [{0, 2, 4}, {1, 3}, {0}], ids=str)
def test_requests_with_and_without_a_key_keep_their_order(run: Run, tmp_path: Path, keyed: set[int]) -> None:
    messages = [ask(10**place, start=not place, end=place == 4) for place in range(5)]
    for place in keyed:
        messages[place].parameters["headrace_idempotency_key"].string_param = f"try-{place}"

    async def body(it: Opened) -> list[float]:
        return [value(answer.infer_response) for answer in await converse(it.stub, messages)]

    assert with_teller(run, tmp_path, body) == [1.0, 11.0, 111.0, 1111.0, 11111.0]


def test_who_is_behind_one_that_fails_in_a_stream_is_told(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        async with Talk(it.stub) as talk:
            await talk.say(ask(1, start=True), ask(float("nan")), ask(2))
            heard = [await talk.hear() for _ in range(3)]
            await talk.say(ask(5))
            return [*heard, await talk.hear()]

    first, failed, behind, later = with_teller(run, tmp_path, body)

    assert value(first.infer_response) == 1.0
    assert "input 'x' has a value that is not finite" in failed.error_message
    assert "an earlier request for sequence 7 to model 'teller' has failed" in behind.error_message
    assert value(later.infer_response) == 6.0


def test_a_sequence_stays_with_the_version_that_began_it(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        async with Teller("2") as second:
            seen = await told(it, ask(1, start=True))
            both = [it.replica.registration, second.registration]
            it.gateway.models.apply(control_pb2.Snapshot(replicas=both))  # the highest answers from now on
            return seen + await told(it, ask(2, 8, start=True), ask(3, 7), ask(4, 8))

    assert with_teller(run, tmp_path, body) == [1.0, 4.0, 4.0, 12.0]


def test_tritonclients_sequence_arguments_are_understood(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> list[float]:
        async with triton.InferenceServerClient(f"127.0.0.1:{it.gateway.port}") as client:
            totals = []
            for place, x in enumerate((1.0, 2.0, 3.0)):
                tensor = triton.InferInput("x", [1, 1], "FP32")
                tensor.set_data_from_numpy(np.full((1, 1), x, np.float32))
                result = await client.infer(
                    "teller", [tensor], sequence_id="a card", sequence_start=not place, sequence_end=place == 2
                )
                totals.append(float(result.as_numpy("told")[0, 0]))
            return totals

    assert with_teller(run, tmp_path, body) == [1.0, 3.0, 6.0]


def test_the_extension_is_announced_and_the_configuration_forces_nobody_into_sequences(
    run: Run, tmp_path: Path
) -> None:
    async def body(it: Opened) -> Any:
        server = await it.stub.ServerMetadata(service_pb2.ServerMetadataRequest())
        config = await it.stub.ModelConfig(service_pb2.ModelConfigRequest(name="teller"))
        return list(server.extensions), config.config

    extensions, config = with_teller(run, tmp_path, body)

    assert "sequence" in extensions
    assert not config.HasField("sequence_batching")
    assert config.HasField("dynamic_batching")
