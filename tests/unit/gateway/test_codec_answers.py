"""What every answer says of itself, and that one answer's is not another's."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2

from headrace.core.inference import Answer, Inference
from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.gateway import codec


def spec(version: str = "1", outputs: int = 2) -> ModelSpec:
    tensors = tuple(TensorSpec(f"y{place}", "FP32", (1,)) for place in range(outputs))
    return ModelSpec("m", version, f"sha256:{version}", (TensorSpec("x", "FP32", (1,)),), tensors)


def answered(of: ModelSpec, rows: int = 1, path: str = "primary", **changes: Any) -> service_pb2.ModelInferResponse:
    asked = {"id": "a", "outputs": tuple(range(len(of.outputs))), **changes}
    inference = Inference(of, [bytes(4 * rows)], rows, (), rows, 0.0, **asked)
    columns = [bytes([place]) * 4 * rows for place in range(len(of.outputs))]
    return codec.encode(inference, Answer(columns, 0xAB, 7, 1234, path))


def parameters(response: service_pb2.ModelInferResponse) -> dict[str, Any]:
    return {name: getattr(one, one.WhichOneof("parameter_choice")) for name, one in response.parameters.items()}


def test_an_audit_finds_weights_batch_wait_and_path() -> None:
    assert parameters(answered(spec(), path="canary")) == {
        "headrace_version_digest": "sha256:1",
        "headrace_batch_id": "00000000000000ab",
        "headrace_batch_rows": 7,
        "headrace_queue_us": 1234,
        "headrace_path": "canary",
    }


def test_what_was_dropped_is_said_by_axis() -> None:
    said = parameters(answered(spec(), truncated={"card": 3}))

    assert said["headrace_truncated_card"] == 3
    assert "headrace_truncated_card" not in parameters(answered(spec()))


def test_answers_of_one_kind_do_not_write_into_each_other() -> None:
    one = spec()
    first = answered(one)
    first.outputs[0].shape[0] = 99
    first.parameters["headrace_path"].string_param = "spoilt"
    del first.outputs[1]
    second = answered(one, id="")

    assert [(o.name, list(o.shape)) for o in second.outputs] == [("y0", [1, 1]), ("y1", [1, 1])]
    assert parameters(second)["headrace_path"] == "primary"
    assert second.id == ""


def test_versions_rows_and_outputs_each_have_their_own() -> None:
    one, other = spec("1"), spec("2", outputs=1)
    found = [answered(one), answered(other, rows=3), answered(one, outputs=(1,)), answered(spec("1"))]

    assert [response.model_version for response in found] == ["1", "2", "1", "1"]
    assert [[(o.name, o.shape[0]) for o in response.outputs] for response in found] == [
        [("y0", 1), ("y1", 1)],
        [("y0", 3)],
        [("y1", 1)],
        [("y0", 1), ("y1", 1)],
    ]
    assert list(found[2].raw_output_contents) == [b"\1\1\1\1"]


def test_heads_that_are_remembered_are_bounded() -> None:
    """By rows alone a caller could make as many as a model takes, and versions come and go for ever."""
    specs = [spec(str(number)) for number in range(1, 1500)]

    assert [answered(one).model_version for one in specs] == [one.version for one in specs]
    assert answered(specs[0], rows=2).outputs[0].shape[0] == 2
