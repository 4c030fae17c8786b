"""Every target's law, without a fuzzer: for good inputs, for those that once broke it, for thousands of bad ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import codec, payments
from tests.fuzz.targets.target import NAMES, Target, load
from tritonclient.grpc import service_pb2

from headrace.gateway.codec import Decoder, asked
from headrace.v1 import risk_pb2

REGRESSIONS = Path(__file__).parent / "regressions"
COSTLY = {"pairs": 60, "server": 150}
"""Targets that take milliseconds an input, and how many inputs they get."""
KEPT = [path for name in NAMES for path in sorted((REGRESSIONS / name).glob("*"))]


def changed(target: Target, seed: int) -> bytes:
    """A seed of the target, changed: field by field where it is a message, else byte by byte."""
    source = random.Random(seed)
    data = source.choice(target.seeds)
    if target.message is not None and source.random() < 0.9:
        return mutated(target.message.FromString(data), source).SerializeToString()
    found = bytearray(data)
    for _ in range(source.randrange(1, 5)):
        at, size = source.randrange(len(found) + 1), source.randrange(1, 20)
        match source.randrange(4):
            case 0:
                found[at : at + 1] = source.randbytes(1)
            case 1:
                del found[at : at + size]
            case 2:
                found[at:at] = found[at : at + size]
            case _:
                found[at:at] = source.randbytes(size)
    return bytes(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_good_input_keeps_the_law(name: str) -> None:
    target = load(name)

    for seed in target.seeds:
        target.check(seed)
    target.check(b"")


def test_good_requests_and_payments_are_taken_and_not_refused() -> None:
    """A law that refuses everything is kept by whoever refuses everything."""
    for seed in codec.TARGET.seeds:
        request = service_pb2.ModelInferRequest.FromString(seed)
        assert Decoder(codec.SPEC).decode(request, 0.0, asked(request)).columns == codec.columns_of(request)
    for seed in payments.TARGET.seeds:
        for message in risk_pb2.ScoreBatchRequest.FromString(seed).payments:
            assert payments.encoder().encode(message, "payment").columns


@pytest.mark.parametrize("path", KEPT, ids=[f"{path.parent.name}/{path.name}" for path in KEPT])
def test_an_input_that_once_broke_the_law_keeps_it(path: Path) -> None:
    load(path.parent.name).check(path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_a_good_input_that_was_changed_keeps_the_law(name: str) -> None:
    target = load(name)

    for seed in range(COSTLY.get(name, 1500)):
        target.check(changed(target, seed))


@pytest.mark.parametrize("name", NAMES)
def test_any_bytes_keep_the_law(name: str) -> None:
    target = load(name)

    @settings(max_examples=COSTLY.get(name, 200), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=400))
    def keeps(data: bytes) -> None:
        target.check(data)

    keeps()
