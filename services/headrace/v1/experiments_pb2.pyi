import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from headrace.v1 import control_pb2 as _control_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_DRAFT: _ClassVar[Stage]
    STAGE_SHADOW: _ClassVar[Stage]
    STAGE_CANARY: _ClassVar[Stage]
    STAGE_PRIMARY: _ClassVar[Stage]
    STAGE_FINISHED: _ClassVar[Stage]
    STAGE_ROLLED_BACK: _ClassVar[Stage]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_PASS: _ClassVar[Verdict]
    VERDICT_WAIT: _ClassVar[Verdict]
    VERDICT_CONSENT: _ClassVar[Verdict]
    VERDICT_FAIL: _ClassVar[Verdict]

class PairError(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAIR_ERROR_UNSPECIFIED: _ClassVar[PairError]
    PAIR_ERROR_FAILED: _ClassVar[PairError]
    PAIR_ERROR_TIMEOUT: _ClassVar[PairError]
    PAIR_ERROR_LOST: _ClassVar[PairError]
    PAIR_ERROR_GARBAGE: _ClassVar[PairError]
STAGE_UNSPECIFIED: Stage
STAGE_DRAFT: Stage
STAGE_SHADOW: Stage
STAGE_CANARY: Stage
STAGE_PRIMARY: Stage
STAGE_FINISHED: Stage
STAGE_ROLLED_BACK: Stage
VERDICT_UNSPECIFIED: Verdict
VERDICT_PASS: Verdict
VERDICT_WAIT: Verdict
VERDICT_CONSENT: Verdict
VERDICT_FAIL: Verdict
PAIR_ERROR_UNSPECIFIED: PairError
PAIR_ERROR_FAILED: PairError
PAIR_ERROR_TIMEOUT: PairError
PAIR_ERROR_LOST: PairError
PAIR_ERROR_GARBAGE: PairError

class Plan(_message.Message):
    __slots__ = ("share", "noise_share", "timeout_ms", "max_in_flight_rows", "output", "thresholds", "canary_shares", "automatic", "gates", "label_delay_s")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    NOISE_SHARE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_ROWS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    CANARY_SHARES_FIELD_NUMBER: _ClassVar[int]
    AUTOMATIC_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    LABEL_DELAY_S_FIELD_NUMBER: _ClassVar[int]
    share: float
    noise_share: float
    timeout_ms: int
    max_in_flight_rows: int
    output: str
    thresholds: _containers.RepeatedScalarFieldContainer[float]
    canary_shares: _containers.RepeatedScalarFieldContainer[float]
    automatic: bool
    gates: Gates
    label_delay_s: float
    def __init__(self, share: _Optional[float] = ..., noise_share: _Optional[float] = ..., timeout_ms: _Optional[int] = ..., max_in_flight_rows: _Optional[int] = ..., output: _Optional[str] = ..., thresholds: _Optional[_Iterable[float]] = ..., canary_shares: _Optional[_Iterable[float]] = ..., automatic: _Optional[bool] = ..., gates: _Optional[_Union[Gates, _Mapping]] = ..., label_delay_s: _Optional[float] = ...) -> None: ...

class Gates(_message.Message):
    __slots__ = ("alpha", "min_pairs", "min_hours", "min_canary_pairs", "max_flip_rate", "max_noise_ratio", "max_error_excess", "max_psi", "max_psi_with_consent", "min_coverage", "max_batch_time_ratio", "max_late_rate")
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    MIN_PAIRS_FIELD_NUMBER: _ClassVar[int]
    MIN_HOURS_FIELD_NUMBER: _ClassVar[int]
    MIN_CANARY_PAIRS_FIELD_NUMBER: _ClassVar[int]
    MAX_FLIP_RATE_FIELD_NUMBER: _ClassVar[int]
    MAX_NOISE_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_EXCESS_FIELD_NUMBER: _ClassVar[int]
    MAX_PSI_FIELD_NUMBER: _ClassVar[int]
    MAX_PSI_WITH_CONSENT_FIELD_NUMBER: _ClassVar[int]
    MIN_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_TIME_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_LATE_RATE_FIELD_NUMBER: _ClassVar[int]
    alpha: float
    min_pairs: int
    min_hours: float
    min_canary_pairs: int
    max_flip_rate: float
    max_noise_ratio: float
    max_error_excess: float
    max_psi: float
    max_psi_with_consent: float
    min_coverage: float
    max_batch_time_ratio: float
    max_late_rate: float
    def __init__(self, alpha: _Optional[float] = ..., min_pairs: _Optional[int] = ..., min_hours: _Optional[float] = ..., min_canary_pairs: _Optional[int] = ..., max_flip_rate: _Optional[float] = ..., max_noise_ratio: _Optional[float] = ..., max_error_excess: _Optional[float] = ..., max_psi: _Optional[float] = ..., max_psi_with_consent: _Optional[float] = ..., min_coverage: _Optional[float] = ..., max_batch_time_ratio: _Optional[float] = ..., max_late_rate: _Optional[float] = ...) -> None: ...

class Experiment(_message.Message):
    __slots__ = ("id", "model", "incumbent", "challenger", "plan", "stage", "canary_share", "moves")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CANARY_SHARE_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: str
    incumbent: str
    challenger: str
    plan: Plan
    stage: Stage
    canary_share: float
    moves: _containers.RepeatedCompositeFieldContainer[Move]
    def __init__(self, id: _Optional[str] = ..., model: _Optional[str] = ..., incumbent: _Optional[str] = ..., challenger: _Optional[str] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., stage: _Optional[_Union[Stage, str]] = ..., canary_share: _Optional[float] = ..., moves: _Optional[_Iterable[_Union[Move, _Mapping]]] = ...) -> None: ...

class Move(_message.Message):
    __slots__ = ("at", "who", "from_stage", "to_stage", "canary_share", "why", "figures")
    AT_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    FROM_STAGE_FIELD_NUMBER: _ClassVar[int]
    TO_STAGE_FIELD_NUMBER: _ClassVar[int]
    CANARY_SHARE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    who: str
    from_stage: Stage
    to_stage: Stage
    canary_share: float
    why: str
    figures: Report
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., who: _Optional[str] = ..., from_stage: _Optional[_Union[Stage, str]] = ..., to_stage: _Optional[_Union[Stage, str]] = ..., canary_share: _Optional[float] = ..., why: _Optional[str] = ..., figures: _Optional[_Union[Report, _Mapping]] = ...) -> None: ...

class Gate(_message.Message):
    __slots__ = ("name", "verdict", "measured", "limit", "guardrail", "remark", "limit_value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    GUARDRAIL_FIELD_NUMBER: _ClassVar[int]
    REMARK_FIELD_NUMBER: _ClassVar[int]
    LIMIT_VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    verdict: Verdict
    measured: str
    limit: str
    guardrail: bool
    remark: str
    limit_value: float
    def __init__(self, name: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., measured: _Optional[str] = ..., limit: _Optional[str] = ..., guardrail: _Optional[bool] = ..., remark: _Optional[str] = ..., limit_value: _Optional[float] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("lower", "upper")
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    lower: float
    upper: float
    def __init__(self, lower: _Optional[float] = ..., upper: _Optional[float] = ...) -> None: ...

class Rate(_message.Message):
    __slots__ = ("events", "trials", "interval")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    events: int
    trials: int
    interval: Interval
    def __init__(self, events: _Optional[int] = ..., trials: _Optional[int] = ..., interval: _Optional[_Union[Interval, _Mapping]] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("experiment", "at", "figures", "noise", "gates", "verdict", "timeline", "worst", "labelled", "failures")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    WORST_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    at: _timestamp_pb2.Timestamp
    figures: Figures
    noise: Figures
    gates: _containers.RepeatedCompositeFieldContainer[Gate]
    verdict: Verdict
    timeline: _containers.RepeatedCompositeFieldContainer[Point]
    worst: _containers.RepeatedCompositeFieldContainer[Disagreement]
    labelled: LabelledFigures
    failures: _containers.RepeatedCompositeFieldContainer[Failure]
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., figures: _Optional[_Union[Figures, _Mapping]] = ..., noise: _Optional[_Union[Figures, _Mapping]] = ..., gates: _Optional[_Iterable[_Union[Gate, _Mapping]]] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., timeline: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., worst: _Optional[_Iterable[_Union[Disagreement, _Mapping]]] = ..., labelled: _Optional[_Union[LabelledFigures, _Mapping]] = ..., failures: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ...) -> None: ...

class Figures(_message.Message):
    __slots__ = ("sampled", "pairs", "drops", "pending", "delta_quantiles", "delta_histogram", "flips", "rank_agreement", "psi", "ks", "incumbent_errors", "challenger_errors", "challenger_timeouts", "incumbent_latency", "challenger_latency", "canary_latency", "canary_late", "batch_time_ratio", "segments", "canary_pairs", "incumbent_failures", "challenger_failures", "incumbent_late")
    class DropsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    DELTA_QUANTILES_FIELD_NUMBER: _ClassVar[int]
    DELTA_HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    FLIPS_FIELD_NUMBER: _ClassVar[int]
    RANK_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    PSI_FIELD_NUMBER: _ClassVar[int]
    KS_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_ERRORS_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_ERRORS_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_TIMEOUTS_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_LATENCY_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_LATENCY_FIELD_NUMBER: _ClassVar[int]
    CANARY_LATENCY_FIELD_NUMBER: _ClassVar[int]
    CANARY_LATE_FIELD_NUMBER: _ClassVar[int]
    BATCH_TIME_RATIO_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    CANARY_PAIRS_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_FAILURES_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_FAILURES_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_LATE_FIELD_NUMBER: _ClassVar[int]
    sampled: int
    pairs: int
    drops: _containers.ScalarMap[str, int]
    pending: int
    delta_quantiles: _containers.RepeatedCompositeFieldContainer[Quantile]
    delta_histogram: Histogram
    flips: _containers.RepeatedCompositeFieldContainer[Flips]
    rank_agreement: float
    psi: float
    ks: float
    incumbent_errors: Rate
    challenger_errors: Rate
    challenger_timeouts: Rate
    incumbent_latency: Latency
    challenger_latency: Latency
    canary_latency: Latency
    canary_late: Rate
    batch_time_ratio: float
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    canary_pairs: int
    incumbent_failures: Rate
    challenger_failures: Rate
    incumbent_late: Rate
    def __init__(self, sampled: _Optional[int] = ..., pairs: _Optional[int] = ..., drops: _Optional[_Mapping[str, int]] = ..., pending: _Optional[int] = ..., delta_quantiles: _Optional[_Iterable[_Union[Quantile, _Mapping]]] = ..., delta_histogram: _Optional[_Union[Histogram, _Mapping]] = ..., flips: _Optional[_Iterable[_Union[Flips, _Mapping]]] = ..., rank_agreement: _Optional[float] = ..., psi: _Optional[float] = ..., ks: _Optional[float] = ..., incumbent_errors: _Optional[_Union[Rate, _Mapping]] = ..., challenger_errors: _Optional[_Union[Rate, _Mapping]] = ..., challenger_timeouts: _Optional[_Union[Rate, _Mapping]] = ..., incumbent_latency: _Optional[_Union[Latency, _Mapping]] = ..., challenger_latency: _Optional[_Union[Latency, _Mapping]] = ..., canary_latency: _Optional[_Union[Latency, _Mapping]] = ..., canary_late: _Optional[_Union[Rate, _Mapping]] = ..., batch_time_ratio: _Optional[float] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., canary_pairs: _Optional[int] = ..., incumbent_failures: _Optional[_Union[Rate, _Mapping]] = ..., challenger_failures: _Optional[_Union[Rate, _Mapping]] = ..., incumbent_late: _Optional[_Union[Rate, _Mapping]] = ...) -> None: ...

class Quantile(_message.Message):
    __slots__ = ("rank", "value")
    RANK_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    rank: float
    value: float
    def __init__(self, rank: _Optional[float] = ..., value: _Optional[float] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("edges", "counts")
    EDGES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    edges: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, edges: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ...) -> None: ...

class Flips(_message.Message):
    __slots__ = ("threshold", "rate", "to_block", "to_allow", "money")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    TO_BLOCK_FIELD_NUMBER: _ClassVar[int]
    TO_ALLOW_FIELD_NUMBER: _ClassVar[int]
    MONEY_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    rate: Rate
    to_block: int
    to_allow: int
    money: _containers.RepeatedCompositeFieldContainer[FlippedMoney]
    def __init__(self, threshold: _Optional[float] = ..., rate: _Optional[_Union[Rate, _Mapping]] = ..., to_block: _Optional[int] = ..., to_allow: _Optional[int] = ..., money: _Optional[_Iterable[_Union[FlippedMoney, _Mapping]]] = ...) -> None: ...

class FlippedMoney(_message.Message):
    __slots__ = ("currency", "to_block", "to_allow", "total")
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    TO_BLOCK_FIELD_NUMBER: _ClassVar[int]
    TO_ALLOW_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    currency: str
    to_block: float
    to_allow: float
    total: float
    def __init__(self, currency: _Optional[str] = ..., to_block: _Optional[float] = ..., to_allow: _Optional[float] = ..., total: _Optional[float] = ...) -> None: ...

class Latency(_message.Message):
    __slots__ = ("count", "p50_ms", "p99_ms", "p999_ms")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    P999_MS_FIELD_NUMBER: _ClassVar[int]
    count: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    def __init__(self, count: _Optional[int] = ..., p50_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ..., p999_ms: _Optional[float] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("name", "value", "pairs", "flips", "mean_delta", "mean_absolute_delta")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    FLIPS_FIELD_NUMBER: _ClassVar[int]
    MEAN_DELTA_FIELD_NUMBER: _ClassVar[int]
    MEAN_ABSOLUTE_DELTA_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    pairs: int
    flips: Rate
    mean_delta: float
    mean_absolute_delta: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., pairs: _Optional[int] = ..., flips: _Optional[_Union[Rate, _Mapping]] = ..., mean_delta: _Optional[float] = ..., mean_absolute_delta: _Optional[float] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("at", "flips", "stage")
    AT_FIELD_NUMBER: _ClassVar[int]
    FLIPS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    flips: Rate
    stage: Stage
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., flips: _Optional[_Union[Rate, _Mapping]] = ..., stage: _Optional[_Union[Stage, str]] = ...) -> None: ...

class Disagreement(_message.Message):
    __slots__ = ("at", "incumbent", "challenger", "trace_id", "amount", "currency", "flips")
    AT_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    FLIPS_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    incumbent: float
    challenger: float
    trace_id: str
    amount: float
    currency: str
    flips: bool
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., incumbent: _Optional[float] = ..., challenger: _Optional[float] = ..., trace_id: _Optional[str] = ..., amount: _Optional[float] = ..., currency: _Optional[str] = ..., flips: _Optional[bool] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("at", "error", "canary", "both", "trace_id")
    AT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    BOTH_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    error: PairError
    canary: bool
    both: bool
    trace_id: str
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[_Union[PairError, str]] = ..., canary: _Optional[bool] = ..., both: _Optional[bool] = ..., trace_id: _Optional[str] = ...) -> None: ...

class LabelledFigures(_message.Message):
    __slots__ = ("labels", "positives", "incumbent", "challenger", "average_precision_gain", "recall_gain")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    POSITIVES_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_PRECISION_GAIN_FIELD_NUMBER: _ClassVar[int]
    RECALL_GAIN_FIELD_NUMBER: _ClassVar[int]
    labels: int
    positives: int
    incumbent: Quality
    challenger: Quality
    average_precision_gain: Interval
    recall_gain: Interval
    def __init__(self, labels: _Optional[int] = ..., positives: _Optional[int] = ..., incumbent: _Optional[_Union[Quality, _Mapping]] = ..., challenger: _Optional[_Union[Quality, _Mapping]] = ..., average_precision_gain: _Optional[_Union[Interval, _Mapping]] = ..., recall_gain: _Optional[_Union[Interval, _Mapping]] = ...) -> None: ...

class Quality(_message.Message):
    __slots__ = ("average_precision", "recall_at_1_percent_fpr", "calibration_error")
    AVERAGE_PRECISION_FIELD_NUMBER: _ClassVar[int]
    RECALL_AT_1_PERCENT_FPR_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    average_precision: float
    recall_at_1_percent_fpr: float
    calibration_error: float
    def __init__(self, average_precision: _Optional[float] = ..., recall_at_1_percent_fpr: _Optional[float] = ..., calibration_error: _Optional[float] = ...) -> None: ...

class CreateExperimentRequest(_message.Message):
    __slots__ = ("id", "model", "incumbent", "challenger", "plan", "start", "why")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: str
    incumbent: str
    challenger: str
    plan: Plan
    start: bool
    why: str
    def __init__(self, id: _Optional[str] = ..., model: _Optional[str] = ..., incumbent: _Optional[str] = ..., challenger: _Optional[str] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., start: _Optional[bool] = ..., why: _Optional[str] = ...) -> None: ...

class CreateExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class GetExperimentRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class ListExperimentsRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ListExperimentsResponse(_message.Message):
    __slots__ = ("experiments",)
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    experiments: _containers.RepeatedCompositeFieldContainer[Experiment]
    def __init__(self, experiments: _Optional[_Iterable[_Union[Experiment, _Mapping]]] = ...) -> None: ...

class GetReportRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetReportResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: Report
    def __init__(self, report: _Optional[_Union[Report, _Mapping]] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("id", "why", "consent", "force", "to_stage", "from_stage", "from_share")
    ID_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    TO_STAGE_FIELD_NUMBER: _ClassVar[int]
    FROM_STAGE_FIELD_NUMBER: _ClassVar[int]
    FROM_SHARE_FIELD_NUMBER: _ClassVar[int]
    id: str
    why: str
    consent: bool
    force: bool
    to_stage: Stage
    from_stage: Stage
    from_share: float
    def __init__(self, id: _Optional[str] = ..., why: _Optional[str] = ..., consent: _Optional[bool] = ..., force: _Optional[bool] = ..., to_stage: _Optional[_Union[Stage, str]] = ..., from_stage: _Optional[_Union[Stage, str]] = ..., from_share: _Optional[float] = ...) -> None: ...

class PromoteResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("id", "why", "force")
    ID_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    why: str
    force: bool
    def __init__(self, id: _Optional[str] = ..., why: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class RollbackResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class GetTrafficRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetTrafficResponse(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: _control_pb2.TrafficPolicy
    def __init__(self, policy: _Optional[_Union[_control_pb2.TrafficPolicy, _Mapping]] = ...) -> None: ...

class SetTrafficRequest(_message.Message):
    __slots__ = ("model", "primary_version", "canary", "why")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_VERSION_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    model: str
    primary_version: str
    canary: _control_pb2.Canary
    why: str
    def __init__(self, model: _Optional[str] = ..., primary_version: _Optional[str] = ..., canary: _Optional[_Union[_control_pb2.Canary, _Mapping]] = ..., why: _Optional[str] = ...) -> None: ...

class SetTrafficResponse(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: _control_pb2.TrafficPolicy
    def __init__(self, policy: _Optional[_Union[_control_pb2.TrafficPolicy, _Mapping]] = ...) -> None: ...

class RecordPairsRequest(_message.Message):
    __slots__ = ("experiment_id", "gateway_id", "sequence", "pairs", "noise", "counts", "noise_counts")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    NOISE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    gateway_id: str
    sequence: int
    pairs: PairColumns
    noise: PairColumns
    counts: SampleCounts
    noise_counts: SampleCounts
    def __init__(self, experiment_id: _Optional[str] = ..., gateway_id: _Optional[str] = ..., sequence: _Optional[int] = ..., pairs: _Optional[_Union[PairColumns, _Mapping]] = ..., noise: _Optional[_Union[PairColumns, _Mapping]] = ..., counts: _Optional[_Union[SampleCounts, _Mapping]] = ..., noise_counts: _Optional[_Union[SampleCounts, _Mapping]] = ...) -> None: ...

class PairColumns(_message.Message):
    __slots__ = ("at_us", "incumbent", "challenger", "incumbent_error", "challenger_error", "incumbent_us", "challenger_us", "canary", "amount", "currency", "event_id", "entity", "trace_ids", "incumbent_p", "challenger_p", "batches")
    AT_US_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_ERROR_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_ERROR_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_US_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_US_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    TRACE_IDS_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_P_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_P_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    at_us: _containers.RepeatedScalarFieldContainer[int]
    incumbent: _containers.RepeatedScalarFieldContainer[float]
    challenger: _containers.RepeatedScalarFieldContainer[float]
    incumbent_error: _containers.RepeatedScalarFieldContainer[PairError]
    challenger_error: _containers.RepeatedScalarFieldContainer[PairError]
    incumbent_us: _containers.RepeatedScalarFieldContainer[int]
    challenger_us: _containers.RepeatedScalarFieldContainer[int]
    canary: _containers.RepeatedScalarFieldContainer[bool]
    amount: _containers.RepeatedScalarFieldContainer[float]
    currency: _containers.RepeatedScalarFieldContainer[str]
    event_id: _containers.RepeatedScalarFieldContainer[str]
    entity: _containers.RepeatedScalarFieldContainer[int]
    trace_ids: bytes
    incumbent_p: _containers.RepeatedScalarFieldContainer[float]
    challenger_p: _containers.RepeatedScalarFieldContainer[float]
    batches: _containers.RepeatedCompositeFieldContainer[BatchTime]
    def __init__(self, at_us: _Optional[_Iterable[int]] = ..., incumbent: _Optional[_Iterable[float]] = ..., challenger: _Optional[_Iterable[float]] = ..., incumbent_error: _Optional[_Iterable[_Union[PairError, str]]] = ..., challenger_error: _Optional[_Iterable[_Union[PairError, str]]] = ..., incumbent_us: _Optional[_Iterable[int]] = ..., challenger_us: _Optional[_Iterable[int]] = ..., canary: _Optional[_Iterable[bool]] = ..., amount: _Optional[_Iterable[float]] = ..., currency: _Optional[_Iterable[str]] = ..., event_id: _Optional[_Iterable[str]] = ..., entity: _Optional[_Iterable[int]] = ..., trace_ids: _Optional[bytes] = ..., incumbent_p: _Optional[_Iterable[float]] = ..., challenger_p: _Optional[_Iterable[float]] = ..., batches: _Optional[_Iterable[_Union[BatchTime, _Mapping]]] = ...) -> None: ...

class BatchTime(_message.Message):
    __slots__ = ("tokens", "compute_us", "challenger")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    compute_us: int
    challenger: bool
    def __init__(self, tokens: _Optional[int] = ..., compute_us: _Optional[int] = ..., challenger: _Optional[bool] = ...) -> None: ...

class SampleCounts(_message.Message):
    __slots__ = ("sampled", "drops", "incumbent_requests", "incumbent_failures", "challenger_requests", "challenger_failures", "incumbent_took", "challenger_took")
    class DropsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class IncumbentTookEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    class ChallengerTookEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_FAILURES_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_FAILURES_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_TOOK_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_TOOK_FIELD_NUMBER: _ClassVar[int]
    sampled: int
    drops: _containers.ScalarMap[str, int]
    incumbent_requests: int
    incumbent_failures: int
    challenger_requests: int
    challenger_failures: int
    incumbent_took: _containers.ScalarMap[int, int]
    challenger_took: _containers.ScalarMap[int, int]
    def __init__(self, sampled: _Optional[int] = ..., drops: _Optional[_Mapping[str, int]] = ..., incumbent_requests: _Optional[int] = ..., incumbent_failures: _Optional[int] = ..., challenger_requests: _Optional[int] = ..., challenger_failures: _Optional[int] = ..., incumbent_took: _Optional[_Mapping[int, int]] = ..., challenger_took: _Optional[_Mapping[int, int]] = ...) -> None: ...

class RecordPairsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("event_id", "fraud", "at")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    FRAUD_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    fraud: bool
    at: _timestamp_pb2.Timestamp
    def __init__(self, event_id: _Optional[str] = ..., fraud: _Optional[bool] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RecordOutcomesRequest(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class RecordOutcomesResponse(_message.Message):
    __slots__ = ("matched",)
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    matched: int
    def __init__(self, matched: _Optional[int] = ...) -> None: ...
