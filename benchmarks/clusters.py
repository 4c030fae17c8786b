"""Settings of a cluster that a section starts for itself: ports of its own, traces in a folder that goes with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace import config

REPOSITORY = Path(__file__).parent / "repository"


@contextmanager
def settings(
    engine: str, *models: str, replicas: int = 1, gateways: int = 1, primary: str = ""
) -> Iterator[config.Settings]:
    """`replicas` of each model, whose requests go to version `primary`; the highest where none is named."""
    with tempfile.TemporaryDirectory() as traces:
        yield config.load(
            None,
            {},
            engine=engine,
            model_dirs=[REPOSITORY],
            only=list(models),
            models={model: {"replicas": replicas, "primary_version": primary} for model in models},
            gateway__port=0,
            gateway__metrics_port=0,
            gateway__processes=gateways,
            control__port=0,
            control__ledger=":memory:",
            telemetry__trace_dir=Path(traces),
            telemetry__log_level="ERROR",
        )
