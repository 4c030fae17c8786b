from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReplicaState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLICA_STATE_UNSPECIFIED: _ClassVar[ReplicaState]
    REPLICA_STATE_WARMING: _ClassVar[ReplicaState]
    REPLICA_STATE_READY: _ClassVar[ReplicaState]
    REPLICA_STATE_DRAINING: _ClassVar[ReplicaState]
    REPLICA_STATE_GONE: _ClassVar[ReplicaState]

class ModelPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_PHASE_UNSPECIFIED: _ClassVar[ModelPhase]
    MODEL_PHASE_FOUND: _ClassVar[ModelPhase]
    MODEL_PHASE_LOADING: _ClassVar[ModelPhase]
    MODEL_PHASE_LOADED: _ClassVar[ModelPhase]
    MODEL_PHASE_UNLOADING: _ClassVar[ModelPhase]
    MODEL_PHASE_UNLOADED: _ClassVar[ModelPhase]
    MODEL_PHASE_FAILED: _ClassVar[ModelPhase]

class DeployKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEPLOY_KIND_UNSPECIFIED: _ClassVar[DeployKind]
    DEPLOY_KIND_LOAD: _ClassVar[DeployKind]
    DEPLOY_KIND_UNLOAD: _ClassVar[DeployKind]
REPLICA_STATE_UNSPECIFIED: ReplicaState
REPLICA_STATE_WARMING: ReplicaState
REPLICA_STATE_READY: ReplicaState
REPLICA_STATE_DRAINING: ReplicaState
REPLICA_STATE_GONE: ReplicaState
MODEL_PHASE_UNSPECIFIED: ModelPhase
MODEL_PHASE_FOUND: ModelPhase
MODEL_PHASE_LOADING: ModelPhase
MODEL_PHASE_LOADED: ModelPhase
MODEL_PHASE_UNLOADING: ModelPhase
MODEL_PHASE_UNLOADED: ModelPhase
MODEL_PHASE_FAILED: ModelPhase
DEPLOY_KIND_UNSPECIFIED: DeployKind
DEPLOY_KIND_LOAD: DeployKind
DEPLOY_KIND_UNLOAD: DeployKind

class Registration(_message.Message):
    __slots__ = ("replica_id", "endpoint", "cluster", "spec", "state", "load", "host", "device", "precision", "service", "started_us", "standby")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    endpoint: str
    cluster: str
    spec: ModelSpec
    state: ReplicaState
    load: Load
    host: str
    device: str
    precision: str
    service: str
    started_us: int
    standby: bool
    def __init__(self, replica_id: _Optional[str] = ..., endpoint: _Optional[str] = ..., cluster: _Optional[str] = ..., spec: _Optional[_Union[ModelSpec, _Mapping]] = ..., state: _Optional[_Union[ReplicaState, str]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., host: _Optional[str] = ..., device: _Optional[str] = ..., precision: _Optional[str] = ..., service: _Optional[str] = ..., started_us: _Optional[int] = ..., standby: _Optional[bool] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("queued", "running_since_s")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_SINCE_S_FIELD_NUMBER: _ClassVar[int]
    queued: int
    running_since_s: float
    def __init__(self, queued: _Optional[int] = ..., running_since_s: _Optional[float] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("lease_ms",)
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    lease_ms: int
    def __init__(self, lease_ms: _Optional[int] = ...) -> None: ...

class ModelSpec(_message.Message):
    __slots__ = ("name", "version", "digest", "inputs", "outputs", "axes", "max_rows", "max_tokens", "platform", "extras", "signal")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    EXTRAS_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    digest: str
    inputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    axes: _containers.RepeatedCompositeFieldContainer[Axis]
    max_rows: int
    max_tokens: int
    platform: str
    extras: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    signal: SignalSpec
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., digest: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., axes: _Optional[_Iterable[_Union[Axis, _Mapping]]] = ..., max_rows: _Optional[int] = ..., max_tokens: _Optional[int] = ..., platform: _Optional[str] = ..., extras: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., signal: _Optional[_Union[SignalSpec, _Mapping]] = ...) -> None: ...

class SignalSpec(_message.Message):
    __slots__ = ("name", "calibration_version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    calibration_version: str
    def __init__(self, name: _Optional[str] = ..., calibration_version: _Optional[str] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "datatype", "dims", "axis", "finite", "bounded_below", "minimum", "ordered", "optional", "labels", "costs_rows", "max_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    DIMS_FIELD_NUMBER: _ClassVar[int]
    AXIS_FIELD_NUMBER: _ClassVar[int]
    FINITE_FIELD_NUMBER: _ClassVar[int]
    BOUNDED_BELOW_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    ORDERED_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    COSTS_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    dims: _containers.RepeatedScalarFieldContainer[int]
    axis: str
    finite: bool
    bounded_below: bool
    minimum: int
    ordered: bool
    optional: bool
    labels: _containers.RepeatedScalarFieldContainer[str]
    costs_rows: int
    max_bytes: int
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., dims: _Optional[_Iterable[int]] = ..., axis: _Optional[str] = ..., finite: _Optional[bool] = ..., bounded_below: _Optional[bool] = ..., minimum: _Optional[int] = ..., ordered: _Optional[bool] = ..., optional: _Optional[bool] = ..., labels: _Optional[_Iterable[str]] = ..., costs_rows: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class Axis(_message.Message):
    __slots__ = ("name", "cap", "required")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    name: str
    cap: int
    required: bool
    def __init__(self, name: _Optional[str] = ..., cap: _Optional[int] = ..., required: _Optional[bool] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("gateway_id",)
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    def __init__(self, gateway_id: _Optional[str] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("version", "epoch", "replicas", "policies", "repository")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    version: int
    epoch: str
    replicas: _containers.RepeatedCompositeFieldContainer[Registration]
    policies: _containers.RepeatedCompositeFieldContainer[TrafficPolicy]
    repository: Repository
    def __init__(self, version: _Optional[int] = ..., epoch: _Optional[str] = ..., replicas: _Optional[_Iterable[_Union[Registration, _Mapping]]] = ..., policies: _Optional[_Iterable[_Union[TrafficPolicy, _Mapping]]] = ..., repository: _Optional[_Union[Repository, _Mapping]] = ...) -> None: ...

class Repository(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("model", "version", "phase", "reason", "act")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    phase: ModelPhase
    reason: str
    act: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., phase: _Optional[_Union[ModelPhase, str]] = ..., reason: _Optional[str] = ..., act: _Optional[int] = ...) -> None: ...

class LoadRequest(_message.Message):
    __slots__ = ("model", "asked_by")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ASKED_BY_FIELD_NUMBER: _ClassVar[int]
    model: str
    asked_by: str
    def __init__(self, model: _Optional[str] = ..., asked_by: _Optional[str] = ...) -> None: ...

class LoadResponse(_message.Message):
    __slots__ = ("versions", "snapshot_version", "epoch")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedScalarFieldContainer[str]
    snapshot_version: int
    epoch: str
    def __init__(self, versions: _Optional[_Iterable[str]] = ..., snapshot_version: _Optional[int] = ..., epoch: _Optional[str] = ...) -> None: ...

class UnloadRequest(_message.Message):
    __slots__ = ("model", "asked_by")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ASKED_BY_FIELD_NUMBER: _ClassVar[int]
    model: str
    asked_by: str
    def __init__(self, model: _Optional[str] = ..., asked_by: _Optional[str] = ...) -> None: ...

class UnloadResponse(_message.Message):
    __slots__ = ("snapshot_version", "epoch")
    SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    snapshot_version: int
    epoch: str
    def __init__(self, snapshot_version: _Optional[int] = ..., epoch: _Optional[str] = ...) -> None: ...

class DrainedRequest(_message.Message):
    __slots__ = ("gateway_id", "act")
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    ACT_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    act: int
    def __init__(self, gateway_id: _Optional[str] = ..., act: _Optional[int] = ...) -> None: ...

class DrainedResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeployReport(_message.Message):
    __slots__ = ("deployer_id", "repository", "act", "failure")
    DEPLOYER_ID_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    ACT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    deployer_id: str
    repository: Repository
    act: int
    failure: str
    def __init__(self, deployer_id: _Optional[str] = ..., repository: _Optional[_Union[Repository, _Mapping]] = ..., act: _Optional[int] = ..., failure: _Optional[str] = ...) -> None: ...

class DeployOrder(_message.Message):
    __slots__ = ("act", "model", "kind")
    ACT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    act: int
    model: str
    kind: DeployKind
    def __init__(self, act: _Optional[int] = ..., model: _Optional[str] = ..., kind: _Optional[_Union[DeployKind, str]] = ...) -> None: ...

class TrafficPolicy(_message.Message):
    __slots__ = ("model", "primary_version", "revision", "canary", "shadows")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_VERSION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    SHADOWS_FIELD_NUMBER: _ClassVar[int]
    model: str
    primary_version: str
    revision: int
    canary: Canary
    shadows: _containers.RepeatedCompositeFieldContainer[Shadow]
    def __init__(self, model: _Optional[str] = ..., primary_version: _Optional[str] = ..., revision: _Optional[int] = ..., canary: _Optional[_Union[Canary, _Mapping]] = ..., shadows: _Optional[_Iterable[_Union[Shadow, _Mapping]]] = ...) -> None: ...

class Canary(_message.Message):
    __slots__ = ("version", "share", "salt")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    version: str
    share: float
    salt: str
    def __init__(self, version: _Optional[str] = ..., share: _Optional[float] = ..., salt: _Optional[str] = ...) -> None: ...

class Shadow(_message.Message):
    __slots__ = ("experiment_id", "incumbent", "challenger", "share", "timeout_ms", "max_in_flight_rows", "output")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_ROWS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    incumbent: str
    challenger: str
    share: float
    timeout_ms: int
    max_in_flight_rows: int
    output: str
    def __init__(self, experiment_id: _Optional[str] = ..., incumbent: _Optional[str] = ..., challenger: _Optional[str] = ..., share: _Optional[float] = ..., timeout_ms: _Optional[int] = ..., max_in_flight_rows: _Optional[int] = ..., output: _Optional[str] = ...) -> None: ...
