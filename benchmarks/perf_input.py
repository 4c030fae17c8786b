"""Writes simulated payments as `--input-data` for perf_analyzer: python benchmarks/perf_input.py FILE.json [COUNT]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from headrace_models import simulator
from headrace_models.history import Timeline


def main() -> None:
    path, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200
    timeline = Timeline(simulator.simulate(11, days=40, cards=2000, merchants=200, fraud_share=0.01))
    rows = np.random.default_rng(0).choice(np.arange(len(timeline.events) // 2, len(timeline.events)), count)
    data = []
    for row in rows:
        columns = timeline.columns(int(row))
        if columns["merchant_ts"].shape[1]:  # perf_analyzer has no notion of an empty tensor
            data.append(
                {
                    name: {"content": values[0].ravel().tolist(), "shape": list(values.shape[1:])}
                    for name, values in columns.items()
                }
            )
    path.write_text(json.dumps({"data": data}))
    print(f"{path}: {len(data)} payments")


if __name__ == "__main__":
    main()
