from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RowStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROW_STATUS_OK: _ClassVar[RowStatus]
    ROW_STATUS_EXPIRED: _ClassVar[RowStatus]
    ROW_STATUS_NOT_FINITE: _ClassVar[RowStatus]
    ROW_STATUS_FAILED: _ClassVar[RowStatus]
ROW_STATUS_OK: RowStatus
ROW_STATUS_EXPIRED: RowStatus
ROW_STATUS_NOT_FINITE: RowStatus
ROW_STATUS_FAILED: RowStatus

class PackedBatch(_message.Message):
    __slots__ = ("replica_id", "model", "version", "gateway_id", "rows", "columns", "lengths", "remaining_s", "row_contexts", "context", "batch_id", "backlog_s", "wants_extras", "row_tracestates", "shadow", "slack_s", "work", "replicas")
    class RowTracestatesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_S_FIELD_NUMBER: _ClassVar[int]
    ROW_CONTEXTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_S_FIELD_NUMBER: _ClassVar[int]
    WANTS_EXTRAS_FIELD_NUMBER: _ClassVar[int]
    ROW_TRACESTATES_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    SLACK_S_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    model: str
    version: str
    gateway_id: str
    rows: int
    columns: _containers.RepeatedScalarFieldContainer[bytes]
    lengths: _containers.RepeatedScalarFieldContainer[bytes]
    remaining_s: bytes
    row_contexts: bytes
    context: bytes
    batch_id: int
    backlog_s: float
    wants_extras: bytes
    row_tracestates: _containers.ScalarMap[int, str]
    shadow: bool
    slack_s: float
    work: float
    replicas: int
    def __init__(self, replica_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., gateway_id: _Optional[str] = ..., rows: _Optional[int] = ..., columns: _Optional[_Iterable[bytes]] = ..., lengths: _Optional[_Iterable[bytes]] = ..., remaining_s: _Optional[bytes] = ..., row_contexts: _Optional[bytes] = ..., context: _Optional[bytes] = ..., batch_id: _Optional[int] = ..., backlog_s: _Optional[float] = ..., wants_extras: _Optional[bytes] = ..., row_tracestates: _Optional[_Mapping[int, str]] = ..., shadow: _Optional[bool] = ..., slack_s: _Optional[float] = ..., work: _Optional[float] = ..., replicas: _Optional[int] = ...) -> None: ...

class PackedAnswer(_message.Message):
    __slots__ = ("columns", "status", "stamps", "queued", "padded_tokens", "batch_id", "code", "message")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STAMPS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PADDED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedScalarFieldContainer[bytes]
    status: bytes
    stamps: Stamps
    queued: int
    padded_tokens: int
    batch_id: int
    code: int
    message: str
    def __init__(self, columns: _Optional[_Iterable[bytes]] = ..., status: _Optional[bytes] = ..., stamps: _Optional[_Union[Stamps, _Mapping]] = ..., queued: _Optional[int] = ..., padded_tokens: _Optional[int] = ..., batch_id: _Optional[int] = ..., code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class Stamps(_message.Message):
    __slots__ = ("received_ns", "started_ns", "unpacked_ns", "copied_ns", "computed_ns", "fetched_ns", "packed_ns")
    RECEIVED_NS_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    UNPACKED_NS_FIELD_NUMBER: _ClassVar[int]
    COPIED_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_NS_FIELD_NUMBER: _ClassVar[int]
    FETCHED_NS_FIELD_NUMBER: _ClassVar[int]
    PACKED_NS_FIELD_NUMBER: _ClassVar[int]
    received_ns: int
    started_ns: int
    unpacked_ns: int
    copied_ns: int
    computed_ns: int
    fetched_ns: int
    packed_ns: int
    def __init__(self, received_ns: _Optional[int] = ..., started_ns: _Optional[int] = ..., unpacked_ns: _Optional[int] = ..., copied_ns: _Optional[int] = ..., computed_ns: _Optional[int] = ..., fetched_ns: _Optional[int] = ..., packed_ns: _Optional[int] = ...) -> None: ...
