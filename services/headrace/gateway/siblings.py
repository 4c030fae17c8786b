"""The other gateways that share this one's port: a client's connections spread over all, so its figures must too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final

from tritonclient.grpc import service_pb2

from headrace.config import GatewaySettings
from headrace.telemetry import pages

log = logging.getLogger(__name__)

PAGE: Final = "/statistics"
"""On a gateway's metrics port: its own ModelStatisticsResponse, in bytes."""
TIMEOUT_S: Final = 1.0


class Siblings:
    """Knows where the others of its node have their metrics port."""

    def __init__(self, settings: GatewaySettings) -> None:
        base = settings.metrics_port
        ports = [base + index for index in range(settings.processes) if index != settings.index]
        self._addresses = [f"{settings.host}:{port}" for port in ports]

    async def statistics(self) -> list[service_pb2.ModelStatisticsResponse]:
        """What each of them has counted. One that does not answer is left out, and said so in the log."""
        found = await asyncio.gather(*(asyncio.to_thread(_fetch, address) for address in self._addresses))
        return [service_pb2.ModelStatisticsResponse.FromString(page) for page in found if page is not None]


def _fetch(address: str) -> bytes | None:
    try:
        return pages.fetch(address, PAGE, TIMEOUT_S)
    except OSError as error:
        log.warning("the gateway with its metrics on %s does not answer: %s", address, error)
        return None


def summed(responses: Sequence[service_pb2.ModelStatisticsResponse]) -> service_pb2.ModelStatisticsResponse:
    """One entry a model version: counts and times added up, the latest inference."""
    found: dict[tuple[str, str], service_pb2.ModelStatistics] = {}
    for response in responses:
        for statistics in response.model_stats:
            key = statistics.name, statistics.version
            if key in found:
                _add(found[key], statistics)
            else:
                found[key] = service_pb2.ModelStatistics()
                found[key].CopyFrom(statistics)
    return service_pb2.ModelStatisticsResponse(model_stats=found.values())


def _add(to: service_pb2.ModelStatistics, more: service_pb2.ModelStatistics) -> None:
    to.last_inference = max(to.last_inference, more.last_inference)
    to.inference_count += more.inference_count
    to.execution_count += more.execution_count
    names = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    _add_durations(to.inference_stats, more.inference_stats, (*names, "cache_hit", "cache_miss"))
    by_size = {batch.batch_size: batch for batch in to.batch_stats}
    for batch in more.batch_stats:
        if batch.batch_size in by_size:
            _add_durations(by_size[batch.batch_size], batch, names[3:])
        else:
            to.batch_stats.append(batch)


def _add_durations(to: object, more: object, names: Iterable[str]) -> None:
    for name in names:
        mine, theirs = getattr(to, name), getattr(more, name)
        mine.count += theirs.count
        mine.ns += theirs.ns
