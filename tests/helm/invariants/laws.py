"""The list of what must hold of every render: each law is a function that raises AssertionError.

A law holds whatever the values. Advice holds of the values that we ship; a user may know better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.helm.release import Release

Law = Callable[[Release], None]
LAWS: Final[dict[str, Law]] = {}
"""Name → law or advice, of all files of this folder that are imported."""
ADVICE: Final[set[str]] = set()
"""Names of those that only our own values are held to."""


def law(check: Law) -> Law:
    LAWS[check.__name__] = check
    return check


def advice(check: Law) -> Law:
    ADVICE.add(check.__name__)
    return law(check)
