"""Names of the limits that gates may have, apart from the limits: the command line starts without protobuf."""

from __future__ import annotations

from enum import StrEnum


class Profile(StrEnum):
    """Which limits the gates have where nobody says otherwise."""

    DEFAULT = "default"
    DEMO = "demo"
