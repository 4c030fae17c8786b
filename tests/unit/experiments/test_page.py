"""The page of a report: its charts say the report's figures, and nothing anybody named is more than text."""

from __future__ import annotations

import itertools
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reports import KINDS, rate, sample_report

from headrace.experiments import axes, charts
from headrace.experiments.page import page
from headrace.v1 import experiments_pb2 as pb

VOID = {"meta", "link", "br"}


class Structure(HTMLParser):
    """Open elements, ids, and what tags there are; complains of an end that has no beginning."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def svgs(text: str) -> list[ET.Element]:
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]  # noqa: S314  ours


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_well_formed_and_its_parts_are_named(kind: str) -> None:
    structure = Structure(page(sample_report(kind)))
    ids = [attributes["id"] for _, attributes in structure.tags if "id" in attributes]
    referred = [i for _, attributes in structure.tags for i in (attributes.get("aria-labelledby") or "").split()]

    assert structure.open == []
    assert len(ids) == len(set(ids))
    assert set(referred) <= set(ids)
    assert all(header.get("scope") in {"col", "row"} for header in structure.all("th"))
    assert len(structure.all("h1")) == 1
    assert structure.all("html") == [{"lang": "en"}]


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_refers_to_nothing_outside_itself(kind: str) -> None:
    text = page(sample_report(kind))
    structure = Structure(text)
    addresses = [v for _, attributes in structure.tags for k, v in attributes.items() if k in {"src", "href", "srcset"}]

    assert addresses == ["data:,"]
    assert not {"script", "iframe", "img", "object", "base", "form"} & {tag for tag, _ in structure.tags}
    assert "url(" not in text
    assert "@import" not in text
    assert not [name for _, attributes in structure.tags for name in attributes if name.startswith("on")]


def test_the_verdict_and_what_is_broken_come_before_everything_else() -> None:
    text = page(sample_report("failing"))

    assert (
        text.index("may not go on") < text.index("Gates of the next step") < text.index("Changed decisions over time")
    )
    assert text.index("</span>broken") < text.index("</span>needs a person") < text.index("</span>holds")
    assert "above the limit" in text[text.index("JPY") :]


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "&lt;"]
)
def test_what_anybody_named_is_text(hostile: str) -> None:
    report = sample_report("canary")
    for message in (
        report.experiment,
        report.experiment.moves[0],
        report.gates[0],
        report.worst[0],
        report.failures[0],
    ):
        for field in message.DESCRIPTOR.fields:
            if field.type == field.TYPE_STRING and field.name != "name":
                setattr(message, field.name, hostile)
    report.gates[0].name = report.experiment.plan.output = hostile
    report.figures.segments[0].name = report.figures.segments[0].value = hostile
    report.figures.flips[0].money[0].currency = hostile
    report.figures.drops[hostile] = 3
    plain = Structure(page(sample_report("canary")))
    structure = Structure(text := page(report))

    assert structure.open == []
    assert {tag for tag, _ in structure.tags} == {tag for tag, _ in plain.tags}
    assert {name for _, attributes in structure.tags for name in attributes} == {
        name for _, attributes in plain.tags for name in attributes
    }
    assert hostile not in text or hostile == "{{ 7 * 7 }}"
    assert ">49<" not in text


def test_characters_that_turn_text_around_or_end_lines_are_made_plain() -> None:
    report = sample_report("passing")
    report.experiment.moves[0].why = "good\u202eexe\x00\x1b[2J"

    assert "good\ufffdexe\ufffd\ufffd[2J" in page(report)


def test_bars_are_as_high_as_their_counts() -> None:
    figures = sample_report("passing").figures
    svg = charts.delta_histogram(figures)
    assert svg is not None
    bars = [(int(bar.get("data-count", "")), float(bar.get("height", ""))) for bar in svg.iter("rect")]

    assert [count for count, _ in bars] == list(figures.delta_histogram.counts)
    tallest, height = max(bars)
    for count, found in bars:
        assert found == pytest.approx(max(height * count / tallest, charts.LEAST), abs=0.02)
    lefts = [float(bar.get("x", "")) for bar in svg.iter("rect")]
    assert all(b - a == pytest.approx(lefts[1] - lefts[0], abs=0.02) for a, b in itertools.pairwise(lefts))


def test_points_of_the_timeline_lie_inside_their_band_and_by_one_scale() -> None:
    report = sample_report("failing")
    svg = charts.flips_over_time(report)
    assert svg is not None
    trace, band = svg.find("polyline"), svg.find("polygon")
    assert trace is not None
    assert band is not None
    line = [tuple(map(float, point.split(","))) for point in trace.get("points", "").split()]
    edge = [tuple(map(float, point.split(","))) for point in band.get("points", "").split()]
    upper, lower = edge[: len(line)], edge[len(line) :][::-1]
    (limit,) = [float(each.get("y1", "")) for each in svg.iter("line") if each.get("class") == "limit"]

    assert len(line) == len(report.timeline)
    assert all(u[1] <= y <= low[1] for (_, y), u, low in zip(line, upper, lower, strict=True))
    bottom = 240.0
    for (_, y), point in zip(line, report.timeline, strict=True):
        share = point.flips.events / point.flips.trials
        if y > 34:  # below the plot's upper end
            assert (bottom - y) / (bottom - limit) == pytest.approx(share / 0.005, abs=0.01)
    assert line[-1][1] < limit  # its rate is above the limit


def test_latencies_lie_on_one_logarithmic_axis() -> None:
    figures = sample_report("canary").figures
    svg = charts.latencies(figures)
    assert svg is not None
    xs = {
        side: [float(mark.get("cx", "")) for mark in svg.iter("circle") if mark.get("class") == f"mark {side}"]
        for side in ("incumbent", "challenger")
    }
    a, b = figures.incumbent_latency, figures.challenger_latency
    decade = (xs["incumbent"][2] - xs["incumbent"][0]) / math.log(a.p999_ms / a.p50_ms)
    for index, field in enumerate(("p50_ms", "p99_ms", "p999_ms")):
        ratio = math.log(getattr(b, field) / getattr(a, field))
        assert xs["challenger"][index] - xs["incumbent"][index] == pytest.approx(decade * ratio, abs=0.05)
    assert len([mark for mark in svg.iter("polygon") if mark.get("class") == "mark canary"]) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_chart_stays_inside_its_frame_and_is_told_in_words(kind: str) -> None:
    for svg in svgs(page(sample_report(kind))):
        _, _, across, height = map(float, svg.get("viewBox", "").split())
        xs = [float(v) for e in svg.iter() for k, v in e.items() if k in {"x", "x1", "x2", "cx"}]
        ys = [float(v) for e in svg.iter() for k, v in e.items() if k in {"y", "y1", "y2", "cy"}]
        for element in svg.iter():
            for point in (element.get("points") or "").split():
                x, y = map(float, point.split(","))
                xs.append(x)
                ys.append(y)

        assert all(0 <= x <= across for x in xs)
        assert all(0 <= y <= height for y in ys)
        if svg.get("aria-hidden") != "true":
            assert svg.get("role") == "img"
            assert (svg.findtext("title") or "").strip()
            assert (svg.findtext("desc") or "").strip()


@given(
    counts=st.lists(st.integers(0, 10**9), min_size=1, max_size=60),
    first=st.floats(-1e6, 1e6),
    step=st.floats(1e-6, 1e5),
)
def test_any_histogram_has_a_chart_or_no_pairs(counts: list[int], first: float, step: float) -> None:
    edges = [first + step * index for index in range(len(counts) + 1)]
    svg = charts.delta_histogram(pb.Figures(delta_histogram=pb.Histogram(edges=edges, counts=counts)))

    assert (svg is None) == (sum(counts) == 0)
    if svg is not None:
        labels = [float(text.get("x", "")) for text in svg.iter("text") if text.get("text-anchor") == "middle"]
        assert all(0 <= x <= charts.HALF for x in labels)


def test_a_histogram_may_be_open_on_both_sides_and_end_in_one_bin() -> None:
    histogram = pb.Histogram(edges=[float("-inf"), 0, float("inf")], counts=[3, 4])
    svg = charts.delta_histogram(pb.Figures(delta_histogram=histogram))

    assert svg is not None
    assert {"−∞", "∞", "0"} <= {text.text for text in svg.iter("text")}


@given(shares=st.lists(st.tuples(st.integers(0, 500), st.integers(500, 10**6)), min_size=2, max_size=50))
def test_any_timeline_stays_in_its_frame(shares: list[tuple[int, int]]) -> None:
    report = pb.Report()
    for minute, (events, trials) in enumerate(shares):
        point = report.timeline.add(flips=rate(events, trials), stage=pb.STAGE_SHADOW)
        point.at.FromSeconds(1_790_000_000 + 60 * minute)
    svg = charts.flips_over_time(report, charts.NARROW)

    assert svg is not None
    for shape in (*svg.iter("polyline"), *svg.iter("polygon")):
        for place in shape.get("points", "").split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= charts.NARROW
            assert 0 <= y <= 274


def test_no_chart_is_made_of_nothing() -> None:
    assert charts.delta_histogram(pb.Figures()) is None
    assert charts.flips_over_time(pb.Report()) is None
    assert charts.latencies(pb.Figures(incumbent_latency=pb.Latency(count=1, p50_ms=1, p99_ms=1, p999_ms=1))) is None


@given(high=st.floats(1e-9, 1e12))
def test_steps_of_an_axis_are_round_and_few(high: float) -> None:
    values = axes.round_values(high)

    assert values[0] == 0
    assert values[-1] <= high * (1 + 1e-9)
    assert 3 <= len(values) <= 6


@given(st.lists(st.tuples(st.floats(0, 1000), st.text("0123456789.", min_size=1, max_size=8)), max_size=30))
def test_labels_that_are_kept_do_not_touch(places: list[tuple[float, str]]) -> None:
    kept = sorted(axes.apart(axes.Tick(at, label) for at, label in places))

    for one, other in itertools.pairwise(kept):
        assert one.at + axes.width(one.label) / 2 < other.at - axes.width(other.label) / 2
    assert bool(kept) == bool(places)
