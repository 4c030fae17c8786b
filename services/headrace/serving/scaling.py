"""How many replicas a version needs, from what its gateways say of the work that arrives and waits for it.

Serve runs `follow_deadlines` in its controller, for each deployment of its own, several times a second, and pickles
this module by value: standard library only, nothing of ours, and nothing that may raise: an exception would end the
round for every later application. What each constant is worth: `make scale-sim`, docs/operations.md.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

log = logging.getLogger(__name__)

BACKLOG: Final = "backlog_s"
"""Replica-seconds of work that wait, over all gateways: each replica reports its part."""
WORK: Final = "work"
"""Replica-seconds of work that arrive in a second, at full batches: likewise in parts."""
SLACK: Final = "slack_s"
"""The least time that a rider who waits has, beyond what its batch takes: the same from every replica."""
BUSY: Final = 0.7
"""How busy replicas may be: what comes unevenly waits behind what is there."""
USUAL_S: Final = 10.0
"""How far back the usual looks."""
RUSH: Final = 1.25
"""So many times the usual is no accident: it goes on growing while replicas are on their way."""
HASTE: Final = 0.5
"""What is ordered ahead in a rush: this share of what has come on top of the usual."""
SAFE: Final = 0.5
"""Share of the slack that may be spent waiting."""
LEAST_SLACK_S: Final = 0.005
"""A rider that is late anyway asks for no more replicas than one that has so long."""
LEAP: Final = 1.5
"""Backlog asks for at most so many times the replicas that serve: one step, and another when those have come."""
KEEP: Final = 0.5
"""Share of the replicas that one decision keeps at least: callers who are all gone at once come back at once."""
MOST: Final = 100_000
"""Replicas that no figure can exceed."""
USUAL: Final = "usual"
SINCE: Final = "since"


def replicas_wanted(backlog_s: float, work: float, slack_s: float, usual: float = math.inf, serving: int = MOST) -> int:
    """Enough for what arrives and goes on growing; more, if those serve and riders would wait too long all the same.

    At least 1.
    """
    rushing = work - usual if work > RUSH * usual else 0.0
    steady = (work + HASTE * rushing) / BUSY
    urgent = min(backlog_s / max(LEAST_SLACK_S, SAFE * slack_s), LEAP * serving)
    wanted = steady if serving < steady else max(steady, urgent)
    return max(1, math.ceil(min(MOST, wanted)))


def follow_deadlines(context: Any) -> tuple[int, dict[str, Any]]:
    """Serve's policy for one deployment. Silence holds what there is: no word is no reason to shrink."""
    try:
        return _follow(context)
    except Exception:
        log.exception("figures that cannot be followed: the number of replicas stays")
        return context.target_num_replicas, {}


def _follow(context: Any) -> tuple[int, dict[str, Any]]:
    reported: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
    work = _latest((context.raw_metrics or {}).get(WORK, {}).values())
    if work is None:
        return context.target_num_replicas, {}
    backlog_s = math.fsum(_sound(reported.get(BACKLOG, {}).values()))
    slack_s = min(_sound(reported.get(SLACK, {}).values()), default=math.inf)
    usual = _usual(context.policy_state, work, context.current_time)
    wanted = replicas_wanted(backlog_s, work, slack_s, usual, context.current_num_replicas)
    kept = math.ceil(KEEP * context.target_num_replicas)
    return max(wanted, kept), {USUAL: usual, SINCE: context.current_time}


def _latest(series: Iterable[Sequence[Any]]) -> float | None:
    """The sum of what each replica said last; None where nobody has said anything. A mean would tell a step late."""
    parts = [values[-1].value for values in series if values]
    return math.fsum(_sound(parts)) if parts else None


def _usual(state: Mapping[str, Any], work: float, now: float) -> float:
    """The work of the last seconds, fading by `USUAL_S`."""
    usual: float = state.get(USUAL, work)
    keep = math.exp(-max(0.0, now - state.get(SINCE, now)) / USUAL_S)
    return keep * usual + (1 - keep) * work


def _sound(figures: Iterable[float]) -> list[float]:
    return [figure for figure in figures if math.isfinite(figure) and figure >= 0]
