"""One rig for the suite, whole at the beginning of each test; another one where a test has left it broken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from tests.faults.rig import Rig

AGAIN_S = 60.0


@pytest.fixture(scope="session")
def rigs() -> Iterator[list[Rig]]:
    """The last one is in use; the others are stopped."""
    found: list[Rig] = []
    yield found
    for rig in found[-1:]:
        rig.stop()


@pytest.fixture
def rig(rigs: list[Rig], tmp_path_factory: pytest.TempPathFactory) -> Rig:
    if rigs:
        rigs[-1].forget()
        with contextlib.suppress(TimeoutError):
            rigs[-1].run(rigs[-1].until_whole(AGAIN_S), 2 * AGAIN_S)
            return rigs[-1]
        rigs[-1].stop()
    rigs.append(Rig(tmp_path_factory.mktemp("faults")))
    rigs[-1].start()
    return rigs[-1]
