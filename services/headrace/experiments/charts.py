"""Charts of a report as SVG: how the two sides differ, how often it changes a decision, how long they take.

Elements, not strings: what a caller named is escaped by construction. Colours are classes; the style sheet owns them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as ET

from headrace.experiments import reading, words
from headrace.experiments.axes import GAP, Scale, Tick, apart, log_values, moments, round_values, width
from headrace.v1 import experiments_pb2 as pb

WIDE: Final = 960
HALF: Final = 460
NARROW: Final = 388
LEAST: Final = 1.5
"""Height of the bar of a bin that is not empty: a single pair is seen."""
LATENCY_ROW: Final = 46
RANKS: Final = (("p50", "p50_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms"))


def delta_histogram(figures: pb.Figures) -> ET.Element | None:
    """Pairs by challenger's value less incumbent's, a bar a bin, each bin as wide as the next. None: no pairs."""
    edges, counts = figures.delta_histogram.edges, figures.delta_histogram.counts
    if not any(counts) or len(edges) != len(counts) + 1:
        return None
    left, top, right, bottom = 50.0, 34.0, HALF - 12.0, 206.0
    told = f"{words.count(sum(counts))} pairs, from {words.edge(edges[0])} to {words.edge(edges[-1])}."
    svg = _canvas("deltas", (HALF, 256), "Challenger's value less incumbent's", told)
    up = Scale(0, max(counts) * 1.04, bottom, top)
    _levels(svg, (left, right), up, [(v, words.count(v)) for v in round_values(max(counts)) if v.is_integer()])
    step = (right - left) / len(counts)
    for index, count in enumerate(counts):
        kind = "more" if edges[index] >= 0 else "less" if edges[index + 1] <= 0 else "same"
        height = max(bottom - up(count), LEAST if count else 0.0)
        bar = _rect(svg, f"bar {kind}", left + step * index + 0.5, bottom - height, step - 1, height)
        bar.set("data-count", str(count))
        words_of_it = f"{words.edge(edges[index])} to {words.edge(edges[index + 1])}: {words.count(count)} pairs"
        ET.SubElement(bar, "title").text = words_of_it
    _line(svg, "axis", left, bottom, right, bottom)
    ticks = apart(Tick(left + step * place, label) for place, label in _telling(edges))
    _ticks(svg, [tick for tick in ticks if tick.at + width(tick.label) / 2 <= HALF], bottom)
    _text(svg, "note", left, 16, "← challenger lower")
    _text(svg, "note", right, 16, "challenger higher →", "end")
    _text(svg, "note", (left + right) / 2, 248, "difference of the compared value", "middle")
    return svg


def flips_over_time(report: pb.Report, across: int = WIDE) -> ET.Element | None:
    """The share of changed decisions at each look, its confidence sequence, and the limit. None: under two looks."""
    points = [point for point in report.timeline if point.flips.trials]
    if len(points) < 2:
        return None
    limit = reading.flip_limit(report)
    left, top, right, bottom = 58.0, 34.0, across - 14.0, 240.0
    seconds = [words.moment(point.at).timestamp() for point in points]
    over = Scale(seconds[0], max(seconds[-1], seconds[0] + 1), left, right)
    up = Scale(0, max(limit * 1.6, points[-1].flips.interval.upper * 1.25), bottom, top)
    svg = _canvas(
        f"flips-{across}",
        (across, 274),
        "Changed decisions over time",
        f"{len(points)} looks; the last one says {words.rate(points[-1].flips)}; the limit is {words.percent(limit)}.",
    )
    _levels(svg, (left, right), up, [(value, words.short_percent(value)) for value in round_values(up.high)])
    upper = [(over(at), up(point.flips.interval.upper)) for at, point in zip(seconds, points, strict=True)]
    lower = [(over(at), up(point.flips.interval.lower)) for at, point in zip(seconds, points, strict=True)]
    ET.SubElement(svg, "polygon", {"class": "band", "points": _points([*upper, *reversed(lower)])})
    shares = [(over(at), up(reading.share(point.flips))) for at, point in zip(seconds, points, strict=True)]
    ET.SubElement(svg, "polyline", {"class": "trace", "points": _points(shares)})
    _line(svg, "limit", left, up(limit), right, up(limit))
    _dot(svg, "challenger", *shares[-1])
    _line(svg, "axis", left, bottom, right, bottom)
    _stages(svg, points, [over(at) for at in seconds], (top, bottom))
    ticks = apart(Tick(over(at), label) for at, label in moments(over.low, over.high, across // 90))
    _ticks(svg, [tick for tick in ticks if tick.at + width(tick.label) / 2 <= across], bottom)
    return svg


def latencies(figures: pb.Figures) -> ET.Element | None:
    """Both sides at three ranks, a line a rank, by the logarithm of milliseconds. None: one side has none."""
    sides = [
        ("incumbent", figures.incumbent_latency),
        ("challenger", figures.challenger_latency),
        ("canary", figures.canary_latency),
    ]
    sides = [(name, latency) for name, latency in sides if latency.count and latency.p50_ms > 0]
    if not {"incumbent", "challenger"} <= {name for name, _ in sides}:
        return None
    values = [getattr(latency, field) for _, latency in sides for _, field in RANKS]
    left, right, bottom = 58.0, HALF - 14.0, 14.0 + LATENCY_ROW * len(RANKS)
    svg = _canvas("latencies", (HALF, int(bottom) + 46), "Time to an answer", _told(sides))
    # A factor of 1.9 on both sides keeps room for the figures beside the outermost marks.
    over = Scale(min(values) / 1.9, max(values) * 1.9, left, right, log=True)
    ticks = apart(Tick(over(value), words.number(value)) for value in log_values(over.low, over.high))
    for tick in ticks:
        _line(svg, "grid", tick.at, 14, tick.at, bottom)
    _ticks(svg, [tick for tick in ticks if tick.at + width(tick.label) / 2 <= HALF], bottom)
    for row, (rank, field) in enumerate(RANKS):
        y = 14 + LATENCY_ROW * (row + 0.5)
        _text(svg, "label", left - GAP, y + 4, rank, "end")
        _compare(svg, over, y, [(name, getattr(latency, field)) for name, latency in sides])
    _line(svg, "axis", left, bottom, right, bottom)
    _text(svg, "note", (left + right) / 2, bottom + 38, "milliseconds", "middle")
    return svg


def whisker(rate: pb.Rate, limit: float, high: float) -> ET.Element:
    """A rate with its interval and the limit, for a cell of a table whose neighbour says it in figures."""
    svg = ET.Element("svg", {"viewBox": "0 0 120 16", "class": "whisker", "aria-hidden": "true"})
    over = Scale(0, high, 4, 116)
    _line(svg, "axis", 4, 8, 116, 8)
    _line(svg, "limit", over(limit), 1, over(limit), 15)
    _line(svg, "range", over(rate.interval.lower), 8, over(rate.interval.upper), 8)
    _dot(svg, "challenger", over(reading.share(rate)), 8, 3.5)
    return svg


def _compare(svg: ET.Element, over: Scale, y: float, sides: Sequence[tuple[str, float]]) -> None:
    """Marks on one line, with figures beside the outermost two of incumbent and challenger."""
    xs = {name: over(value) for name, value in sides}
    _line(svg, "range", min(xs.values()), y, max(xs.values()), y)
    for name, value in sides:
        if name == "canary":
            _diamond(svg, name, xs[name], y)
        else:
            _dot(svg, name, xs[name], y)
        if name == "canary":
            continue
        other = xs["challenger" if name == "incumbent" else "incumbent"]
        before = xs[name] < other or (xs[name] == other and name == "incumbent")
        edge = min(xs.values()) - GAP if before else max(xs.values()) + GAP
        _text(svg, f"figure {name}", edge, y + 4, words.milliseconds(value), "end" if before else "start")


def _told(sides: Sequence[tuple[str, pb.Latency]]) -> str:
    told = (
        f"{name}: " + ", ".join(f"{rank} {words.milliseconds(getattr(latency, field))} ms" for rank, field in RANKS)
        for name, latency in sides
    )
    return "; ".join(told) + "."


def _telling(edges: Sequence[float]) -> list[tuple[float, str]]:
    """Places, counted in bins, by how much they tell: both ends, nought, whole powers of ten, the others.

    A bin with nought inside is named as a whole: its own edges would only crowd it.
    """
    last = len(edges) - 1
    around = next((i for i in range(last) if edges[i] < 0 < edges[i + 1] and last > 1), None)
    places: list[tuple[int, float, str]] = [] if around is None else [(1, around + 0.5, "≈ 0")]
    for index, edge in enumerate(edges):
        if around is None or index not in {around, around + 1} or index in {0, last}:
            label = words.edge(edge)
            whole = "10" in label or len(label.strip("−0.")) <= 1
            rank = 0 if index in {0, last} else 1 if edge == 0 else 2 if whole else 3
            places.append((rank, float(index), label))
    return [(place, label) for _, place, label in sorted(places, key=lambda p: (p[0], min(p[1], last - p[1])))]


def _stages(svg: ET.Element, points: Sequence[pb.Point], xs: Sequence[float], span: tuple[float, float]) -> None:
    """A line where a stage begins, named where its name has room."""
    began = [i for i in range(len(points)) if i == 0 or points[i].stage != points[i - 1].stage]
    free, end = 0.0, xs[-1]
    for index in began:
        label = words.stage(points[index].stage)
        if index:
            _line(svg, "stage", xs[index], span[0] - 14, xs[index], span[1])
        if xs[index] >= free and xs[index] + width(label) <= end + GAP:
            _text(svg, "note", xs[index] + (5 if index else 0), span[0] - 16, label)
            free = xs[index] + width(label) + GAP


def _levels(svg: ET.Element, span: tuple[float, float], up: Scale, values: Sequence[tuple[float, str]]) -> None:
    for value, label in values:
        if value:
            _line(svg, "grid", span[0], up(value), span[1], up(value))
        _text(svg, "tick", span[0] - 8, up(value) + 4, label, "end")


def _ticks(svg: ET.Element, ticks: Sequence[Tick], y: float) -> None:
    for tick in ticks:
        _line(svg, "axis", tick.at, y, tick.at, y + 4)
        _text(svg, "tick", tick.at, y + 20, tick.label, "middle")


def _canvas(key: str, size: tuple[int, int], title: str, desc: str) -> ET.Element:
    svg = ET.Element(
        "svg",
        {
            "viewBox": f"0 0 {size[0]} {size[1]}",
            "role": "img",
            "aria-labelledby": f"{key}-title {key}-desc",
            "class": f"chart {key}",
        },
    )
    ET.SubElement(svg, "title", {"id": f"{key}-title"}).text = title
    ET.SubElement(svg, "desc", {"id": f"{key}-desc"}).text = desc
    return svg


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in places)


def _line(svg: ET.Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
    ET.SubElement(svg, "line", {"class": kind, "x1": _n(x1), "y1": _n(y1), "x2": _n(x2), "y2": _n(y2)})


def _rect(svg: ET.Element, kind: str, x: float, y: float, across: float, height: float) -> ET.Element:
    size = {"x": _n(x), "y": _n(y), "width": _n(across), "height": _n(height)}
    return ET.SubElement(svg, "rect", {"class": kind, **size})


def _dot(svg: ET.Element, kind: str, x: float, y: float, radius: float = 5) -> None:
    ET.SubElement(svg, "circle", {"class": f"mark {kind}", "cx": _n(x), "cy": _n(y), "r": _n(radius)})


def _diamond(svg: ET.Element, kind: str, x: float, y: float) -> None:
    corners = _points([(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)])
    ET.SubElement(svg, "polygon", {"class": f"mark {kind}", "points": corners})


def _text(svg: ET.Element, kind: str, x: float, y: float, text: str, anchor: str = "start") -> None:
    place = {"class": kind, "x": _n(x), "y": _n(y), "text-anchor": anchor}
    ET.SubElement(svg, "text", place).text = words.plain(text)
