"""One cluster for the suite: what one test does to it, the next one would notice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.bad_input.served import Served, serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found
