"""What became of each request: exactly one class each, and the figures of a run. Nothing here sends anything.

Every time is in seconds on the generator's clock. Latency counts from the *intended* arrival: a request that had to
wait for a late generator has waited all the same (coordinated omission).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import http2
import numpy as np
import numpy.typing as npt
from serialised import Questions

RIGHT, LATE, WRONG, REFUSED, DEADLINE, ERROR, LOST = CLASSES = (
    "right",  # the expected answer, in time
    "late",  # the expected answer, after its deadline
    "wrong",  # another answer, whenever it came
    "refused",  # the server said in time that it would not
    "deadline",  # no answer in time, and none after: the caller's own clock ended it
    "error",  # anything else that was said
    "lost",  # nothing was ever said
)
OK, CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE = 0, 1, 4, 8, 14
REFUSALS = ("Exceeds maximum queue size", "Request timeout expired", "queue is full")
"""What headrace and Triton say when they will not, or cannot in time. Other words with the same status are errors."""

WINDOW_S = 0.5


@dataclass(slots=True)
class Sent:
    """One request, and how it ended (`ended_s` 0 = it did not)."""

    place: int
    intended_s: float
    sent_s: float
    ended_s: float = 0.0
    body: bytes = b""
    how: bytes = b""


def judge(request: Sent, questions: Questions, deadline_s: float) -> tuple[str, str]:
    """Its class, and what was said of it where that is not an answer."""
    if not request.ended_s:
        return LOST, "no answer"
    in_time = request.ended_s - request.intended_s <= deadline_s
    code, words = http2.status(request.how)
    if code == OK:
        if not questions.is_right(request.place, request.body):
            return WRONG, ""
        return (RIGHT if in_time else LATE), ""
    if code in (DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE):
        # "[request id: …] Exceeds maximum queue size": the sentence is the same for all.
        reason = next((known for known in REFUSALS if known in words), None)
        if reason:
            return (REFUSED if in_time else DEADLINE), reason
    # A server ends a call whose deadline has passed in one of these ways.
    if not in_time and (code in (CANCELLED, DEADLINE_EXCEEDED) or words.startswith("reset")):
        return DEADLINE, "ended at its deadline"
    return ERROR, f"status {code}: {words}"


def summary(requests: Sequence[Sent], judged: Sequence[tuple[str, str]], seconds: float) -> dict[str, Any]:
    """The figures of a run; latencies in ms, None where nothing fell into the class."""
    found = np.array([kind for kind, _ in judged], dtype=object)
    times = np.array([(r.intended_s, r.sent_s, r.ended_s) for r in requests], float).reshape(-1, 3)
    intended, sent, ended = times.T
    answered = np.isin(found, (RIGHT, LATE, WRONG))
    refused = found == REFUSED
    counts = Counter(found.tolist())
    told = Counter(words for kind, words in judged if words)
    return {
        "offered_rps": round(len(requests) / seconds, 1),
        "sent": len(requests),
        "rps": round(counts[RIGHT] / seconds, 1),
        "goodput_rps": round(counts[RIGHT] / seconds, 1),
        **percentiles("", (ended - intended)[answered], (50, 99, 99.9)),
        **{name: counts[kind] for kind, name in zip(CLASSES, (*CLASSES[:5], "errors", "lost"), strict=True)},
        **percentiles("refused_", (ended - intended)[refused], (50, 99)),
        **percentiles("refused_sent_", (ended - sent)[refused], (50, 99)),
        **percentiles("generator_late_", sent - intended, (99,)),
        "right_shares": right_shares(intended, found == RIGHT),
        "told": dict(told.most_common(5)),
    }


def right_shares(intended_s: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> list[float]:
    """Of the requests of each `WINDOW_S` that had any, in order, the share that was right in time."""
    if not len(intended_s):
        return []
    windows = ((intended_s - intended_s.min()) / WINDOW_S).astype(int)
    asked, kept = np.bincount(windows), np.bincount(windows, right)
    return [round(share, 4) for share in (kept[asked > 0] / asked[asked > 0]).tolist()]


def percentiles(prefix: str, values_s: npt.NDArray[np.float64], ranks: Sequence[float]) -> dict[str, float | None]:
    """`<prefix>p99_ms` and so on; 99.9 becomes `p999`."""
    return {
        f"{prefix}p{str(rank).replace('.', '')}_ms": round(float(np.percentile(values_s, rank)) * 1e3, 3)
        if len(values_s)
        else None
        for rank in ranks
    }
