"""`headrace top`: what the gateways are doing right now, from their metrics alone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live
from rich.table import Table

from headrace.errors import StartupError
from headrace.telemetry import pages

TIMEOUT_S: Final = 2.0

Lane = tuple[str, str]
"""(model, version)."""


@dataclass(slots=True)
class Reading:
    """What the gateways' counters said at one moment, summed over them."""

    at: float
    answered: dict[Lane, float] = field(default_factory=lambda: defaultdict(float))
    refused: dict[Lane, float] = field(default_factory=lambda: defaultdict(float))
    buckets: dict[Lane, dict[float, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    """Upper bound in seconds → answered requests within it."""
    batches: dict[Lane, float] = field(default_factory=lambda: defaultdict(float))
    rows: dict[Lane, float] = field(default_factory=lambda: defaultdict(float))
    waiting: dict[Lane, float] = field(default_factory=lambda: defaultdict(float))
    replicas: dict[Lane, float] = field(default_factory=lambda: defaultdict(float))
    """Ready, as the gateway that sees most of them says: every gateway sees the same ones."""
    cut_off: int = 0
    """Gateways that do not hear control: they go by the last policy and the last replicas they knew."""

    def add(self, page: str) -> None:
        """Take in one gateway's metrics."""
        own_replicas: dict[Lane, float] = defaultdict(float)
        for family in text_string_to_metric_families(page):
            for name, labels, value, *_ in family.samples:
                if labels.get("path") != "shadow":  # copies are nobody's requests
                    self._add_sample(name, labels, value, own_replicas)
        for lane, number in own_replicas.items():
            self.replicas[lane] = max(self.replicas[lane], number)

    def _add_sample(self, name: str, labels: Mapping[str, str], value: float, replicas: dict[Lane, float]) -> None:
        lane = labels.get("model", ""), labels.get("version", "")
        match name:
            case "headrace_request_duration_seconds_count":
                (self.answered if labels["code"] == "OK" else self.refused)[lane] += value
            case "headrace_request_duration_seconds_bucket" if labels["code"] == "OK":
                self.buckets[lane][float(labels["le"])] += value
            case "headrace_batch_rows_count":
                self.batches[lane] += value
            case "headrace_batch_rows_sum":
                self.rows[lane] += value
            case "headrace_queue_rows":
                self.waiting[lane] += value
            case "headrace_replicas" if labels["state"] == "ready":
                replicas[lane] += value
            case "headrace_control_connected":
                self.cut_off += not value


def read(addresses: Iterable[str]) -> Reading:
    """One look at every gateway. Raises: StartupError when one can't be reached."""
    reading = Reading(time.monotonic())
    for address in addresses:
        try:
            reading.add(pages.fetch(address, "/metrics", TIMEOUT_S).decode())
        except (OSError, ValueError) as error:
            raise StartupError(f"{address}: no metrics ({error})") from error
    return reading


def quantile_ms(share: float, before: dict[float, float], now: dict[float, float]) -> float | None:
    """Milliseconds within which this share of what came between two looks was answered; None when nothing came.

    Linear inside a bucket, as Prometheus does it; beyond the last bound, that bound.
    """
    grown = sorted((bound, count - before.get(bound, 0.0)) for bound, count in now.items())
    total = grown[-1][1] if grown else 0.0
    if total <= 0:
        return None
    below, lower = 0.0, 0.0
    for bound, count in grown:
        if count >= share * total:
            upper = lower if bound == float("inf") else bound
            inside = (share * total - below) / (count - below) if count > below else 1.0
            return (lower + (upper - lower) * inside) * 1e3
        below, lower = count, bound
    return lower * 1e3


def table(before: Reading, now: Reading) -> Table:
    """Rates and quantiles of what came between two looks, a line a model version."""
    drawn = Table(
        "model", "version", "rate/s", "p50 ms", "p99 ms", "batch", "refused/s", "waiting", "replicas", box=None
    )
    for column in drawn.columns[2:]:
        column.justify = "right"
    seconds = max(now.at - before.at, 1e-9)
    for lane in sorted({*now.replicas, *now.answered, *now.refused}):
        quantiles = [quantile_ms(share, before.buckets[lane], now.buckets[lane]) for share in (0.5, 0.99)]
        batches = now.batches[lane] - before.batches[lane]
        drawn.add_row(
            lane[0] or "(unknown)",
            lane[1],
            f"{(now.answered[lane] - before.answered[lane]) / seconds:,.0f}",
            *("–" if value is None else f"{value:.1f}" for value in quantiles),
            f"{(now.rows[lane] - before.rows[lane]) / batches:.1f}" if batches > 0 else "–",
            f"{(now.refused[lane] - before.refused[lane]) / seconds:,.1f}",
            f"{now.waiting[lane]:.0f}",
            f"{now.replicas[lane]:.0f}",
        )
    if now.cut_off:
        drawn.caption = f"{now.cut_off} of the gateways cannot hear control: they go by the last policy they knew"
    return drawn


def run(addresses: list[str], every: float, *, once: bool) -> None:
    """Look again every so many seconds, until Ctrl-C. Raises: StartupError."""
    before = read(addresses)
    console = Console()
    if once:
        time.sleep(every)
        console.print(table(before, read(addresses)))
        return
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                now = read(addresses)
                live.update(table(before, now), refresh=True)
                before = now
        except KeyboardInterrupt:
            return
