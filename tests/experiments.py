"""Pairs as gateways tell them, made up: versions of a model `m` with a score, and what happens to their answers."""

from __future__ import annotations

from collections import Counter

import numpy as np

from headrace.core.octaves import bucket
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb

NOW_US = 1_790_000_000_000_000


def spec(version: str, name: str = "m") -> control_pb2.ModelSpec:
    outputs = [
        control_pb2.TensorSpec(name="p", datatype="FP32", dims=[1]),
        control_pb2.TensorSpec(name="score", datatype="INT32", dims=[1]),
    ]
    signal = control_pb2.SignalSpec(name="fraud", calibration_version="1")
    return control_pb2.ModelSpec(name=name, version=version, digest=version, outputs=outputs, signal=signal)


def columns(
    rows: int,
    *,
    flips: int = 0,
    errors: int = 0,
    canary: int = 0,
    seed: int = 0,
    at_us: int = NOW_US,
    noise: bool = False,
) -> pb.PairColumns:
    """Pairs that agree but for the first `flips`; then `errors` failures of the challenger; `canary` at the end."""
    random = np.random.default_rng(seed)
    incumbent = random.integers(0, 100, rows).astype(float)
    challenger = incumbent.copy()
    incumbent[:flips], challenger[:flips] = 70, 80
    failed = np.zeros(rows, bool)
    failed[flips : flips + errors] = True
    challenger[failed] = np.nan
    found = pb.PairColumns(
        at_us=[at_us + i for i in range(rows)],
        incumbent=incumbent,
        challenger=challenger,
        challenger_error=failed.astype(int),
        incumbent_us=random.integers(4_000, 6_000, rows),
        challenger_us=random.integers(4_000, 6_000, rows),
        canary=np.arange(rows) >= rows - canary,
        amount=random.uniform(1, 100, rows),
        currency=["EUR"] * rows,
        event_id=[f"{seed}-{i}" for i in range(rows)],
        entity=random.integers(1, 1 << 64, rows, np.uint64),
        trace_ids=random.bytes(16 * rows),
    )
    if not noise:
        found.batches.extend(
            pb.BatchTime(tokens=64, compute_us=900 + i, challenger=bool(i % 2)) for i in range(rows // 10)
        )
    return found


def message(
    sequence: int = 1, rows: int = 100, *, experiment: str = "e", gateway: str = "g", lost: int = 0, **of_pairs: int
) -> pb.RecordPairsRequest:
    """One gateway's message: pairs, a tenth as many of the noise floor, and `lost` rows that were shed.

    A request a pair; the challenger fails as many of callers' as it has errors, where it is asked so many.
    """
    noise, canary, errors = rows // 10, of_pairs.get("canary", 0), of_pairs.get("errors", 0)
    pairs = columns(rows, **{"seed": sequence, **of_pairs})
    counts = pb.SampleCounts(
        sampled=rows + lost,
        drops={"load": lost} if lost else {},
        incumbent_requests=rows + lost - canary,
        challenger_requests=canary,
        challenger_failures=min(errors, canary),
        incumbent_took=Counter(map(bucket, pairs.incumbent_us[: rows - canary])),
        challenger_took=Counter(map(bucket, pairs.challenger_us[rows - canary :])),
    )
    return pb.RecordPairsRequest(
        experiment_id=experiment,
        gateway_id=gateway,
        sequence=sequence,
        pairs=pairs,
        noise=columns(noise, seed=sequence, noise=True),
        counts=counts,
        noise_counts=pb.SampleCounts(sampled=noise),
    )
