"""Histograms that cost the event loop next to nothing: written on one thread, read on any when somebody scrapes.

`prometheus_client`'s own walk the bounds, take a lock twice and check an exemplar's labels against patterns, at every
observation. Here that is a bisection and two additions; what a scrape shows is the same, to the letter.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from time import time
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

INF: Final = float("inf")

Seen = tuple[bytes, int, float, float]
"""An exemplar as it is kept: trace id, span id, the value, Unix seconds."""


class Series:
    """The histogram of one set of label values. One thread observes; each bucket keeps its latest exemplar."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._exemplars: list[Seen | None] = [None] * len(self._counts)
        self._sum = 0.0

    def observe(self, value: float, trace_id: bytes = b"", span_id: int = 0) -> None:
        """Count `value` in the lowest bucket whose bound is not below it. With a trace id it is an exemplar."""
        at = bisect_left(self._bounds, value)
        self._counts[at] += 1
        self._sum += value
        if trace_id:
            self._exemplars[at] = trace_id, span_id, value, time()

    def read(self) -> tuple[list[int], float, list[Seen | None]]:
        """Counts of each bucket alone, sum, exemplars. From any thread: no exemplar is ahead of its count."""
        exemplars = self._exemplars.copy()
        return self._counts.copy(), self._sum, exemplars


class HistogramFamily(Collector):
    """All series of one name: registered as `prometheus_client.Histogram` would be, and exposed as it is.

    `bounds` ascend and are inclusive; a bucket without a bound follows the last. Like there, a family whose first
    bound is negative has no `_sum`: it would not be a counter. NaN is for nobody to observe.
    """

    def __init__(self, name: str, about: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self._name, self._about, self._labels, self._bounds = name, about, labels, bounds
        self._les = [floatToGoString(bound) for bound in (*bounds, INF)]  # type: ignore[no-untyped-call]
        self._series: dict[tuple[str, ...], Series] = {}

    def labels(self, *values: str) -> Series:
        """The series of these label values, made when it is first asked for: it shows from then on."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = Series(self._bounds)
        return series

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """End every series that has all of these label values."""
        wanted = {self._labels.index(name): value for name, value in labels.items()}
        for values in [key for key in self._series if all(key[at] == value for at, value in wanted.items())]:
            del self._series[values]

    def describe(self) -> Iterable[Metric]:
        return [Metric(self._name, self._about, "histogram")]

    def collect(self) -> Iterable[Metric]:
        family = Metric(self._name, self._about, "histogram")
        for values, series in self._series.copy().items():
            family.samples.extend(self._samples(dict(zip(self._labels, values, strict=True)), series))
        return [family]

    def _samples(self, labels: dict[str, str], series: Series) -> Iterator[Sample]:
        counts, total, exemplars = series.read()
        count = 0
        for le, count, seen in zip(self._les, accumulate(counts), exemplars, strict=True):
            yield Sample(f"{self._name}_bucket", {**labels, "le": le}, count, None, seen and _exemplar(*seen))
        yield Sample(f"{self._name}_count", labels, count)
        if self._bounds[0] >= 0:
            yield Sample(f"{self._name}_sum", labels, total)


def _exemplar(trace_id: bytes, span_id: int, value: float, unix_s: float) -> Exemplar:
    return Exemplar({"trace_id": trace_id.hex(), "span_id": f"{span_id:016x}"}, value, unix_s)
