"""Fixtures of the image tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.image import engines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def engine() -> engines.Engine:
    """Skips where nothing can build an image, and says why."""
    found = engines.choose(ROOT)
    if isinstance(found, str):
        pytest.skip(found)
    return found
