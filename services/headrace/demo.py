"""`headrace demo`: a simulated day of payments through a cluster of its own, told the way a risk engineer reads it.

Everything is real: Ray Serve, gRPC, tritonclient, the shipped model. Only the payments are simulated.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as triton
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tritonclient.utils import InferenceServerException

from headrace import demo_traffic
from headrace.cluster import Cluster
from headrace.config import AccessSettings, Settings, TlsSettings
from headrace.demo_traffic import MODEL
from headrace.telemetry import reading, waterfall
from headrace_models import wire
from headrace_models.history import Timeline

TRACES: Final = Path("build/demo-traces")
ALERTS: Final = 100
"""What a team can look at in a day."""
IN_FLIGHT: Final = 32
TIMEOUT_S: Final = 5.0


@dataclass(slots=True)
class Day:
    """The payments to stream, oldest first, and what became of them."""

    timeline: Timeline
    rows: npt.NDArray[np.int64]
    p: dict[int, float] = field(default_factory=dict)
    """Row → probability, for those that were scored."""
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=2000))
    batch_rows: deque[int] = field(default_factory=lambda: deque(maxlen=2000))
    errors: int = 0
    first_score_at: float = 0.0


async def run(settings: Settings) -> None:
    """Stream for HEADRACE_DEMO_SECONDS (20 by default), then report. Raises: StartupError."""
    console = Console()
    begun = time.monotonic()
    seconds = float(os.environ.get("HEADRACE_DEMO_SECONDS", "20"))
    shutil.rmtree(TRACES, ignore_errors=True)
    settings = settings_of_the_demo(settings)
    with console.status("simulating a day of payments, starting the cluster"):
        day_ready = asyncio.create_task(asyncio.to_thread(simulate_day))
        cluster = await Cluster(settings).__aenter__()
    try:
        day = await day_ready
        await _stream(day, cluster.address, seconds, console)
    finally:
        with console.status("draining"):
            await cluster.stop()
    _report(day, console, day.first_score_at - begun)


def settings_of_the_demo(settings: Settings) -> Settings:
    """Quiet, with traces of its own, and without the models it does not ask: each would take a core's time to start."""
    telemetry = settings.telemetry.model_copy(update={"trace_dir": TRACES, "log_level": "ERROR"})
    control = settings.control.model_copy(update={"ledger": Path(":memory:")})
    doors = {"tls": TlsSettings(), "access": AccessSettings()}  # it is its own caller, on this machine
    return settings.model_copy(update={"telemetry": telemetry, "control": control, "only": (MODEL,), **doors})


def simulate_day() -> Day:
    """The late simulated day whose share of fraud is nearest to the usual, with the histories it has by then."""
    events = demo_traffic.simulate()
    day = demo_traffic.day_of(events)
    fraud = events.label == wire.LABEL_FRAUD
    late = range(int(demo_traffic.WORLD["days"]) - 15, int(demo_traffic.WORLD["days"]) - 1)
    chosen = min(late, key=lambda number: abs(fraud[day == number].mean() - demo_traffic.FRAUD_SHARE))
    return Day(Timeline(events), np.flatnonzero(day == chosen))


async def _stream(day: Day, address: str, seconds: float, console: Console) -> None:
    progress = Progress(
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[live]}"),
        TimeElapsedColumn(),
        console=console,
    )
    until = time.monotonic() + seconds
    payments = demo_traffic.payments(day.timeline, day.rows)
    with progress:
        bar = progress.add_task("scoring", total=len(day.rows), live="")
        async with triton.InferenceServerClient(address) as client, asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(_score_until(day, payments, client, until))
            group.create_task(_show(day, progress, bar, until))


async def _score_until(
    day: Day,
    payments: Iterator[demo_traffic.Payment],
    client: triton.InferenceServerClient,
    until: float,
) -> None:
    """One caller: the next payment of the day, its score, the next."""
    for row, inputs in payments:
        if time.monotonic() > until:
            return
        asked = time.perf_counter()
        try:
            result = await client.infer(MODEL, inputs, client_timeout=TIMEOUT_S)
        except InferenceServerException:
            day.errors += 1
            continue
        day.latencies_ms.append((time.perf_counter() - asked) * 1e3)
        day.batch_rows.append(result.get_response().parameters["headrace_batch_rows"].int64_param)
        day.p[row] = float(result.as_numpy("p")[0, 0])
        day.first_score_at = day.first_score_at or time.monotonic()


async def _show(day: Day, progress: Progress, bar: Any, until: float) -> None:
    begun = time.monotonic()
    while time.monotonic() < until and len(day.p) + day.errors < len(day.rows):
        await asyncio.sleep(0.2)
        if day.latencies_ms:
            p50, p99 = np.percentile(day.latencies_ms, (50, 99))
            rate = len(day.p) / (time.monotonic() - begun)
            live = f"{rate:,.0f}/s  p50 {p50:.1f}  p99 {p99:.1f} ms  batch {np.mean(day.batch_rows):.1f}"
            progress.update(bar, completed=len(day.p), live=live)


def _report(day: Day, console: Console, first_score_s: float) -> None:
    """The day as a risk engineer reads it, where the time went, and one payment's trace."""
    rows = np.array(sorted(day.p), np.int64)
    if not len(rows):
        console.print("no payment was scored", style="red")
        raise SystemExit(1)
    p = np.array([day.p[row] for row in rows])
    fraud = day.timeline.events.label[rows] == wire.LABEL_FRAUD
    alerts = np.argsort(-p, kind="stable")[:ALERTS]
    table = Table(title="A simulated day", title_justify="left", show_header=False)
    table.add_row(
        "payments scored", f"{len(rows):,} of {len(day.rows):,}" + (f", {day.errors} errors" if day.errors else "")
    )
    table.add_row("fraud among them", f"{int(fraud.sum()):,} ({fraud.mean():.2%})")
    table.add_row("alerts (the highest scores)", f"{len(alerts):,}")
    table.add_row("precision of the alerts", f"{fraud[alerts].mean():.0%}")
    table.add_row("share of all fraud caught there", f"{fraud[alerts].sum() / max(1, fraud.sum()):.0%}")
    table.add_row("from the start to the first score", f"{first_score_s:.1f} s")
    console.print(table)
    _print_stages(console)
    if (trace := reading.typical(TRACES)) is not None:
        console.print("\nOne payment, followed through:", style="bold")
        console.print(waterfall.draw(trace))
    console.print(f"\nMore: headrace trace --dir {TRACES}", style="dim")


def _print_stages(console: Console) -> None:
    table = Table("stage", "p50 ms", "p95 ms", "p99 ms", title="Where the time goes")
    names = {
        "rpc": "request, at the gateway",
        "queue": "waiting for its batch",
        "dispatch": "batch, there and back",
        "replica.batch": "batch, at the replica",
        "forward": "batch, in the model",
    }
    for stage, values in reading.percentiles_ms(TRACES).items():
        table.add_row(names[stage], *(f"{value:.2f}" for value in values))
    console.print(table)
