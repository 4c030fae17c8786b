"""Every error a caller, an operator or a log can meet, and the status each one becomes.

HeadraceError
├── Refused                 the caller may fix it or retry
│   ├── InvalidInference    a tensor is not what the spec asks for
│   ├── UnknownModel        no such model or version
│   ├── NotReady            the version is known, but not (or no longer) ready
│   ├── Unsupported         an RPC or option this server does not offer
│   ├── NotExplicit         models are not loaded and unloaded over the wire here
│   ├── Unauthenticated     nobody we know, where an identity is demanded
│   ├── NotPermitted        the caller is known, and may not do this
│   ├── Conflict            the name is taken by something else
│   ├── UnknownExperiment   no such experiment
│   ├── NotPassed           a step that its gates, or another experiment, do not allow now
│   ├── Cancelled           the caller went away
│   ├── QuotaExceeded       a bound of this caller's own is reached
│   ├── Overloaded          a bound is reached
│   ├── DeadlinePassed      the answer would come too late
│   └── NotServing          starting, draining, no replica, or a ledger that can't be written
└── Failed                  ours; the text says nothing internal
    ├── BackendLost         the replica was lost and no retry fits
    ├── NotLoaded           a version could not be started
    ├── ModelFailed         the forward pass raised
    └── BrokenContract      wrong row count, non-finite score, spec mismatch
StartupError                configuration, weights, spec: one line to stderr, exit code 78
"""

from __future__ import annotations

from typing import ClassVar


class HeadraceError(Exception):
    """What every error of headrace is."""

    code: ClassVar[str] = ""
    """gRPC status on `headrace.v1` services, by name: no import of grpc here."""
    oip_code: ClassVar[str] = ""
    """Status on the Open Inference Protocol with `status_codes: triton`; empty = same as `code`."""
    reason: ClassVar[str] = "OTHER"
    """Label `reason` of `nv_inference_request_failure`, Triton's vocabulary."""


class Refused(HeadraceError):
    """The caller may fix the request or retry it."""


class InvalidInference(Refused):
    """A tensor, parameter or shape is not what the model's spec asks for."""

    code = "INVALID_ARGUMENT"


class UnknownModel(Refused):
    """No such model, or no such version of it."""

    code = "NOT_FOUND"


class NotReady(Refused):
    """The version is known but warming up, draining or gone."""

    code = "UNAVAILABLE"


class Unsupported(Refused):
    """An RPC or an option that this server does not offer."""

    code = "UNIMPLEMENTED"


class NotExplicit(Refused):
    """Models are not loaded and unloaded over the wire here: `control.model_control` is not `explicit`."""

    code = "UNAVAILABLE"

    def __init__(self, sentence: str = "explicit model load / unload is not allowed if polling is enabled") -> None:
        super().__init__(sentence)  # Triton's, wherever models are not loaded by name


class Unauthenticated(Refused):
    """An identity is demanded, and the call has none that is known here."""

    code = "UNAUTHENTICATED"


class NotPermitted(Refused):
    """The caller is known, and lacks the permission that the call needs."""

    code = "PERMISSION_DENIED"


class Conflict(Refused):
    """The name is taken: the same model and version with another digest."""

    code = "ALREADY_EXISTS"


class UnknownExperiment(Refused):
    """No experiment has this id."""

    code = "NOT_FOUND"


class NotPassed(Refused):
    """A step of an experiment that is not allowed as things stand: gates, another experiment, no replica."""

    code = "FAILED_PRECONDITION"


class Cancelled(Refused):
    """The caller went away before its answer."""

    code = "CANCELLED"
    reason = "CANCELED"


class QuotaExceeded(Refused):
    """The caller has asked for as much as its quota allows. `retry_ms` = when more is due, 0 = nobody knows."""

    code = "RESOURCE_EXHAUSTED"
    oip_code = "UNAVAILABLE"
    reason = "REJECTED"

    def __init__(self, sentence: str, retry_ms: int = 0) -> None:
        super().__init__(sentence)
        self.retry_ms = retry_ms


class Overloaded(Refused):
    """A bound is reached: the queue, or the riders a gateway may hold."""

    code = "RESOURCE_EXHAUSTED"
    oip_code = "UNAVAILABLE"
    reason = "REJECTED"


class DeadlinePassed(Refused):
    """The answer would come, or has come, too late for its caller."""

    code = "DEADLINE_EXCEEDED"
    oip_code = "UNAVAILABLE"
    reason = "REJECTED"


class NotServing(Refused):
    """Starting, draining, without a replica for this model, or with a ledger that can't be written."""

    code = "UNAVAILABLE"


class Failed(HeadraceError):
    """Ours. Logged once with the trace id; the text tells nothing internal."""

    reason = "BACKEND"


class BackendLost(Failed):
    """The replica was lost, and no retry fits into the deadline."""

    code = "UNAVAILABLE"


class NotLoaded(Failed):
    """A version could not be started. The text says why: it is for who may load models."""

    code = "INTERNAL"


class ModelFailed(Failed):
    """The forward pass raised."""

    code = "INTERNAL"


class BrokenContract(Failed):
    """The replica's answer is not what its spec promises: row count, size, a non-finite score."""

    code = "INTERNAL"


class StartupError(Exception):
    """Configuration, spec or weights are wrong: the process must not start. Exit code 78 (EX_CONFIG)."""


def named(name: str) -> type[HeadraceError]:
    """The error that a record names; `Failed` for one that is none of ours: an exception nobody expected."""
    kind = globals().get(name)
    return kind if isinstance(kind, type) and issubclass(kind, HeadraceError) else Failed


def status_of(error: HeadraceError, *, oip: bool = False, status_codes: str = "triton") -> str:
    """The gRPC status of `error`, by name; on the Open Inference Protocol Triton's choice unless `grpc` is set."""
    if oip and status_codes == "triton" and error.oip_code:
        return error.oip_code
    return error.code
