"""Strings in a column: what a module's author makes of one, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace_models import strings


@given(st.lists(st.binary(max_size=9), max_size=6), st.integers(9, 12))
def test_strings_come_back_as_they_were_from_an_array_and_from_a_tensor(texts: list[bytes], longest: int) -> None:
    column = strings.encode(texts, longest)

    assert column.shape == (len(texts), 4 + longest)
    assert strings.decode(column) == texts
    assert strings.decode(torch.from_numpy(column)) == texts
    assert strings.lengths_of(column).tolist() == [len(text) for text in texts]


def test_a_row_of_several_is_row_major() -> None:
    column = strings.encode([b"a", b"bc", b"", b"d", b"e", b"fgh"], 3, (3,))

    assert column.shape == (2, 3, 7)
    assert strings.decode(column[1]) == [b"d", b"e", b"fgh"]
    assert strings.decode(column[:, ::2]) == [b"a", b"", b"d", b"fgh"]


def test_behind_the_end_are_zeros_and_a_module_may_write() -> None:
    column = strings.encode([b"ab"], 4)

    assert column.tolist() == [[2, 0, 0, 0, 97, 98, 0, 0]]
    assert torch.from_numpy(column).add_(1).sum() == np.sum([3, 1, 1, 1, 98, 99, 1, 1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a string of 5 bytes does not fit into 4"):
        strings.encode([b"abcd", b"abcde"], 4)
