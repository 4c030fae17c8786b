"""Limits of the gates: what is asked for unless an experiment says otherwise, and what cannot be asked for."""

from __future__ import annotations

from math import inf, isfinite
from typing import Final

from headrace.v1 import experiments_pb2 as pb

DEFAULTS: Final = pb.Gates(
    alpha=0.05,
    min_pairs=50_000,
    min_hours=24,
    min_canary_pairs=2_000,
    max_flip_rate=0.005,
    max_noise_ratio=3,
    max_error_excess=0.001,
    max_psi=0.1,
    max_psi_with_consent=0.25,
    min_coverage=0.99,
    max_batch_time_ratio=1.1,
    max_late_rate=0.03,
)

DEMO: Final = pb.Gates(
    min_pairs=5_000,
    min_hours=0,
    min_canary_pairs=500,
    max_error_excess=0.002,  # 0.001 would leave 5,000 pairs not a single error
    max_batch_time_ratio=0,  # replicas that share the cores of one machine with everything else are no measure
    max_late_rate=0.1,
)
"""For minutes instead of days, on one machine: what is left out here is as in `DEFAULTS`."""

_RANGES: Final = {
    "alpha": (0.0, 1.0),
    "min_pairs": (1, inf),
    "min_hours": (0, inf),
    "min_canary_pairs": (1, inf),
    "max_flip_rate": (0, 1),
    "max_noise_ratio": (0, inf),
    "max_error_excess": (0, 1),
    "max_psi": (0, inf),
    "max_psi_with_consent": (0, inf),
    "min_coverage": (0, 1),
    "max_batch_time_ratio": (0, inf),
    "max_late_rate": (0, 1),
}


def filled(gates: pb.Gates) -> pb.Gates:
    """Every limit set, the defaults where there was none. **Raises** ValueError: `gates.alpha: ...`."""
    found = pb.Gates()
    found.CopyFrom(DEFAULTS)
    found.MergeFrom(gates)
    for field, (least, most) in _RANGES.items():
        value = getattr(found, field)
        check(f"gates.{field}", value, f"{least:g} to {most:g}", holds=least <= value <= most)
    check("gates.alpha", found.alpha, "between 0 and 1", holds=0 < found.alpha < 1)
    if found.max_psi > found.max_psi_with_consent:
        raise ValueError("gates.max_psi: more than max_psi_with_consent")
    return found


def check(field: str, value: float, expected: str, *, holds: bool) -> None:
    """**Raises** ValueError: the value is no number, or not what is expected."""
    if not isfinite(value) or not holds:
        raise ValueError(f"{field}: {value:g} is not {expected}")
