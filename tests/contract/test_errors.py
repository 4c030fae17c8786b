"""The error table of the Open Inference Protocol, a row a case: what is wrong with a request, code and sentence.

Over a real socket, beside requests that share a batch with the wrong one and must not notice. Sentences are Triton's
where Triton has one; its clients match on them. Other rows are where what they are about is: queues and shutdown in
`test_protocol`, sequences, streams, loading and tuning in files of their names, groups in `test_restricted`.
No request can meet those of namespaces, decoupled models and regions of shared memory: there are none here.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.oip import Run, Stub, ask, columns, error_of, told, value, with_gateway
from tritonclient.grpc import service_pb2

from headrace.client import request
from headrace.gateway.server import Gateway
from headrace.testing.replica import ECHO_SPEC, FakeReplica
from headrace.v1 import control_pb2

INVALID = "INVALID_ARGUMENT"
Edit = Callable[[Any], object]
Row = tuple[str, Edit, str, str]
"""A situation, what makes a good request one, code, and what the message says."""


def shape(*dims: int) -> Edit:
    def edit(message: Any) -> None:
        message.inputs[0].shape[:] = dims

    return edit


def raw(place: int, data: bytes) -> Edit:
    def edit(message: Any) -> None:
        message.raw_input_contents[place] = data

    return edit


def parameter(name: str, kind: str, content: Any) -> Edit:
    return lambda message: setattr(message.parameters[name], kind, content)


def no_key(message: Any) -> None:
    del message.inputs[1], message.raw_input_contents[1]


def too_many_rows(message: Any) -> None:
    message.inputs[0].shape[0] = message.inputs[1].shape[0] = 33


def one_raw_too_few(message: Any) -> None:
    del message.raw_input_contents[1]


def nothing_raw(message: Any) -> None:
    del message.raw_input_contents[:]


def typed(place: int, field: str, *values: Any) -> Edit:
    """No raw bytes; the inputs' values in fields, those of `place` in this one."""

    def edit(message: Any) -> None:
        nothing_raw(message)
        message.inputs[0].contents.fp32_contents.extend([1.0] * 6)
        message.inputs[1].contents.int64_contents.append(7)
        message.inputs[place].ClearField("contents")
        getattr(message.inputs[place].contents, field).extend(values)

    return edit


def output(name: str, **parameters: Any) -> Edit:
    """It asks for this output; a parameter's kind stands behind two underscores."""

    def edit(message: Any) -> None:
        asked = message.outputs.add(name=name)
        for key, content in parameters.items():
            parameter_name, _, kind = key.partition("__")
            setattr(asked.parameters[parameter_name], kind, content)

    return edit


def both(*edits: Edit) -> Edit:
    return lambda message: [edit(message) for edit in edits]


MISSING = (
    "expected 2 inputs but got 1 inputs for model 'echo'. Got input(s) ['events'], but missing required input(s) "
    "['key']. Please provide all required input(s)."
)
SHAPE = "unexpected shape for input 'events' for model 'echo'. Expected [-1,-1,2], got "
VERSION = "failed to get model version from specified version string"
NO_DATA = "unable to find data for input tensor 'events' for model 'echo' in request."
SHARED = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."

NAMES: list[Row] = [
    (
        "an unknown model",
        lambda m: setattr(m, "model_name", "x"),
        "NOT_FOUND",
        "Request for unknown model: 'x' is not found",
    ),
    (
        "a model of which no version was ever ready",
        lambda m: setattr(m, "model_name", "cold"),
        "NOT_FOUND",
        "Request for unknown model: 'cold' has no available versions",
    ),
    (
        "an unknown version",
        lambda m: setattr(m, "model_version", "9"),
        "NOT_FOUND",
        "Request for unknown model: 'echo' version 9 is not found",
    ),
    (
        "a version that is loading",
        lambda m: setattr(m, "model_version", "2"),
        "UNAVAILABLE",
        "Request for unknown model: 'echo' version 2 is not at ready state",
    ),
    ("a version that is no number", lambda m: setattr(m, "model_version", "x"), INVALID, VERSION),
    ("a version below zero", lambda m: setattr(m, "model_version", "-1"), INVALID, VERSION),
    ("a version with a fraction", lambda m: setattr(m, "model_version", "1.0"), INVALID, VERSION),
    ("a version of too many digits", lambda m: setattr(m, "model_version", "9" * 5000), INVALID, VERSION),
    ("a missing input", no_key, INVALID, MISSING),
    (
        "an unknown input",
        lambda m: setattr(m.inputs[0], "name", "n"),
        INVALID,
        "unexpected inference input 'n' for model 'echo'",
    ),
    (
        "an input twice",
        lambda m: setattr(m.inputs[1], "name", "events"),
        INVALID,
        "input 'events' already exists in request",
    ),
    ("an unknown output", output("n"), INVALID, "unexpected inference output 'n' for model 'echo'"),
    ("an output twice", both(output("sum"), output("sum")), INVALID, "output 'sum' already exists in request"),
]
TENSORS: list[Row] = [
    (
        "another datatype",
        lambda m: setattr(m.inputs[0], "datatype", "INT32"),
        INVALID,
        "inference input 'events' data-type is 'INT32', but model 'echo' expects 'FP32'",
    ),
    ("another shape", shape(1, 3, 3), INVALID, SHAPE + "[1,3,3]."),
    ("a dimension too many", shape(1, 3, 2, 1), INVALID, SHAPE + "[1,3,2,1]."),
    ("a dimension below zero", shape(1, -3, 2), INVALID, SHAPE + "[1,-3,2]."),
    (
        "more rows than a batch may have",
        too_many_rows,
        INVALID,
        "inference request batch-size must be <= 32 for 'echo'",
    ),
    ("no row", both(shape(0, 3, 2), lambda m: m.inputs[1].shape.__setitem__(0, 0)), INVALID, "batch-size must be >= 1"),
    (
        "inputs of different rows",
        shape(2, 3, 2),
        INVALID,
        "input 'key' batch size does not match other inputs for 'echo'",
    ),
    ("no batch dimension", shape(), INVALID, "input 'events' has no shape but model requires batch dimension"),
    (
        "too few bytes",
        raw(0, bytes(20)),
        INVALID,
        "input byte size mismatch for input 'events' for model 'echo'. Expected 24, got 20",
    ),
    (
        "too many bytes",
        raw(1, bytes(9)),
        INVALID,
        "input byte size mismatch for input 'key' for model 'echo'. Expected 8, got 9",
    ),
    (
        "contents beside raw bytes",
        lambda m: m.inputs[0].contents.fp32_contents.append(1.0),
        INVALID,
        "contents field must not be specified when using raw_input_contents for 'events' for model 'echo'",
    ),
    ("no data at all", nothing_raw, INVALID, NO_DATA),
    ("no data for one input", one_raw_too_few, INVALID, NO_DATA.replace("events", "key")),
    (
        "more raw bytes than inputs",
        lambda m: m.raw_input_contents.append(b""),
        INVALID,
        "expected 2 raw_input_contents for model 'echo', got 3",
    ),
    ("typed contents in another field", typed(0, "fp64_contents", *[1.0] * 6), INVALID, NO_DATA),
    (
        "too few typed contents",
        typed(0, "fp32_contents", 1.0),
        INVALID,
        "input byte size mismatch for input 'events' for model 'echo'. Expected 24, got 4",
    ),
    (
        "not a number",
        raw(0, np.full(6, np.nan, "f4").tobytes()),
        INVALID,
        "input 'events' has a value that is not finite",
    ),
    ("infinity", raw(0, np.full(6, np.inf, "f4").tobytes()), INVALID, "input 'events' has a value that is not finite"),
    ("a value below the least", raw(1, np.array([-1]).tobytes()), INVALID, "input 'key' has a value below 0"),
    (
        "an input in shared memory",
        lambda m: setattr(m.inputs[0].parameters["shared_memory_region"], "string_param", "r"),
        "UNIMPLEMENTED",
        SHARED,
    ),
    ("an output in shared memory", output("sum", shared_memory_region__string_param="r"), "UNIMPLEMENTED", SHARED),
]
PARAMETERS: list[Row] = [
    (
        "a priority below zero",
        parameter("priority", "int64_param", -1),
        INVALID,
        "invalid value for 'priority', expected value >= 0.",
    ),
    (
        "a priority in words",
        parameter("priority", "string_param", "high"),
        INVALID,
        "invalid value for 'priority', expected value >= 0.",
    ),
    (
        "a timeout in words",
        parameter("timeout", "string_param", "1"),
        INVALID,
        "invalid value type for 'timeout' parameter, expected int64_param.",
    ),
    (
        "a timeout without a sign",
        parameter("timeout", "uint64_param", 1),
        INVALID,
        "invalid value type for 'timeout' parameter, expected int64_param.",
    ),
    (
        "a reserved name",
        parameter("triton_x", "int64_param", 1),
        INVALID,
        "parameter keys starting with 'triton_' are reserved for Triton usage: 'triton_x'",
    ),
    (
        "a custom parameter without a sign",
        parameter("mine", "uint64_param", 1),
        INVALID,
        "invalid value type for 'mine' parameter, expected int64_param, bool_param, or string_param.",
    ),
    (
        "a custom parameter without a value",
        lambda m: m.parameters["mine"],
        INVALID,
        "invalid value type for 'mine' parameter, expected int64_param, bool_param, or string_param.",
    ),
    (
        "an entity that is no text",
        parameter("headrace_entity", "int64_param", 1),
        INVALID,
        "invalid value type for 'headrace_entity' parameter, expected string_param.",
    ),
    (
        "an entity that is too long",
        parameter("headrace_entity", "string_param", "x" * 257),
        INVALID,
        "invalid value for 'headrace_entity' parameter, expected at most 256 characters.",
    ),
    (
        "an amount that is no number",
        parameter("headrace_amount", "double_param", float("nan")),
        INVALID,
        "invalid value for 'headrace_amount' parameter, expected a finite double_param.",
    ),
    (
        "a currency that is none",
        parameter("headrace_currency", "string_param", "euro"),
        INVALID,
        "invalid value for 'headrace_currency' parameter, expected an ISO 4217 code of three letters.",
    ),
    (
        "classes in words",
        output("sum", classification__string_param="2"),
        INVALID,
        "invalid value type for 'classification' parameter, expected int64_param",
    ),
    (
        "no class",
        output("sum", classification__int64_param=0),
        INVALID,
        "invalid value for 'classification' parameter, expected >= 0",
    ),
    (
        "fewer classes than none",
        output("sum", classification__int64_param=-1),
        INVALID,
        "invalid value for 'classification' parameter, expected >= 0",
    ),
]


def cases(rows: list[Row]) -> Any:
    return pytest.mark.parametrize(
        ("edit", "code", "sentence"), [row[1:] for row in rows], ids=[row[0] for row in rows]
    )


def warming(replica: FakeReplica, name: str, version: str) -> control_pb2.Registration:
    registration = replica.registration
    registration.replica_id, registration.state = f"{name}-{version}", control_pb2.REPLICA_STATE_WARMING
    registration.spec.name, registration.spec.version = name, version
    return registration


@cases(NAMES + TENSORS + PARAMETERS)
def test_a_bad_request_is_told_what_is_wrong_and_harms_nobody(
    run: Run, tmp_path: Path, edit: Edit, code: str, sentence: str
) -> None:
    message = ask()
    edit(message)

    async def body(stub: Stub, gateway: Gateway, replica: FakeReplica) -> Any:
        cold = [warming(replica, "cold", "1"), warming(replica, "echo", "2")]
        gateway.models.apply(control_pb2.Snapshot(replicas=[replica.registration, *cold]))
        mates = [asyncio.ensure_future(stub.ModelInfer(ask())) for _ in range(3)]  # they may share its batch
        error = await error_of(stub.ModelInfer(message))
        return error, [value(await mate) for mate in mates]

    error, answers = with_gateway(run, tmp_path, body)
    found, details = told(error)

    assert found == code
    assert sentence in details
    assert details.startswith("[request id: <id_unknown>] ")
    assert answers == [[13.0]] * 3


def test_a_request_has_no_more_rows_than_the_settings_let_a_batch_have(run: Run, tmp_path: Path) -> None:
    """And ModelConfig says so: whoever keeps to `max_batch_size` is never refused for its size."""

    async def body(stub: Stub, *_: Any) -> Any:
        config = await stub.ModelConfig(service_pb2.ModelConfigRequest(name="echo"))
        most = config.config.max_batch_size
        fits, one_more = (request("echo", columns(rows=rows)) for rows in (most, most + 1))
        return most, await stub.ModelInfer(fits), await error_of(stub.ModelInfer(one_more))

    most, answer, error = with_gateway(run, tmp_path, body, models={"echo": {"batching": {"max_rows": 3}}})

    assert most == 3
    assert value(answer) == [13.0] * 3
    assert told(error) == (
        INVALID,
        "[request id: <id_unknown>] inference request batch-size must be <= 3 for 'echo'",
    )


def test_who_cancels_in_the_queue_leaves_it_and_no_replica_hears_of_it(run: Run, tmp_path: Path) -> None:
    """The row without a sentence: its caller has gone. It is counted as what it is."""

    async def body(stub: Stub, gateway: Gateway, replica: FakeReplica) -> Any:
        replica.hanging.set()
        before = []
        for count in (1, 2):  # one runs, one is staged: what comes now waits in the queue
            before.append(asyncio.ensure_future(stub.ModelInfer(ask())))
            while len(replica.batches) < count:
                await asyncio.sleep(0.01)
        (lane,) = gateway.models.lanes()
        queued = [stub.ModelInfer(request("echo", columns(key=key))) for key in (8, 9)]
        while len(lane.queue) < 2:
            await asyncio.sleep(0.01)
        queued[0].cancel()
        while len(lane.queue) > 1:
            await asyncio.sleep(0.01)
        replica.hanging.clear()
        answers = await asyncio.gather(*before, queued[1])
        url = f"http://127.0.0.1:{gateway.metrics_port}/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        return await queued[0].code(), list(map(value, answers)), [batch.rows for batch in replica.batches], page

    code, answers, rows, page = with_gateway(run, tmp_path, body)

    assert code.name == "CANCELLED"
    assert answers == [[13.0], [13.0], [15.0]]
    assert rows == [1, 1, 1]
    assert 'nv_inference_request_failure{model="echo",reason="CANCELED",version="1"} 1.0' in page


def test_the_callers_own_id_opens_the_sentence(run: Run, tmp_path: Path) -> None:
    message = ask(request_id="abc", version="9")

    error = with_gateway(run, tmp_path, lambda stub, *_: error_of(stub.ModelInfer(message)))

    assert told(error)[1].startswith("[request id: abc] Request for unknown model: ")


# Strings, and datatypes that not every model has ----------------------------------------------------------------------


def strict_spec() -> control_pb2.ModelSpec:
    """As `echo`, and an input of two strings and numbers of little room; outputs that are no classes."""
    spec = control_pb2.ModelSpec()
    spec.CopyFrom(ECHO_SPEC)
    spec.inputs.add(name="names", datatype="BYTES", dims=[2], max_bytes=5, optional=True)
    for datatype in ("INT8", "UINT16", "FP16", "BF16", "BOOL"):
        spec.inputs.add(name=datatype, datatype=datatype, dims=[1], optional=True)
    for datatype, dims in (("FP16", [1]), ("BF16", [1]), ("BOOL", [1]), ("FP32", [1001, 1000])):
        spec.extras.add(name=f"{datatype}-{dims[0]}", datatype=datatype, dims=dims, costs_rows=1)
    spec.extras.add(name="text", datatype="BYTES", dims=[1], max_bytes=5, costs_rows=1)
    return spec


def names(data: bytes, *dims: int) -> Edit:
    def edit(message: Any) -> None:
        message.inputs.add(name="names", datatype="BYTES", shape=dims or (1, 2))
        message.raw_input_contents.append(data)

    return edit


def small(datatype: str, field: str, number: float) -> Edit:
    def edit(message: Any) -> None:
        typed(1, "int64_contents", 7)(message)
        given = message.inputs.add(name=datatype, datatype=datatype, shape=(1, 1))
        getattr(given.contents, field).append(number)

    return edit


def text(*strings: bytes) -> bytes:
    return b"".join(len(one).to_bytes(4, "little") + one for one in strings)


NAMED = "for inference input 'names' for model 'echo'"
STRINGS: list[Row] = [
    (
        "half an indicator of length",
        names(text(b"ab") + b"\1\0"),
        INVALID,
        f"incomplete string length indicator {NAMED}, expecting 4 bytes but only 2 bytes available. Please make sure",
    ),
    (
        "more strings than the shape says",
        names(text(b"a", b"b", b"c")),
        INVALID,
        f"unexpected number of string elements 3 {NAMED}, expecting 2",
    ),
    ("fewer strings than the shape says", names(text(b"a")), INVALID, f"expected 2 string elements {NAMED}, got 1"),
    ("no string at all", names(b""), INVALID, f"expected 2 string elements {NAMED}, got 0"),
    (
        "a string that ends too soon",
        names(text(b"a") + b"\4\0\0\0ab"),
        INVALID,
        f"incomplete string data {NAMED}, expecting string of length 4 but only 2 bytes available",
    ),
    (
        "a string longer than the model takes",
        names(text(b"a", b"abcdef")),
        INVALID,
        "input 'names' for model 'echo' has a string of 6 bytes, but takes 5 at most",
    ),
    (
        "strings in another shape",
        names(text(b"a"), 1, 1),
        INVALID,
        "unexpected shape for input 'names' for model 'echo'. Expected [-1,2], got [1,1].",
    ),
    ("an integer that does not fit", small("INT8", "int_contents", 128), INVALID, "has a value outside of INT8"),
    ("another that does not", small("INT8", "int_contents", -129), INVALID, "has a value outside of INT8"),
    ("one without a sign", small("UINT16", "uint_contents", 65_536), INVALID, "has a value outside of UINT16"),
    ("a half beyond the largest", small("FP16", "fp32_contents", 65_520.0), INVALID, "has a value outside of FP16"),
    ("a bfloat16 beyond it", small("BF16", "fp32_contents", 3.4e38), INVALID, "has a value outside of BF16"),
    ("classes of halves", output("FP16-1", classification__int64_param=1), INVALID, "unsupported type 'FP16'"),
    ("classes of bfloat16", output("BF16-1", classification__int64_param=1), INVALID, "unsupported type 'BF16'"),
    ("classes of truths", output("BOOL-1", classification__int64_param=1), INVALID, "unsupported type 'BOOL'"),
    ("classes of strings", output("text", classification__int64_param=1), INVALID, "unsupported type 'BYTES'"),
    (
        "classes of too many",
        output("FP32-1001", classification__int64_param=1),
        INVALID,
        "class result not available for output 'FP32-1001': 1001000 elements are more than 1000000",
    ),
]


@cases(STRINGS)
def test_what_a_datatype_cannot_hold_is_told_and_never_computed(
    run: Run, tmp_path: Path, edit: Edit, code: str, sentence: str
) -> None:
    message = ask()
    edit(message)

    async def body(stub: Stub, _: Gateway, replica: FakeReplica) -> Any:
        return await error_of(stub.ModelInfer(message)), len(replica.batches)

    error, batches = with_gateway(run, tmp_path, body, replica=lambda: FakeReplica(strict_spec()))
    found, details = told(error)

    assert found == code
    assert sentence in details
    assert batches == 0


# Other RPCs -----------------------------------------------------------------------------------------------------------


def test_metadata_and_configuration_of_what_is_not_there_are_not_found(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, *_: Any) -> Any:
        asked = {"name": "nobody"}, {"name": "echo", "version": "9"}, {"name": "echo", "version": "x"}
        calls = [
            (rpc, kind(**which))
            for rpc, kind in (
                (stub.ModelMetadata, service_pb2.ModelMetadataRequest),
                (stub.ModelConfig, service_pb2.ModelConfigRequest),
            )
            for which in asked
        ]
        return [told(await error_of(rpc(request))) for rpc, request in calls]

    errors = with_gateway(run, tmp_path, body)

    for code, sentence in (
        ("NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
        ("NOT_FOUND", "Request for unknown model: 'echo' version 9 is not found"),
        (INVALID, VERSION),
    ):
        matching = [found for found in errors if found[0] == code and sentence in found[1]]
        assert len(matching) == 2


def test_a_malformed_version_is_invalid_for_readiness_and_statistics_too(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, *_: Any) -> Any:
        ready = service_pb2.ModelReadyRequest(name="echo", version="x")
        statistics = service_pb2.ModelStatisticsRequest(name="echo", version="x")
        return [told(await error_of(call)) for call in (stub.ModelReady(ready), stub.ModelStatistics(statistics))]

    errors = with_gateway(run, tmp_path, body)

    assert [code for code, _ in errors] == [INVALID, INVALID]
    assert all(VERSION in sentence for _, sentence in errors)


def test_statistics_of_a_model_that_is_not_there_are_invalid_and_not_unknown(run: Run, tmp_path: Path) -> None:
    question = service_pb2.ModelStatisticsRequest(name="nobody")

    error = with_gateway(run, tmp_path, lambda stub, *_: error_of(stub.ModelStatistics(question)))

    assert told(error) == (INVALID, "requested model 'nobody' is not available")
