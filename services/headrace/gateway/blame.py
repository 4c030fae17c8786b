"""What a version may be blamed for, and what says nothing of it."""

from __future__ import annotations

from typing import Final

from headrace.core.inference import Answer
from headrace.core.records import RpcRecord
from headrace.errors import BackendLost, BrokenContract, DeadlinePassed, HeadraceError, ModelFailed, NotServing
from headrace.v1 import experiments_pb2

ERRORS: Final[dict[type[HeadraceError], experiments_pb2.PairError]] = {
    ModelFailed: experiments_pb2.PAIR_ERROR_FAILED,
    DeadlinePassed: experiments_pb2.PAIR_ERROR_TIMEOUT,
    BackendLost: experiments_pb2.PAIR_ERROR_LOST,
    NotServing: experiments_pb2.PAIR_ERROR_LOST,
    BrokenContract: experiments_pb2.PAIR_ERROR_GARBAGE,
}
"""Everything else is its caller's or the gateway's own doing."""


def is_evidence(outcome: Answer | HeadraceError, record: RpcRecord) -> bool:
    """Whether what came of a request says something of the version that was asked; at the door nothing does."""
    return isinstance(outcome, Answer) or (type(outcome) in ERRORS and record.queued_ns > 0)
