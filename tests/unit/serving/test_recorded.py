"""Which sizes of batch are recorded, and which of them a batch takes: the part that needs no GPU."""

from __future__ import annotations

from dataclasses import replace

from headrace.serving.recorded import fitting, recordable, sizes
from headrace_models import spec
from headrace_models.training.evaluate import REPOSITORY

SHIPPED = REPOSITORY / "fraud-tx" / "1"
FOUND = spec.load_spec(SHIPPED)


def test_every_batch_that_the_spec_allows_fits_a_size() -> None:
    known = sizes(FOUND)

    assert fitting(known, FOUND.max_rows, FOUND.max_tokens) is not None
    assert known[0] == (33, 1024)
    assert max(rows for rows, _ in known) == 65
    assert max(events for _, events in known) == 8192


def test_a_batch_takes_the_smallest_size_it_fits_with_a_row_to_spare() -> None:
    known = sizes(replace(FOUND, max_rows=256, max_tokens=32_768))

    assert len(known) == 24
    assert fitting(known, 1, 10) == (33, 1024)
    assert fitting(known, 32, 1024) == (33, 1024)
    assert fitting(known, 33, 1024) == (65, 1024)
    assert fitting(known, 32, 1025) == (33, 2048)
    assert fitting(known, 256, 32_768) == (257, 32_768)
    assert fitting(known, 257, 10) is None
    assert fitting(known, 1, 32_769) is None


def test_only_modules_that_offer_it_are_recorded() -> None:
    assert recordable(spec.load_module(FOUND, SHIPPED))
    gru = REPOSITORY / "fraud-gru" / "1"
    assert not recordable(spec.load_module(spec.load_spec(gru), gru))
