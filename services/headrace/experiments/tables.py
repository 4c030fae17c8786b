"""Experiments in a terminal: a line each, where one stands, and a whole report. Renders messages, decides nothing.

Text only, never rich's markup: what a caller named must not become a colour, a link or a cursor's move.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from headrace.experiments import reading, words
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb

COLOURS: Final = {
    pb.VERDICT_PASS: "green",
    pb.VERDICT_WAIT: "cyan",
    pb.VERDICT_CONSENT: "yellow",
    pb.VERDICT_FAIL: "red",
}
BLOCKS: Final = " ▁▂▃▄▅▆▇█"
LOOKS: Final = 60
"""Columns of the line of flips over time."""


def listing(experiments: Iterable[pb.Experiment]) -> RenderableType:
    """One line each, as they come."""
    table = _table("experiment", "model", "versions", "stage", "since", "by", "why")
    for one in experiments:
        last = one.moves[-1] if one.moves else pb.Move()
        stage = words.stage(one.stage, one.canary_share)
        versions = f"{one.incumbent} → {one.challenger}"
        _row(table, one.id, one.model, versions, stage, words.when(last.at), last.who, last.why)
    return table if table.row_count else Text("There is no experiment.")


def status(report: pb.Report) -> RenderableType:
    """Stage, verdict, the gates in the way, and what to do next."""
    waiting = reading.in_the_way(report)
    parts = [_title(report), _headline(report), *([_gates(waiting)] if waiting else []), _next(report)]
    return Group(*parts)


def whole(report: pb.Report) -> RenderableType:
    """Everything that is known."""
    figures = report.figures
    parts: list[RenderableType] = [_title(report), _headline(report), _next(report)]
    if report.gates:
        parts += _part("gates", _gates(report.gates))
    if figures.sampled:
        parts += _part("changed decisions", *_flips(report))
        parts += _part("challenger less incumbent", *_deltas(figures))
        parts += _part("milliseconds to an answer", _latencies(figures))
        parts += _part("what was compared, and what was not", _coverage(report), _errors(figures))
    if figures.segments:
        parts += _part(f"by {figures.segments[0].name}", _segments(report))
    if report.worst:
        parts += _part("where they disagree most", _worst(report.worst))
    if report.failures:
        parts += _part("what the challenger failed of late", _failures(report.failures))
    if report.HasField("labelled"):
        parts += _part("what outcomes say", _labelled(report.labelled))
    if report.experiment.moves:
        parts += _part("moves", _moves(report.experiment.moves))
    return Group(*parts)


def policy(found: control_pb2.TrafficPolicy) -> RenderableType:
    """Who answers for a model, and who is asked beside it."""
    table = _table("version", "answers", "of model")
    primary = found.primary_version or "the highest that is ready"
    canary = found.canary.share if found.HasField("canary") else 0.0
    _row(table, primary, words.short_percent(1 - canary), found.model)
    if canary:
        _row(table, found.canary.version, f"{words.short_percent(canary)} of the entities", found.model)
    for shadow in found.shadows:
        beside = f"compared with {shadow.incumbent}, {words.short_percent(shadow.share)} of the requests"
        _row(table, shadow.challenger, beside, f"{found.model}, experiment {shadow.experiment_id}")
    return table


def _title(report: pb.Report) -> Text:
    one = report.experiment
    stage = words.stage(one.stage, one.canary_share)
    text = f"{one.model}: version {one.challenger} against {one.incumbent}, experiment {one.id}, {stage}"
    return Text(words.plain(text), style="dim")


def _headline(report: pb.Report) -> Text:
    sentence = reading.headline(report)
    if report.experiment.stage in reading.ENDED | {pb.STAGE_DRAFT}:
        return Text(sentence, style="bold")
    return Text(f"{words.mark(report.verdict)} {sentence}", style=f"bold {COLOURS.get(report.verdict, '')}".strip())


def _next(report: pb.Report) -> RenderableType:
    step = reading.next_step(report)
    return Group(Text(step.sentence), *([Text(f"  {step.command}", style="cyan")] if step.command else []))


def _part(title: str, *parts: RenderableType) -> list[RenderableType]:
    return [Text(f"\n{words.plain(title)}", style="bold"), *(Padding(part, (0, 0, 0, 2)) for part in parts)]


def _gates(gates: Sequence[pb.Gate]) -> Table:
    table = _table("gate", "verdict", "measured", "asked for", "")
    for gate in gates:
        said = f"{words.mark(gate.verdict)} {words.verdict(gate.verdict)}"
        name = f"{words.gate(gate.name)}{' (guardrail)' if gate.guardrail else ''}"
        _row(table, name, Text(said, style=COLOURS.get(gate.verdict, "")), gate.measured, gate.limit, gate.remark)
    return table


def _flips(report: pb.Report) -> list[RenderableType]:
    table = _table("blocked from", "changed", ">newly blocked", ">newly allowed", ">money blocked", ">money allowed")
    for flips in report.figures.flips:
        blocked = "\n".join(words.money(money.to_block, money.currency) for money in flips.money)
        allowed = "\n".join(words.money(money.to_allow, money.currency) for money in flips.money)
        moved = words.count(flips.to_block), words.count(flips.to_allow)
        table.add_row(words.number(flips.threshold), words.rate(flips.rate), *moved, Text(blocked), Text(allowed))
    parts: list[RenderableType] = [table]
    if noise := reading.worst_flips(report.noise):
        parts.append(Text(f"the incumbent beside itself: {words.rate(noise.rate)}", style="dim"))
    if report.timeline:
        shares = [reading.share(point.flips) for point in report.timeline]
        limit = reading.flip_limit(report)
        text = f"{_line(shares, limit)}  so far, up to now; full height is twice the limit of {words.percent(limit)}"
        parts.append(Text(text, style="dim"))
    return parts


def _line(shares: Sequence[float], limit: float) -> str:
    """Heights of the shares at some looks, evenly taken, the last one among them."""
    step = max(1, -(-len(shares) // LOOKS))
    taken = shares[::-1][::step][::-1]
    return "".join(BLOCKS[min(8, max(1, round(4 * share / limit)))] for share in taken) if limit else ""


def _deltas(figures: pb.Figures) -> list[RenderableType]:
    parts: list[RenderableType] = []
    counts, edges = figures.delta_histogram.counts, figures.delta_histogram.edges
    if any(counts):
        bars = "".join(BLOCKS[max(count > 0, round(8 * count / max(counts)))] for count in counts)
        parts.append(Text(f"{words.edge(edges[0])} {bars} {words.edge(edges[-1])}"))
    parts += [
        Text(f"{name} of the pairs: {words.signed(low)} to {words.signed(high)}")
        for name, low, high in reading.middle(figures)
    ]
    said = {"rank agreement": "rank_agreement", "PSI": "psi", "largest distance of the distributions": "ks"}
    known = [
        f"{name} {words.number(getattr(figures, field))}" for name, field in said.items() if figures.HasField(field)
    ]
    return [*parts, Text(", ".join(known), style="dim")] if known else parts


def _latencies(figures: pb.Figures) -> RenderableType:
    table = _table("side", ">p50", ">p99", ">p99.9")
    sides = {
        "incumbent": figures.incumbent_latency,
        "challenger": figures.challenger_latency,
        "challenger, where it answered": figures.canary_latency,
    }
    for name, side in sides.items():
        if side.count:
            table.add_row(name, *(words.milliseconds(value) for value in (side.p50_ms, side.p99_ms, side.p999_ms)))
    if not figures.HasField("batch_time_ratio"):
        return table
    ratio = f"at equal work a replica of the challenger takes {words.number(figures.batch_time_ratio)} times as long"
    return Group(table, Text(ratio, style="dim"))


def _coverage(report: pb.Report) -> Table:
    table = _table("rows", ">comparison", ">noise floor")
    sides = report.figures, report.noise
    table.add_row("chosen", *(words.count(side.sampled) for side in sides))
    table.add_row("pairs", *(words.count(side.pairs) for side in sides))
    for cause in sorted({*report.figures.drops, *report.noise.drops}):
        _row(table, f"dropped: {words.cause(cause)}", *(words.count(side.drops.get(cause, 0)) for side in sides))
    table.add_row("under way", *(words.count(side.pending) for side in sides))
    table.add_row("coverage", *(words.percent(reading.coverage(side)) if side.sampled else "" for side in sides))
    return table


def _errors(figures: pb.Figures) -> Table:
    table = _table("errors", ">number", "rate")
    rates = {
        "incumbent": figures.incumbent_errors,
        "challenger": figures.challenger_errors,
        "challenger, timeouts": figures.challenger_timeouts,
        "incumbent, callers'": figures.incumbent_failures,
        "challenger, callers'": figures.challenger_failures,
        "canary, late": figures.canary_late,
    }
    for name, rate in rates.items():
        if rate.trials:
            table.add_row(name, words.count(rate.events), words.rate(rate))
    return table


def _segments(report: pb.Report) -> Table:
    limit = reading.flip_limit(report)
    table = _table("value", "against the limit", "changed decisions", ">pairs", ">mean difference", ">mean size")
    for segment in report.figures.segments:
        off = reading.above(segment.flips, limit)
        said = Text(off or "within", style={"": "dim", "above the limit": "red"}.get(off, "yellow"))
        means = words.signed(segment.mean_delta), words.number(segment.mean_absolute_delta)
        _row(table, segment.value or "unknown", said, words.rate(segment.flips), words.count(segment.pairs), *means)
    return table


def _worst(worst: Sequence[pb.Disagreement]) -> Table:
    table = _table("when", ">incumbent", ">challenger", ">difference", "decision", ">amount", "trace")
    for pair, values in zip(worst, words.alike(worst), strict=True):
        amount = words.money(pair.amount, pair.currency) if pair.HasField("amount") else words.NOTHING
        decision = "changes" if pair.flips else "the same"
        _row(table, words.when(pair.at), *values, decision, amount, pair.trace_id)
    table.columns[-1].no_wrap = True
    return table


def _failures(failures: Sequence[pb.Failure]) -> Table:
    table = _table("when", "how", "asked by", "the incumbent", "trace")
    for one in failures:
        asked, incumbent = words.asked(one), "failed as well" if one.both else "answered"
        _row(table, words.when(one.at), words.error(one.error), asked, incumbent, one.trace_id)
    table.columns[-1].no_wrap = True
    return table


def _labelled(labelled: pb.LabelledFigures) -> RenderableType:
    table = _table("measure", ">incumbent", ">challenger", "gain", "shown")
    both = labelled.incumbent, labelled.challenger
    for name, field, gain in (
        ("average precision", "average_precision", labelled.average_precision_gain),
        ("fraud found, 1 in 100 good ones blocked", "recall_at_1_percent_fpr", labelled.recall_gain),
    ):
        bounds = f"{words.signed(gain.lower)} to {words.signed(gain.upper)}"
        table.add_row(name, *(words.number(getattr(side, field)) for side in both), bounds, reading.gain(gain))
    if all(side.HasField("calibration_error") for side in both):
        table.add_row("calibration error", *(words.number(side.calibration_error) for side in both))
    known = f"{words.count(labelled.labels)} outcomes, {words.count(labelled.positives)} of them fraud"
    return Group(Text(known, style="dim"), table)


def _moves(moves: Sequence[pb.Move]) -> Table:
    table = _table("when", "step", "who", "why", ">pairs then")
    for move in moves:
        step = f"{words.stage(move.from_stage)} → {words.stage(move.to_stage, move.canary_share)}"
        pairs = words.count(move.figures.figures.pairs) if move.HasField("figures") else words.NOTHING
        _row(table, words.when(move.at), step, move.who, move.why or words.NOTHING, pairs)
    return table


def _table(*titles: str) -> Table:
    """Columns by their titles; one that begins with `>` has its figures on the right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in titles:
        table.add_column(title.removeprefix(">"), justify="right" if title.startswith(">") else "left")
    return table


def _row(table: Table, *cells: str | Text) -> None:
    table.add_row(*(cell if isinstance(cell, Text) else Text(words.plain(cell)) for cell in cells))
