"""One cluster for the tests of a file: what one does to it, the next one would notice. It ends before other suites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.bad_input.served import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found
