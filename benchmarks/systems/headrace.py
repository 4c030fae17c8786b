"""headrace as `headrace serve` starts it: one gateway, one replica, control; every inference traced to local files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import machine

from systems.launch import BENCHMARKS, MODELS, Launch


def with_engine(engine: str) -> Callable[[str, Path], Launch]:
    def launch(workload: str, folder: Path) -> Launch:
        port, metrics, control = (machine.free_port() for _ in range(3))
        settings = {
            "engine": engine,
            "model_dirs": [str(BENCHMARKS / "repository")],
            "only": [MODELS[workload]],
            "gateway": {"port": port, "metrics_port": metrics},
            "control": {"port": control, "ledger": ":memory:"},
            "telemetry": {"trace_dir": str(folder / "traces"), "log_level": "ERROR", "sampling": 1.0},
        }
        config = folder / "headrace.yaml"
        config.write_text(json.dumps(settings))  # JSON is YAML
        command = [sys.executable, "-m", "headrace", "serve", "--config", str(config)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "OTEL_"))}
        return Launch(command, kept, f"127.0.0.1:{port}", f"127.0.0.1:{metrics}")

    return launch
