"""`headrace score FILE` and `headrace models`: the client at a prompt."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.channel import connect_blocking
from headrace.client import Score, SyncScoringClient
from headrace.credentials import NOBODY, ClientCredentials
from headrace.errors import HeadraceError, InvalidInference, NotServing, StartupError

AGAIN_S: Final = 0.1
"""Between two watches: a proxy without gateways ends each at once."""
GONE: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""How a watch ends that is worth another one: its gateway went, and a Service may know of others."""


def run(file: Path, address: str, model: str, *, as_json: bool, credentials: ClientCredentials = NOBODY) -> int:
    """Score every line; a bad line is reported and skipped. Returns the exit code: 1 if any line failed."""
    try:
        source = sys.stdin if str(file) == "-" else file.open()
    except OSError as error:
        raise StartupError(f"{file}: {error.strerror}") from error
    table = Table("event", "p", "score", "model", title=f"{file}")
    failures = 0
    with source, SyncScoringClient(address, model=model, timeout_s=10, credentials=credentials) as client:
        for number, line in _lines(source):
            try:
                event_id, scored = _score_line(client, line)
            except HeadraceError as error:
                failures += 1
                print(f"{file}:{number}: {error}", file=sys.stderr)  # noqa: T201
                continue
            if as_json:
                _print_json(event_id, scored)
            else:
                table.add_row(event_id, f"{scored.p:.5f}", str(scored.score), f"{scored.model} {scored.version}")
    if not as_json:
        Console().print(table)
    return 1 if failures else 0


def wait_ready(address: str, model: str, timeout_s: float, credentials: ClientCredentials = NOBODY) -> None:
    """Wait until a gateway at `address` says that it serves the model. Raises: NotServing after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    with connect_blocking(address, credentials.tokenless) as channel:
        while not _watch(channel, model, deadline):
            time.sleep(min(AGAIN_S, max(0.0, deadline - time.monotonic())))


def print_models(address: str, credentials: ClientCredentials = NOBODY) -> None:
    """A table of what the gateway at `address` serves. Raises: NotServing when nobody answers there."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(connect_blocking(address, credentials))
    try:
        found = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=5)
    except grpc.RpcError as error:
        raise NotServing(f"{address} does not answer ({error.details()})") from error
    table = Table("model", "version", "state", "why", title=address)
    for entry in found.models:
        table.add_row(entry.name, entry.version, entry.state, entry.reason)
    Console().print(table)


def _watch(channel: grpc.Channel, model: str, deadline: float) -> bool:
    """Whether the model became ready before the watch broke off. Raises: NotServing, too late or hopeless."""
    asked = health_pb2.HealthCheckRequest(service=model)
    left_s = deadline - time.monotonic()
    try:
        news = health_pb2_grpc.HealthStub(channel).Watch(asked, timeout=left_s, wait_for_ready=True)
        return any(told.status == health_pb2.HealthCheckResponse.SERVING for told in news)
    except grpc.RpcError as error:
        if error.code() in GONE:
            return False
        raise NotServing(f"model '{model}' is not ready ({error.code().name}: {error.details()})") from error


def _lines(source: TextIO) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(source, 1) if line.strip())


def _score_line(client: SyncScoringClient, line: str) -> tuple[str, Score]:
    """One line: `{"payment": {…}, "card_history": […], "merchant_history": […]}`."""
    try:
        tree: Any = json.loads(line)
        payment = tree["payment"]
        histories = tree.get("card_history", ()), tree.get("merchant_history", ())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInference(f'expected {{"payment": {{…}}, "card_history": […]}} ({error})') from error
    return str(payment.get("event_id", "")), client.score(payment, *histories)


def _print_json(event_id: str, scored: Score) -> None:
    print(  # noqa: T201
        json.dumps(
            {
                "event_id": event_id,
                "p": round(scored.p, 7),
                "score": scored.score,
                "model": scored.model,
                "version": scored.version,
            }
        )
    )
