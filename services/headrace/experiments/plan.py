"""How an experiment is run: defaults, and what cannot be."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.v1 import experiments_pb2 as pb


def filled(plan: pb.Plan, default_output: str, default_thresholds: Sequence[float]) -> pb.Plan:
    """A plan with every default filled in. ValueError names the field: `plan.share: ...`."""
    raise NotImplementedError
