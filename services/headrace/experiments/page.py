"""One report as one HTML page that needs nothing else: no script, no request, its style and its charts inside.

Everything a caller or a model named is made plain and escaped on its way in; a policy in the page forbids the rest.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Final
from xml.etree import ElementTree as ET

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from headrace.experiments import charts, reading, words
from headrace.v1 import experiments_pb2 as pb

CLASSES: Final = {
    pb.VERDICT_PASS: "pass",
    pb.VERDICT_WAIT: "wait",
    pb.VERDICT_CONSENT: "consent",
    pb.VERDICT_FAIL: "fail",
}
ROOM: Final = 1.15
"""The whiskers' axis ends this much beyond the widest interval."""


def page(report: pb.Report) -> str:
    """The page of a report, whole or empty. Raises nothing on what a caller named; see `words.plain`."""
    figures = report.figures
    drawn = {
        "deltas": charts.delta_histogram(figures),
        "wide": charts.flips_over_time(report, charts.WIDE),
        "narrow": charts.flips_over_time(report, charts.NARROW),
        "latencies": charts.latencies(figures),
    }
    return _template().render(
        report=report,
        experiment=report.experiment,
        figures=figures,
        charts={name: None if svg is None else _inline(svg) for name, svg in drawn.items()},
        whiskers=_whiskers(report),
        values=words.alike(report.worst),
        step=reading.next_step(report),
        limit=reading.flip_limit(report),
        ended=report.experiment.stage in reading.ENDED,
    )


def _whiskers(report: pb.Report) -> list[Markup]:
    """One a segment, all on one axis."""
    rates = [segment.flips for segment in report.figures.segments]
    limit = reading.flip_limit(report)
    high = ROOM * max([limit, *(min(rate.interval.upper, 1) for rate in rates)])
    return [_inline(charts.whisker(rate, limit, high)) for rate in rates]


def _inline(svg: ET.Element) -> Markup:
    return Markup(ET.tostring(svg, encoding="unicode"))  # noqa: S704  the serialiser has escaped it


def _finalize(value: Any) -> Any:
    """What the template prints: text is made plain first, and escaped by jinja2 afterwards."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return words.plain(value).replace(" %", "\u00a0%")  # a line does not end before its unit


@cache
def _template() -> Template:
    folder = resources.files("headrace.experiments")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        css=Markup((folder / "page.css").read_text("utf-8")),  # noqa: S704  ours
        words=words,
        reading=reading,
        pb=pb,
        classes=CLASSES,
    )
    return environment.from_string((folder / "page.html.j2").read_text("utf-8"))
