"""What the protocol tells about server and models: metadata, configuration, statistics, repository index.

Pure translation of specs and counters into the protocol's messages; called by the servicer only.
"""

from __future__ import annotations

from importlib.metadata import version as distribution_version
from typing import Final

from tritonclient.grpc import model_config_pb2, service_pb2

from headrace.config import BatchingSettings, QueuePolicy
from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.errors import InvalidInference
from headrace.gateway.models import Models
from headrace.telemetry.counters import Counters, Duration, ModelCounters

EXTENSIONS: Final = (
    "classification",
    "sequence",
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)
"""Only what is honoured."""


def server() -> service_pb2.ServerMetadataResponse:
    return service_pb2.ServerMetadataResponse(
        name="headrace", version=distribution_version("headrace"), extensions=EXTENSIONS
    )


def metadata(spec: ModelSpec, models: Models) -> service_pb2.ModelMetadataResponse:
    """Shapes carry the batch dimension, -1, in front."""
    versions = next((model.ready_versions() for model in models if model.name == spec.name), [])
    return service_pb2.ModelMetadataResponse(
        name=spec.name,
        versions=versions,
        platform=spec.platform,
        inputs=[_tensor_metadata(tensor) for tensor in spec.inputs],
        outputs=[_tensor_metadata(tensor) for tensor in spec.outputs],
    )


def config(spec: ModelSpec, settings: BatchingSettings) -> model_config_pb2.ModelConfig:
    """The spec and the batching in force, in the words of Triton's configuration."""
    return model_config_pb2.ModelConfig(
        name=spec.name,
        platform=spec.platform,
        backend="headrace",
        max_batch_size=spec.max_rows,
        input=[
            model_config_pb2.ModelInput(name=t.name, data_type=_data_type(t), dims=t.dims, optional=t.optional)
            for t in spec.inputs
        ],
        output=[model_config_pb2.ModelOutput(name=t.name, data_type=_data_type(t), dims=t.dims) for t in spec.outputs],
        dynamic_batching=_dynamic_batching(spec.max_rows, settings),
        version_policy=model_config_pb2.ModelVersionPolicy(all=model_config_pb2.ModelVersionPolicy.All()),
    )


def _dynamic_batching(rows: int, settings: BatchingSettings) -> model_config_pb2.ModelDynamicBatching:
    levels = settings.priority_levels
    return model_config_pb2.ModelDynamicBatching(
        preferred_batch_size=settings.preferred_batch_size or [rows],
        max_queue_delay_microseconds=settings.max_queue_delay_us,
        preserve_ordering=settings.preserve_ordering,
        priority_levels=levels if levels > 1 else 0,
        default_priority_level=settings.default_priority_level if levels > 1 else 0,
        default_queue_policy=_queue_policy(settings.default_queue_policy, settings.max_queue_rows),
        priority_queue_policy={
            level: _queue_policy(policy, settings.max_queue_rows)
            for level, policy in settings.priority_queue_policy.items()
        },
    )


def _queue_policy(policy: QueuePolicy, max_rows: int) -> model_config_pb2.ModelQueuePolicy:
    kind = model_config_pb2.ModelQueuePolicy
    return kind(
        timeout_action=kind.DELAY if policy.timeout_action == "delay" else kind.REJECT,
        default_timeout_microseconds=policy.default_timeout_us,
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size or max_rows,
    )


def statistics(models: Models, counters: Counters, name: str, version: str) -> service_pb2.ModelStatisticsResponse:
    """Cumulative figures of the loaded versions; name or version empty = all. Raises: InvalidInference."""
    found = [
        _statistics(model.name, number, counters.of(model.name, number))
        for model in models
        if name in ("", model.name)
        for number in model.ready_versions()
        if version in ("", number)
    ]
    if name and not found:
        raise InvalidInference(f"requested model '{name}' is not available")
    return service_pb2.ModelStatisticsResponse(model_stats=found)


def index(models: Models, *, ready_only: bool) -> service_pb2.RepositoryIndexResponse:
    """Every version there is: those with a lane here, and those that a deployer knows of."""
    ready = {(model.name, number) for model in models for number in model.ready_versions()}
    opened = {(model.name, number) for model in models for number in model.opened}
    known = {(model.name, number) for model in models for number in model.lanes}
    known |= {(one.model, one.version) for one in models.repository}
    entries = []
    for name, number in sorted(ready if ready_only else known, key=lambda one: (one[0], int(one[1]))):
        if (name, number) in ready:
            state, reason = "READY", ""
        else:
            state, reason = models.repository.state(name, number, opened=(name, number) in opened)
        entries.append(
            service_pb2.RepositoryIndexResponse.ModelIndex(name=name, version=number, state=state, reason=reason)
        )
    return service_pb2.RepositoryIndexResponse(models=entries)


def _tensor_metadata(tensor: TensorSpec) -> service_pb2.ModelMetadataResponse.TensorMetadata:
    return service_pb2.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=(-1, *tensor.dims)
    )


def _data_type(tensor: TensorSpec) -> str:
    """As configurations call it: there, strings are no bytes."""
    return "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"


def _statistics(name: str, version: str, of: ModelCounters) -> service_pb2.ModelStatistics:
    return service_pb2.ModelStatistics(
        name=name,
        version=version,
        last_inference=of.last_inference_ms,
        inference_count=of.inference_count,
        execution_count=of.execution_count,
        inference_stats=service_pb2.InferStatistics(
            success=_duration(of.success),
            fail=_duration(of.fail),
            queue=_duration(of.queue),
            compute_input=_duration(of.compute_input),
            compute_infer=_duration(of.compute_infer),
            compute_output=_duration(of.compute_output),
            cache_hit=_duration(of.cache_hit),
            cache_miss=_duration(of.cache_miss),
        ),
        batch_stats=[
            service_pb2.InferBatchStatistics(
                batch_size=size,
                compute_input=_duration(batch.compute_input),
                compute_infer=_duration(batch.compute_infer),
                compute_output=_duration(batch.compute_output),
            )
            for size, batch in sorted(of.batch_stats.items())
        ],
    )


def _duration(duration: Duration) -> service_pb2.StatisticDuration:
    return service_pb2.StatisticDuration(count=duration.count, ns=duration.ns)
