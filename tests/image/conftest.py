"""Fixtures of the image tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.image import engines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def engine() -> Iterator[engines.Engine]:
    """Skips where nothing can build an image, and says why."""
    found = engines.choose(ROOT)
    if isinstance(found, str):
        pytest.skip(found)
    yield found
    found.close()


@pytest.fixture(scope="session")
def build(engine: engines.Engine) -> Callable[[str], str]:
    """Builds the image of a target, once; the target."""

    @functools.cache
    def once(target: str) -> str:
        engine.build(target)
        return target

    return once


@pytest.fixture(scope="session", params=["gateway", "replica"])
def target(request: pytest.FixtureRequest, build: Callable[[str], str]) -> str:
    """Either image, built."""
    return build(request.param)


@pytest.fixture(scope="session")
def gateway(build: Callable[[str], str]) -> str:
    """The gateway's image, built."""
    return build("gateway")


@pytest.fixture(scope="session")
def replica(build: Callable[[str], str]) -> str:
    """The replica's image, built."""
    return build("replica")
