"""ModelConfig says the batching in force, in Triton's words."""

from __future__ import annotations

import pytest
from tritonclient.grpc import model_config_pb2

from headrace.config import BatchingSettings
from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.gateway.description import config

SPEC = ModelSpec("m", "1", "", (TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),), max_rows=32)
Policy = model_config_pb2.ModelQueuePolicy


def test_every_batching_field_is_told() -> None:
    settings = BatchingSettings.model_validate(
        {
            "max_queue_delay_us": 500,
            "preferred_batch_size": [8, 16],
            "priority_levels": 3,
            "default_priority_level": 2,
            "default_queue_policy": {"max_queue_size": 100, "default_timeout_us": 7000},
            "priority_queue_policy": {3: {"timeout_action": "delay", "allow_timeout_override": False}},
        }
    )

    told = config(SPEC, settings).dynamic_batching

    assert list(told.preferred_batch_size) == [8, 16]
    assert (told.max_queue_delay_microseconds, told.priority_levels, told.default_priority_level) == (500, 3, 2)
    assert (told.default_queue_policy.max_queue_size, told.default_queue_policy.default_timeout_microseconds) == (
        100,
        7000,
    )
    assert told.priority_queue_policy[3].timeout_action == Policy.DELAY
    assert not told.priority_queue_policy[3].allow_timeout_override


def test_without_settings_it_is_what_triton_would_call_the_defaults_here() -> None:
    told = config(SPEC, BatchingSettings()).dynamic_batching

    assert list(told.preferred_batch_size) == [32]
    assert not told.priority_levels
    assert told.default_queue_policy.timeout_action == Policy.REJECT
    assert told.default_queue_policy.allow_timeout_override


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"default_priority_level": 2}, "must lie in 1..1"),
        ({"priority_queue_policy": {4: {}}}, "names level 4"),
        ({"preferred_batch_size": [0]}, "must be positive"),
        ({"preserve_ordering": True, "priority_levels": 2}, "one priority level"),
        ({"preserve_ordering": True, "default_queue_policy": {"timeout_action": "delay"}}, "timeout_action"),
    ],
)
def test_settings_that_contradict_each_other_stop_the_start(wrong: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BatchingSettings.model_validate(wrong)


def test_strings_are_called_as_configurations_call_them() -> None:
    tensors = (TensorSpec("name", "BYTES", (2,), max_bytes=8), TensorSpec("half", "BF16", (1,)))
    told = config(ModelSpec("m", "1", "", tensors, tensors), BatchingSettings())

    for configured in (told.input, told.output):
        assert [tensor.data_type for tensor in configured] == [
            model_config_pb2.TYPE_STRING,
            model_config_pb2.TYPE_BF16,
        ]
