"""Every datatype of the Open Inference Protocol over a real socket: raw, typed, and read by NVIDIA's own client.

Behind the gateway is a replica that gives back what it gets, column by column.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.oip import Run, Stub, told, with_gateway
from tests.oip import error_of as error_of_call
from tritonclient.grpc import service_pb2

from headrace.gateway.server import Gateway
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2, replica_pb2

WIDTH = 12
VALUES: dict[str, tuple[Any, str, list[Any]]] = {
    "BOOL": (np.bool_, "bool_contents", [True, False]),
    "INT8": (np.int8, "int_contents", [-128, 127]),
    "INT16": (np.int16, "int_contents", [-32_768, 32_767]),
    "INT32": (np.int32, "int_contents", [-(2**31), 2**31 - 1]),
    "INT64": (np.int64, "int64_contents", [-(2**63), 2**63 - 1]),
    "UINT8": (np.uint8, "uint_contents", [0, 255]),
    "UINT16": (np.uint16, "uint_contents", [0, 65_535]),
    "UINT32": (np.uint32, "uint_contents", [0, 2**32 - 1]),
    "UINT64": (np.uint64, "uint64_contents", [0, 2**64 - 1]),
    "FP16": (np.float16, "fp32_contents", [-1.5, 65_504.0]),
    "FP32": (np.float32, "fp32_contents", [-1.5, 1e30]),
    "FP64": (np.float64, "fp64_contents", [-1.5, 1e300]),
    "BF16": (ml_dtypes.bfloat16, "fp32_contents", [-1.5, 2.0**100]),
    "BYTES": (np.object_, "bytes_contents", [b"", b"\0caf\xc3\xa9\xff"]),
}
"""Datatype → numpy's, the field that carries it, and two values at its edges."""


def spec() -> control_pb2.ModelSpec:
    found = control_pb2.ModelSpec(name="mirror", version="3", digest="sha256:7", platform="fake", max_rows=8)
    found.max_tokens = 64
    for datatype in VALUES:
        width = WIDTH if datatype == "BYTES" else 0
        found.inputs.add(name=f"in-{datatype}", datatype=datatype, dims=[2], optional=True, max_bytes=width)
        found.outputs.add(name=f"out-{datatype}", datatype=datatype, dims=[2], max_bytes=width)
    return found


class Mirror(FakeReplica):
    """Gives back its columns."""

    def __init__(self) -> None:
        super().__init__(spec())

    def _answer(self, request: replica_pb2.PackedBatch) -> replica_pb2.PackedAnswer:
        return replica_pb2.PackedAnswer(columns=request.columns, status=bytes(request.rows))


def with_mirror(run: Run, tmp_path: Path, body: Callable[..., Awaitable[Any]]) -> Any:
    return with_gateway(run, tmp_path, body, replica=Mirror)


def array(datatype: str) -> np.ndarray:
    dtype, _, values = VALUES[datatype]
    return np.array([values, values[::-1]], dtype)


def ask(*datatypes: str) -> service_pb2.ModelInferRequest:
    """Two rows of each, in typed contents."""
    message = service_pb2.ModelInferRequest(model_name="mirror")
    for datatype in datatypes:
        _, field, values = VALUES[datatype]
        given = message.inputs.add(name=f"in-{datatype}", datatype=datatype, shape=[2, 2])
        getattr(given.contents, field).extend(values + values[::-1])
        message.outputs.add(name=f"out-{datatype}")
    return message


@pytest.mark.parametrize("datatype", VALUES)
def test_nvidias_client_gets_back_what_it_sent(run: Run, tmp_path: Path, datatype: str) -> None:
    sent = array(datatype)
    given = triton.InferInput(f"in-{datatype}", [2, 2], datatype)
    given.set_data_from_numpy(sent)
    wanted = triton.InferRequestedOutput(f"out-{datatype}")

    async def body(_: Stub, gateway: Gateway, __: FakeReplica) -> Any:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{gateway.port}") as client:
            return await client.infer("mirror", [given], outputs=[wanted])

    answer = with_mirror(run, tmp_path, body)

    np.testing.assert_array_equal(answer.as_numpy(f"out-{datatype}"), sent)


@pytest.mark.parametrize("datatype", VALUES)
def test_typed_contents_are_as_good_as_raw_ones(run: Run, tmp_path: Path, datatype: str) -> None:
    answer = with_mirror(run, tmp_path, lambda stub, *_: stub.ModelInfer(ask(datatype)))
    told = triton.InferResult(answer)

    np.testing.assert_array_equal(told.as_numpy(f"out-{datatype}"), array(datatype))
    assert [(o.datatype, list(o.shape)) for o in answer.outputs] == [(datatype, [2, 2])]
    assert not any(output.HasField("contents") for output in answer.outputs)


def test_all_of_them_ride_in_one_request_and_every_answer_has_its_place(run: Run, tmp_path: Path) -> None:
    answer = with_mirror(run, tmp_path, lambda stub, *_: stub.ModelInfer(ask(*reversed(VALUES))))
    found = triton.InferResult(answer)

    assert [output.name for output in answer.outputs] == [f"out-{datatype}" for datatype in reversed(VALUES)]
    for datatype in VALUES:
        np.testing.assert_array_equal(found.as_numpy(f"out-{datatype}"), array(datatype))


def test_strings_that_are_left_out_are_empty(run: Run, tmp_path: Path) -> None:
    message = ask("INT8")
    message.outputs.add(name="out-BYTES")

    answer = with_mirror(run, tmp_path, lambda stub, *_: stub.ModelInfer(message))

    assert triton.InferResult(answer).as_numpy("out-BYTES").tolist() == [[b"", b""]] * 2


def test_strings_of_one_width_go_to_the_replica_whatever_their_lengths(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, _: Gateway, replica: Mirror) -> Any:
        await stub.ModelInfer(ask("BYTES"))
        return replica.batches[-1].columns[list(VALUES).index("BYTES")]

    column = with_mirror(run, tmp_path, body)

    assert len(column) == 4 * (4 + WIDTH)
    assert column[: 4 + WIDTH] == bytes(4 + WIDTH)
    assert column[4 + WIDTH : 2 * (4 + WIDTH)] == b"\7\0\0\0\0caf\xc3\xa9\xff" + bytes(5)


def test_a_string_that_the_spec_does_not_allow_is_never_told(run: Run, tmp_path: Path) -> None:
    def lengthen(answer: replica_pb2.PackedAnswer) -> None:
        place = list(VALUES).index("BYTES")
        answer.columns[place] = b"\x0d\0\0\0" + answer.columns[place][4:]

    async def body(stub: Stub, _: Gateway, replica: Mirror) -> Any:
        replica.change = lengthen
        return await error_of_call(stub.ModelInfer(ask("BYTES"))), await stub.ModelInfer(ask("INT8"))

    error, mate = with_mirror(run, tmp_path, body)
    code, sentence = told(error)

    assert code == "INTERNAL"
    assert "a string that is longer than its spec promises" in sentence
    assert mate.outputs[0].name == "out-INT8"


def test_metadata_calls_them_bytes_and_configuration_string(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, *_: Any) -> Any:
        return (
            await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="mirror")),
            (await stub.ModelConfig(service_pb2.ModelConfigRequest(name="mirror"))).config,
        )

    metadata, config = with_mirror(run, tmp_path, body)
    kind = type(config.input[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number

    for tensors, configured in ((metadata.inputs, config.input), (metadata.outputs, config.output)):
        assert [tensor.datatype for tensor in tensors] == list(VALUES)
        assert [kind[tensor.data_type].name for tensor in configured] == [
            "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}" for datatype in VALUES
        ]
    assert [list(tensor.shape) for tensor in metadata.inputs] == [[-1, 2]] * len(VALUES)


# What the answer says of itself ---------------------------------------------------------------------------------------


def test_an_answer_says_which_weights_which_batch_and_in_what_capacity(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, _: Gateway, replica: Mirror) -> Any:
        answer = await stub.ModelInfer(ask("INT8"))
        return answer, replica.batches[-1]

    answer, batch = with_mirror(run, tmp_path, body)
    said = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in answer.parameters.items()}

    assert said == {
        "headrace_version_digest": "sha256:7",
        "headrace_batch_id": f"{batch.batch_id:016x}",
        "headrace_batch_rows": 2,
        "headrace_queue_us": said["headrace_queue_us"],
        "headrace_path": "primary",
    }
    assert said["headrace_queue_us"] >= 0


# Classification -------------------------------------------------------------------------------------------------------


def classes(datatype: str, most: int) -> service_pb2.ModelInferRequest:
    message = ask(datatype)
    message.outputs[0].parameters["classification"].int64_param = most
    return message


@pytest.mark.parametrize(
    ("datatype", "told"),
    [
        ("INT8", [[b"127:1", b"-128:0"], [b"127:0", b"-128:1"]]),
        ("UINT64", [[b"18446744073709551615:1", b"0:0"], [b"18446744073709551615:0", b"0:1"]]),
        ("FP32", [[b"1000000015047466219876688855040.000000:1", b"-1.500000:0"]] * 1),
    ],
)
def test_an_output_is_told_as_classes_to_who_asks_for_them(
    run: Run, tmp_path: Path, datatype: str, told: list[list[bytes]]
) -> None:
    answer = with_mirror(run, tmp_path, lambda stub, *_: stub.ModelInfer(classes(datatype, 5)))

    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [(f"out-{datatype}", "BYTES", [2, 2])]
    assert triton.InferResult(answer).as_numpy(f"out-{datatype}").tolist()[: len(told)] == told


def test_as_many_as_asked_for_and_others_as_they_are(run: Run, tmp_path: Path) -> None:
    message = classes("INT16", 1)
    message.MergeFrom(ask("INT8"))

    answer = with_mirror(run, tmp_path, lambda stub, *_: stub.ModelInfer(message))
    found = triton.InferResult(answer)

    assert found.as_numpy("out-INT16").tolist() == [[b"32767:1"], [b"32767:0"]]
    np.testing.assert_array_equal(found.as_numpy("out-INT8"), array("INT8"))


def test_the_server_announces_classification(run: Run, tmp_path: Path) -> None:
    question = service_pb2.ServerMetadataRequest()

    server = with_mirror(run, tmp_path, lambda stub, *_: stub.ServerMetadata(question))

    assert "classification" in server.extensions


def test_nvidias_client_asks_for_classes_and_reads_labels(run: Run, tmp_path: Path) -> None:
    def labelled() -> FakeReplica:
        replica = Mirror()
        replica.spec.outputs[list(VALUES).index("FP32")].labels.extend(["fine", "fraud"])
        return replica

    given = triton.InferInput("in-FP32", [1, 2], "FP32")
    given.set_data_from_numpy(np.array([[0.25, 0.75]], np.float32))
    wanted = triton.InferRequestedOutput("out-FP32", class_count=1)

    async def body(_: Stub, gateway: Gateway, __: FakeReplica) -> Any:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{gateway.port}") as client:
            return await client.infer("mirror", [given], outputs=[wanted])

    answer = with_gateway(run, tmp_path, body, replica=labelled)

    assert answer.as_numpy("out-FP32").tolist() == [[b"0.750000:1:fraud"]]
