"""Our histograms are exposed as prometheus_client's own would be, and hold together while they are written."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from tests.records import TRACE

from headrace.telemetry.histogram import HistogramFamily
from headrace.telemetry.metrics import RATIO, ROWS, SECONDS, SLACK, TOKENS

NAME, ABOUT, LABELS = "headrace_x", "What it is.", ("model", "code")
TIME = re.compile(rb"(# \{.*\} \S+) \S+$", re.MULTILINE)
"""An exemplar without the moment it was seen."""


@pytest.fixture(autouse=True)
def without_created(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a gateway, whose series have no `_created`."""
    monkeypatch.setattr("prometheus_client.metrics._use_created", True)
    disable_created_metrics()


def family(bounds: tuple[float, ...] = SECONDS) -> tuple[CollectorRegistry, HistogramFamily]:
    registry, made = CollectorRegistry(), HistogramFamily(NAME, ABOUT, LABELS, bounds)
    registry.register(made)
    return registry, made


def texts(registry: CollectorRegistry) -> tuple[bytes, bytes]:
    return generate_latest(registry), TIME.sub(rb"\1", generate_openmetrics(registry))


def buckets(made: HistogramFamily) -> dict[str, float]:
    (metric,) = made.collect()
    return {sample.labels["le"]: sample.value for sample in metric.samples if sample.name == f"{NAME}_bucket"}


def observations(bounds: tuple[float, ...]) -> st.SearchStrategy[list[Any]]:
    values = st.sampled_from(bounds) | st.floats(allow_nan=False) | st.integers(-(2**70), 2**70)
    exemplars = st.just((b"", 0)) | st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1))
    return st.lists(st.tuples(st.sampled_from(["OK", 'odd "\\\n']), values, exemplars), max_size=40)


@pytest.mark.parametrize("bounds", [SECONDS, SLACK, ROWS, TOKENS, RATIO], ids=lambda bounds: f"from {bounds[0]}")
@given(data=st.data())
def test_the_same_observations_make_the_text_that_prometheus_client_makes(
    bounds: tuple[float, ...], data: st.DataObject
) -> None:
    registry, ours = family(bounds)
    reference = CollectorRegistry()
    theirs = Histogram(NAME, ABOUT, LABELS, registry=reference, buckets=bounds)
    assert texts(registry) == texts(reference)

    for code, value, (trace_id, span_id) in data.draw(observations(bounds)):
        ours.labels("m", code).observe(value, trace_id, span_id)
        exemplar = {"trace_id": trace_id.hex(), "span_id": f"{span_id:016x}"} if trace_id else None
        theirs.labels("m", code).observe(value, exemplar)

    assert texts(registry) == texts(reference)


def test_a_bound_is_part_of_its_bucket_and_buckets_add_up() -> None:
    _, made = family((1, 2, 5))
    for value in (0.5, 1, 1.5, 2, 5, 5.1, 900):
        made.labels("m", "OK").observe(value)

    assert buckets(made) == {"1.0": 2, "2.0": 4, "5.0": 5, "+Inf": 7}


def test_a_bucket_keeps_its_latest_exemplar_and_when_it_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.telemetry.histogram.time", lambda: 1_700_000_000.5)
    registry, made = family((1, 2))
    series = made.labels("m", "OK")
    series.observe(1.25, b"a" * 16, 1)
    series.observe(1.5, TRACE, 2**64 - 1)
    series.observe(1.75)

    found = re.findall(r"^(\S+ \S+) # (.*)$", generate_openmetrics(registry).decode(), re.MULTILINE)
    series_text = f'{NAME}_bucket{{code="OK",le="2.0",model="m"}} 3.0'
    assert found == [(series_text, f'{{span_id="{"f" * 16}",trace_id="{TRACE.hex()}"}} 1.5 1700000000.5')]
    assert b" # " not in generate_latest(registry)


def test_a_series_shows_from_when_it_is_asked_for_until_it_is_removed() -> None:
    registry, made = family()
    for labels in (("m", "OK"), ("m", "CANCELLED"), ("n", "OK")):
        made.labels(*labels)
    assert made.labels("n", "OK") is made.labels("n", "OK")
    assert generate_latest(registry).count(b"_count{") == 3

    made.remove_by_labels({"model": "m"})
    assert set(re.findall(r'model="\w"', generate_latest(registry).decode())) == {'model="n"'}

    made.remove_by_labels({"model": "m", "code": "OK"})
    made.remove_by_labels({"model": "n", "code": "OK"})
    assert b"_count{" not in generate_latest(registry)
    assert b"# TYPE headrace_x histogram" in generate_latest(registry)


def test_a_name_is_registered_once_and_can_be_asked_for_alone() -> None:
    registry, made = family()
    made.labels("m", "OK").observe(1.0)

    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(HistogramFamily(NAME, ABOUT, LABELS, SECONDS))
    only = generate_latest(registry.restricted_registry([f"{NAME}_sum"]))
    assert only.endswith(b'histogram\nheadrace_x_sum{code="OK",model="m"} 1.0\n')


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hurried")
def test_a_scrape_during_an_observation_holds_together() -> None:
    """A hundred values a series, then it goes: most that a scrape sees are young."""
    registry, made = family()

    def write() -> None:
        for number in range(100_000):
            code, nth = divmod(number, 100)
            made.labels("m", str(code)).observe(nth / 64, TRACE, number)
            if nth == 99:
                made.remove_by_labels({"code": str(code - 1)})

    writer = threading.Thread(target=write)
    writer.start()
    scrapes, seen = 0, 0
    while writer.is_alive():
        (metric,) = registry.collect()
        newest = seen
        for code, group in groupby(metric.samples, key=lambda sample: sample.labels["code"]):
            *found, count, total = group
            assert len(found) == len(SECONDS) + 1
            assert all(before.value <= at.value for before, at in pairwise(found))
            assert all(at.value > before.value for before, at in pairwise(found) if at.exemplar)
            assert found[-1].value == count.value
            assert total.value >= 0
            newest = 100 * int(code) + count.value
        assert newest >= seen, "a scrape saw less than the one before"
        scrapes, seen = scrapes + 1, newest
    writer.join()

    assert scrapes > 10
    assert buckets(made)["+Inf"] == 100
