"""Names that others give to what they send: what control keeps, and shows, of them is bounded and printable."""

from __future__ import annotations

from typing import Final

from headrace.errors import InvalidInference

MAX_TEXT: Final = 256


def check_name(field: str, name: str) -> None:
    """Raises: InvalidInference naming the field."""
    if not (0 < len(name) <= MAX_TEXT and name.isprintable()):
        raise InvalidInference(f"{field}: 1 to {MAX_TEXT} printable characters")
