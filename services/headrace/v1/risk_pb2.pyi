import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RiskLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RISK_LEVEL_UNSPECIFIED: _ClassVar[RiskLevel]
    RISK_LEVEL_LOW: _ClassVar[RiskLevel]
    RISK_LEVEL_NORMAL: _ClassVar[RiskLevel]
    RISK_LEVEL_ELEVATED: _ClassVar[RiskLevel]
    RISK_LEVEL_HIGHEST: _ClassVar[RiskLevel]
    RISK_LEVEL_NOT_ASSESSED: _ClassVar[RiskLevel]
    RISK_LEVEL_UNKNOWN: _ClassVar[RiskLevel]
RISK_LEVEL_UNSPECIFIED: RiskLevel
RISK_LEVEL_LOW: RiskLevel
RISK_LEVEL_NORMAL: RiskLevel
RISK_LEVEL_ELEVATED: RiskLevel
RISK_LEVEL_HIGHEST: RiskLevel
RISK_LEVEL_NOT_ASSESSED: RiskLevel
RISK_LEVEL_UNKNOWN: RiskLevel

class PaymentEvent(_message.Message):
    __slots__ = ("event_id", "ts", "card_id", "merchant_id", "amount", "currency", "mcc", "country", "channel", "device_id", "issuer_bin", "outcome", "fraud", "label_ts")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TS_FIELD_NUMBER: _ClassVar[int]
    CARD_ID_FIELD_NUMBER: _ClassVar[int]
    MERCHANT_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    MCC_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    ISSUER_BIN_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FRAUD_FIELD_NUMBER: _ClassVar[int]
    LABEL_TS_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    ts: _timestamp_pb2.Timestamp
    card_id: str
    merchant_id: str
    amount: float
    currency: str
    mcc: int
    country: str
    channel: str
    device_id: str
    issuer_bin: str
    outcome: str
    fraud: bool
    label_ts: _timestamp_pb2.Timestamp
    def __init__(self, event_id: _Optional[str] = ..., ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., card_id: _Optional[str] = ..., merchant_id: _Optional[str] = ..., amount: _Optional[float] = ..., currency: _Optional[str] = ..., mcc: _Optional[int] = ..., country: _Optional[str] = ..., channel: _Optional[str] = ..., device_id: _Optional[str] = ..., issuer_bin: _Optional[str] = ..., outcome: _Optional[str] = ..., fraud: _Optional[bool] = ..., label_ts: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Payment(_message.Message):
    __slots__ = ("event", "card_history", "merchant_history", "merchant_stats")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    CARD_HISTORY_FIELD_NUMBER: _ClassVar[int]
    MERCHANT_HISTORY_FIELD_NUMBER: _ClassVar[int]
    MERCHANT_STATS_FIELD_NUMBER: _ClassVar[int]
    event: PaymentEvent
    card_history: _containers.RepeatedCompositeFieldContainer[PaymentEvent]
    merchant_history: _containers.RepeatedCompositeFieldContainer[PaymentEvent]
    merchant_stats: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, event: _Optional[_Union[PaymentEvent, _Mapping]] = ..., card_history: _Optional[_Iterable[_Union[PaymentEvent, _Mapping]]] = ..., merchant_history: _Optional[_Iterable[_Union[PaymentEvent, _Mapping]]] = ..., merchant_stats: _Optional[_Iterable[float]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("model", "version", "request_id", "payment", "explain", "idempotency_key")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    request_id: str
    payment: Payment
    explain: bool
    idempotency_key: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., request_id: _Optional[str] = ..., payment: _Optional[_Union[Payment, _Mapping]] = ..., explain: _Optional[bool] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("request_id", "signals", "truncated_card_events", "batch_rows", "queue_us", "version_digest", "batch_id", "path", "fallback", "idempotent_replay")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_CARD_EVENTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    VERSION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENT_REPLAY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    signals: _containers.RepeatedCompositeFieldContainer[Signal]
    truncated_card_events: int
    batch_rows: int
    queue_us: int
    version_digest: str
    batch_id: str
    path: str
    fallback: Fallback
    idempotent_replay: bool
    def __init__(self, request_id: _Optional[str] = ..., signals: _Optional[_Iterable[_Union[Signal, _Mapping]]] = ..., truncated_card_events: _Optional[int] = ..., batch_rows: _Optional[int] = ..., queue_us: _Optional[int] = ..., version_digest: _Optional[str] = ..., batch_id: _Optional[str] = ..., path: _Optional[str] = ..., fallback: _Optional[_Union[Fallback, _Mapping]] = ..., idempotent_replay: _Optional[bool] = ...) -> None: ...

class ScoreBatchRequest(_message.Message):
    __slots__ = ("model", "version", "request_id", "payments", "explain", "idempotency_key")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PAYMENTS_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    request_id: str
    payments: _containers.RepeatedCompositeFieldContainer[Payment]
    explain: bool
    idempotency_key: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., request_id: _Optional[str] = ..., payments: _Optional[_Iterable[_Union[Payment, _Mapping]]] = ..., explain: _Optional[bool] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ScoreBatchResponse(_message.Message):
    __slots__ = ("request_id", "assessments", "batch_rows", "queue_us", "version_digest", "batch_id", "path", "fallback", "idempotent_replay")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ASSESSMENTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    VERSION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENT_REPLAY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    assessments: _containers.RepeatedCompositeFieldContainer[Assessment]
    batch_rows: int
    queue_us: int
    version_digest: str
    batch_id: str
    path: str
    fallback: Fallback
    idempotent_replay: bool
    def __init__(self, request_id: _Optional[str] = ..., assessments: _Optional[_Iterable[_Union[Assessment, _Mapping]]] = ..., batch_rows: _Optional[int] = ..., queue_us: _Optional[int] = ..., version_digest: _Optional[str] = ..., batch_id: _Optional[str] = ..., path: _Optional[str] = ..., fallback: _Optional[_Union[Fallback, _Mapping]] = ..., idempotent_replay: _Optional[bool] = ...) -> None: ...

class Fallback(_message.Message):
    __slots__ = ("reason", "by")
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    reason: str
    by: str
    def __init__(self, reason: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class Assessment(_message.Message):
    __slots__ = ("signals", "truncated_card_events")
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_CARD_EVENTS_FIELD_NUMBER: _ClassVar[int]
    signals: _containers.RepeatedCompositeFieldContainer[Signal]
    truncated_card_events: int
    def __init__(self, signals: _Optional[_Iterable[_Union[Signal, _Mapping]]] = ..., truncated_card_events: _Optional[int] = ...) -> None: ...

class Signal(_message.Message):
    __slots__ = ("name", "evaluated_at", "probability", "score", "level", "model", "model_version", "calibration_version", "degraded_reason", "top_factors")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_AT_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_VERSION_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_REASON_FIELD_NUMBER: _ClassVar[int]
    TOP_FACTORS_FIELD_NUMBER: _ClassVar[int]
    name: str
    evaluated_at: _timestamp_pb2.Timestamp
    probability: float
    score: int
    level: RiskLevel
    model: str
    model_version: str
    calibration_version: str
    degraded_reason: str
    top_factors: _containers.RepeatedCompositeFieldContainer[Factor]
    def __init__(self, name: _Optional[str] = ..., evaluated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., probability: _Optional[float] = ..., score: _Optional[int] = ..., level: _Optional[_Union[RiskLevel, str]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., calibration_version: _Optional[str] = ..., degraded_reason: _Optional[str] = ..., top_factors: _Optional[_Iterable[_Union[Factor, _Mapping]]] = ...) -> None: ...

class Factor(_message.Message):
    __slots__ = ("name", "log_odds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOG_ODDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    log_odds: float
    def __init__(self, name: _Optional[str] = ..., log_odds: _Optional[float] = ...) -> None: ...
