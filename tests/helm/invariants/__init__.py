"""What no schema sees: how the objects of one release fit together."""

from tests.helm.invariants import (
    applications,
    control,
    names,
    network,
    ports,
    ray,
    references,
    scaling,
    security,
    selectors,
    settings,
    shutdown,
)
from tests.helm.invariants.laws import LAWS

__all__ = [
    "LAWS",
    "applications",
    "control",
    "names",
    "network",
    "ports",
    "ray",
    "references",
    "scaling",
    "security",
    "selectors",
    "settings",
    "shutdown",
]
