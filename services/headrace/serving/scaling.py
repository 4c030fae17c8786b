"""How many replicas a version needs, from what its gateways say of the work that waits for it.

Serve runs `follow_deadlines` in its controller, for each deployment of its own, several times a second, and pickles
this module by value: standard library only, nothing of ours, and nothing that may raise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

BACKLOG: Final = "backlog_s"
"""Replica-seconds of work that wait, over all gateways: each replica reports its part."""
WORK: Final = "work"
"""Replica-seconds of work that arrive in a second, at full batches: likewise in parts."""
SLACK: Final = "slack_s"
"""The least time that a rider who waits has, beyond what its batch takes: the same from every replica."""
BUSY: Final = 0.7
"""How busy replicas may be: what comes unevenly waits behind what is there."""
SAFE: Final = 0.5
"""Share of the slack that may be spent waiting."""
LEAST_SLACK_S: Final = 0.005
"""A rider that is late anyway asks for no more replicas than one that has so long."""


def replicas_wanted(backlog_s: float, work: float, slack_s: float) -> int:
    """Enough for what arrives, and to answer what waits before the first of it is late. At least 1."""
    steady = work / BUSY
    urgent = backlog_s / max(LEAST_SLACK_S, SAFE * slack_s)
    return max(1, math.ceil(max(steady, urgent)))


def follow_deadlines(context: Any) -> tuple[int, dict[str, Any]]:
    """Serve's policy for one deployment. Silence holds what there is: no word is no reason to shrink."""
    reported: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
    if not reported.get(WORK):
        return context.target_num_replicas, {}
    backlog_s, work = (sum(reported.get(name, {}).values()) for name in (BACKLOG, WORK))
    slack_s = min(reported.get(SLACK, {}).values(), default=math.inf)
    return replicas_wanted(backlog_s, work, slack_s), {}
