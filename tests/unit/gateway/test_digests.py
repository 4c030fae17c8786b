"""A digest is of what an answer depends on: all of it, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.payments import payment
from tritonclient.grpc import service_pb2

from headrace.client import request
from headrace.gateway.digests import of_payments, of_tensors


def ask() -> service_pb2.ModelInferRequest:
    return request("m", {"a": np.ones((1, 2), np.float32), "b": np.zeros((1, 1), np.int64)}, request_id="1")


def _data(message: Any) -> None:
    message.raw_input_contents[0] = bytes(8)


def _moved_border(message: Any) -> None:
    whole = b"".join(message.raw_input_contents)
    message.raw_input_contents[0], message.raw_input_contents[1] = whole[:4], whole[4:]


def _shape(message: Any) -> None:
    message.inputs[0].shape[:] = [2, 1]


def _output(message: Any) -> None:
    message.outputs.add(name="p")


def _sequence(message: Any) -> None:
    message.parameters["sequence_id"].int64_param = 7


@pytest.mark.parametrize("edit", [_data, _moved_border, _shape, _output, _sequence])
def test_another_question_has_another_digest(edit: Any) -> None:
    message = ask()
    edit(message)

    assert of_tensors(message) != of_tensors(ask())


def test_what_may_differ_from_try_to_try_is_not_in_it() -> None:
    message = ask()
    message.id = "2"
    message.parameters["timeout"].int64_param = 5
    message.parameters["priority"].uint64_param = 1

    assert of_tensors(message) == of_tensors(ask())


@given(first=st.lists(st.binary(max_size=4), max_size=4), second=st.lists(st.binary(max_size=4), max_size=4))
def test_tensors_that_differ_never_agree(first: list[bytes], second: list[bytes]) -> None:
    digests = [of_tensors(service_pb2.ModelInferRequest(raw_input_contents=raw)) for raw in (first, second)]

    assert (digests[0] == digests[1]) == (first == second)


def test_payments_differ_by_what_they_say_and_by_how_they_are_asked_for() -> None:
    digests = {
        of_payments([payment()], explain=False, several=False),
        of_payments([payment()], explain=True, several=False),
        of_payments([payment()], explain=False, several=True),
        of_payments([payment(), payment()], explain=False, several=True),
        of_payments([payment(amount=13)], explain=False, several=False),
    }

    assert len(digests) == 5
    assert of_payments([payment()], explain=False, several=False) in digests
