"""Reports as control makes them: a challenger that passes, one that does not, a canary, a draft, one with outcomes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from headrace.v1 import experiments_pb2 as pb

BEGAN: Final = datetime(2026, 11, 10, 8, 20, tzinfo=UTC)
EDGES: Final = [-(10.0**e) for e in (0, -0.5, -1, -1.5, -2, -2.5, -3, -3.5, -4)]
SYMMETRIC: Final = [*EDGES, *(-edge for edge in reversed(EDGES))]
"""By half a power of ten on both sides of what is as good as nothing."""
SHAPE: Final = (3, 9, 60, 300, 1200, 3400, 6100, 7900, 15000, 8100, 6000, 3100, 980, 240, 66, 12, 5)


def rate(events: int, trials: int) -> pb.Rate:
    """With an interval about as wide as a confidence sequence's, never without a width."""
    p = events / trials if trials else 0.0
    half = 3 * math.sqrt(p * (1 - p) / trials) if trials else 0.0
    edge = 5 / trials if trials else 1.0
    return pb.Rate(events=events, trials=trials, interval={"lower": max(0, p - half), "upper": min(1, p + half + edge)})


def latency(count: int, p50: float, p99: float, p999: float) -> pb.Latency:
    return pb.Latency(count=count, p50_ms=p50, p99_ms=p99, p999_ms=p999)


def gate(
    name: str, verdict: pb.Verdict, measured: str, limit: str, remark: str = "", limit_value: float | None = None
) -> pb.Gate:
    guardrail = name in {"flips", "errors", "late"}
    return pb.Gate(
        name=name,
        verdict=verdict,
        measured=measured,
        limit=limit,
        guardrail=guardrail,
        remark=remark,
        limit_value=limit_value,
    )


def timeline(hours: int, share: float, per_hour: int, stage_at: Callable[[int], pb.Stage]) -> list[pb.Point]:
    """A look each quarter of an hour: the share wanders while there are few pairs, and its interval narrows."""
    chance = random.Random(7)
    points, events, trials = [], 0, 0
    for look in range(1, 4 * hours + 1):
        more = per_hour // 4
        trials += more
        events += max(0, round(chance.gauss(more * share, math.sqrt(more * share))))
        point = pb.Point(flips=rate(events, trials), stage=stage_at(look // 4))
        point.at.FromDatetime(BEGAN + timedelta(minutes=15 * look))
        points.append(point)
    return points


def flips(threshold: float, to_block: int, to_allow: int, trials: int) -> pb.Flips:
    money = [
        pb.FlippedMoney(currency="EUR", to_block=to_block * 84.2, to_allow=to_allow * 61.7, total=trials * 0.6 * 55.3),
        pb.FlippedMoney(currency="USD", to_block=to_block * 31.9, to_allow=to_allow * 22.4, total=trials * 0.3 * 48.1),
    ]
    found = rate(to_block + to_allow, trials)
    return pb.Flips(threshold=threshold, rate=found, to_block=to_block, to_allow=to_allow, money=money)


def segment(currency: str, events: int, trials: int, mean: float, size: float) -> pb.Segment:
    return pb.Segment(
        name="currency",
        value=currency,
        pairs=trials,
        flips=rate(events, trials),
        mean_delta=mean,
        mean_absolute_delta=size,
    )


def figures(pairs: int, to_block: int, to_allow: int, *, scale: float = 1.0) -> pb.Figures:
    """Of so many pairs; `scale` stretches the deltas."""
    total = sum(SHAPE)
    ranks = {0.001: -0.094, 0.01: -0.021, 0.25: -0.0006, 0.5: 0.00004, 0.75: 0.0007, 0.99: 0.024, 0.999: 0.11}
    drops = {
        "buffer": pairs * 201 // 58_240,
        "load": pairs * 96 // 58_240,
        "unready": pairs * 11 // 58_240,
        "failing": pairs * 4 // 58_240,
    }
    return pb.Figures(
        sampled=pairs + sum(drops.values()) + 64,
        pairs=pairs,
        drops=drops,
        pending=64,
        delta_quantiles=[pb.Quantile(rank=rank, value=value * scale) for rank, value in ranks.items()],
        delta_histogram=pb.Histogram(edges=SYMMETRIC, counts=[each * pairs // total for each in SHAPE]),
        flips=[
            flips(0.72, to_block, to_allow, pairs),
            flips(0.91, to_block // 2, to_allow // 3, pairs),
        ],
        rank_agreement=0.9871,
        psi=0.0212,
        ks=0.0113,
        incumbent_errors=rate(3, pairs),
        challenger_errors=rate(7, pairs),
        challenger_timeouts=rate(5, pairs),
        incumbent_failures=rate(11, 2 * pairs),
        incumbent_latency=latency(pairs, 4.12, 11.8, 24.6),
        challenger_latency=latency(pairs, 6.9, 31.4, 88.2),
        batch_time_ratio=1.03,
        segments=[
            segment("BRL", 9, 2210, 0.0021, 0.0094),
            segment("USD", to_block // 3, pairs * 3 // 10, 0.0004, 0.0042),
            segment("EUR", to_block // 2, pairs * 6 // 10, 0.0002, 0.0039),
            segment("", 2, 1033, -0.0003, 0.0036),
        ],
    )


def disagreements(number: int = 8) -> list[pb.Disagreement]:
    found = []
    for rank in range(number):
        one = pb.Disagreement(
            incumbent=0.041 + 0.013 * rank,
            challenger=0.957 - 0.061 * rank if rank % 3 else 0.002 + 0.001 * rank,
            trace_id=f"{0x4BF92F3577B34DA6A3CE929D0E0E4736 + rank * 0x1_0000_0001_0001:032x}",
            currency=("EUR", "BRL", "USD", "")[rank % 4],
            flips=bool(rank % 3),
        )
        if rank % 4 != 3:
            one.amount = 12.9 * 2.7**rank
        one.at.FromDatetime(BEGAN + timedelta(hours=3 + 2 * rank, minutes=7 * rank))
        found.append(one)
    return sorted(found, key=lambda d: -abs(d.challenger - d.incumbent))


def failures() -> list[pb.Failure]:
    found = []
    for rank, error in enumerate(
        (pb.PAIR_ERROR_TIMEOUT, pb.PAIR_ERROR_FAILED, pb.PAIR_ERROR_LOST, pb.PAIR_ERROR_GARBAGE)
    ):
        one = pb.Failure(error=error, canary=rank == 1, both=rank == 2)
        one.trace_id = f"{0xA3CE929D0E0E47364BF92F3577B34DA6 + rank * 0x1_0000_0001_0001:032x}"
        one.at.FromDatetime(BEGAN + timedelta(hours=30 - 7 * rank))
        found.append(one)
    return found


def move(hours: float, who: str, way: tuple[pb.Stage, pb.Stage], why: str, share: float = 0.0) -> pb.Move:
    one = pb.Move(who=who, from_stage=way[0], to_stage=way[1], canary_share=share, why=why)
    one.at.FromDatetime(BEGAN + timedelta(hours=hours))
    return one


def experiment(stage: pb.Stage, moves: Sequence[pb.Move] = (), share: float = 0.0) -> pb.Experiment:
    plan = pb.Plan(
        share=1.0,
        noise_share=0.1,
        timeout_ms=1000,
        max_in_flight_rows=256,
        output="score",
        thresholds=[0.72, 0.91],
        canary_shares=[0.01, 0.05, 0.25, 1.0],
        label_delay_s=30 * 86400,
        gates=pb.Gates(alpha=0.05, min_pairs=50_000, min_hours=24, max_flip_rate=0.005, min_coverage=0.99),
    )
    return pb.Experiment(
        id="fraud-tx-1-2",
        model="fraud-tx",
        incumbent="1",
        challenger="2",
        plan=plan,
        stage=stage,
        canary_share=share,
        moves=moves,
    )


def sample_report(kind: str = "passing") -> pb.Report:
    """`passing`, `failing`, `canary`, `draft` or `labelled`."""
    report = {
        "passing": _passing,
        "failing": _failing,
        "canary": _canary,
        "draft": lambda: pb.Report(experiment=experiment(pb.STAGE_DRAFT), verdict=pb.VERDICT_WAIT),
        "labelled": _labelled,
    }[kind]()
    report.at.FromDatetime(BEGAN + timedelta(hours=31, minutes=12))
    return report


KINDS: Final = ("passing", "failing", "canary", "draft", "labelled")
STARTED: Final = (pb.STAGE_DRAFT, pb.STAGE_SHADOW)


def _passing() -> pb.Report:
    report = pb.Report(
        experiment=experiment(
            pb.STAGE_SHADOW, [move(0, "spiffe://bank/risk/release", STARTED, "retrained on October")]
        ),
        figures=figures(58_240, 71, 42),
        noise=figures(5_790, 2, 1, scale=0.01),
        verdict=pb.VERDICT_PASS,
        timeline=timeline(31, 0.00194, 1880, lambda _: pb.STAGE_SHADOW),
        worst=disagreements(),
        failures=failures(),
        gates=[
            gate("pairs", pb.VERDICT_PASS, "58,240 pairs, 31.2 h", "50,000, or 24 h"),
            gate("coverage", pb.VERDICT_PASS, "99.47 %", "at least 99.00 %"),
            gate("flips", pb.VERDICT_PASS, "0.19 % (0.15 % to 0.25 %)", "at most 0.50 %", limit_value=0.005),
            gate("errors", pb.VERDICT_PASS, "+0.007 % (−0.01 % to +0.04 %)", "at most +0.10 %"),
            gate("psi", pb.VERDICT_PASS, "0.021", "below 0.10"),
            gate("batch_time", pb.VERDICT_PASS, "1.03 times", "at most 1.10 times"),
        ],
    )
    report.figures.psi = 0.021
    return report


def _failing() -> pb.Report:
    """One currency is scored by another scale: the whole is off by little, its payments by much."""
    report = _passing()
    report.figures.CopyFrom(figures(58_240, 392, 58, scale=6))
    report.figures.psi = 0.138
    odd = segment("JPY", 301, 2_904, 0.1873, 0.1911)
    report.figures.segments.insert(0, odd)
    report.verdict = pb.VERDICT_FAIL
    del report.timeline[:]
    report.timeline.extend(timeline(31, 0.0077, 1880, lambda _: pb.STAGE_SHADOW))
    by_name = {each.name: each for each in report.gates}
    by_name["flips"].CopyFrom(
        gate(
            "flips",
            pb.VERDICT_FAIL,
            "0.77 % (0.66 % to 0.89 %)",
            "at most 0.50 %",
            "392 to block, 58 to allow; most of them in JPY",
            0.005,
        )
    )
    by_name["psi"].CopyFrom(gate("psi", pb.VERDICT_CONSENT, "0.138", "below 0.10", "above 0.25 nobody may pass it"))
    return report


def _canary() -> pb.Report:
    """A twentieth of the entities, and not enough of their pairs yet."""
    report = _passing()
    moves = [
        *report.experiment.moves,
        move(25, "spiffe://bank/risk/release", (pb.STAGE_SHADOW, pb.STAGE_CANARY), "0.19 % flips after a day", 0.01),
        move(29, "headrace", (pb.STAGE_CANARY, pb.STAGE_CANARY), "pairs, coverage, flips, errors, late: hold", 0.05),
    ]
    moves[1].figures.CopyFrom(pb.Report(figures=figures(48_100, 61, 33)))
    report.experiment.CopyFrom(experiment(pb.STAGE_CANARY, moves, 0.05))
    report.verdict = pb.VERDICT_WAIT
    report.gates[0].CopyFrom(gate("pairs", pb.VERDICT_WAIT, "1,204 of the canary", "2,000", "796 are missing"))
    report.gates[5].CopyFrom(gate("late", pb.VERDICT_PASS, "1.1 % (0.6 % to 2.0 %)", "at most 3.00 %"))
    report.figures.canary_pairs = 1_204
    report.figures.canary_latency.CopyFrom(latency(1_204, 4.31, 12.9, 26.0))
    report.figures.canary_late.CopyFrom(rate(13, 1_204))
    report.figures.challenger_failures.CopyFrom(rate(2, 1_931))
    for point in report.timeline[100:]:
        point.stage = pb.STAGE_CANARY
    return report


def _labelled() -> pb.Report:
    report = _passing()
    report.labelled.CopyFrom(
        pb.LabelledFigures(
            labels=41_802,
            positives=388,
            incumbent=pb.Quality(average_precision=0.6142, recall_at_1_percent_fpr=0.7113, calibration_error=0.0061),
            challenger=pb.Quality(average_precision=0.6389, recall_at_1_percent_fpr=0.7268, calibration_error=0.0048),
            average_precision_gain=pb.Interval(lower=0.0041, upper=0.0453),
            recall_gain=pb.Interval(lower=-0.0119, upper=0.0434),
        )
    )
    report.gates.append(gate("labels", pb.VERDICT_PASS, "+0.025 (+0.004 to +0.045)", "at least −0.005"))
    return report
