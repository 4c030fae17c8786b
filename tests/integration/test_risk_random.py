"""Whatever a caller sends to RiskService, with fraud-tx itself behind it: an answer, or INVALID_ARGUMENT."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.payments import NOON_S, moment, payment

from headrace import config
from headrace.cluster import Cluster
from headrace.v1 import risk_pb2, risk_pb2_grpc
from headrace_models import wire

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def _serve(trace_dir: Path, started: Queue[Any]) -> None:
    free = {"gateway__port": 0, "gateway__metrics_port": 0, "control__port": 0, "control__ledger": ":memory:"}
    chosen = config.load(None, {}, engine="local", only=["fraud-tx"], telemetry__trace_dir=trace_dir, **free)
    stop = asyncio.Event()
    async with Cluster(chosen) as cluster:
        started.put((cluster.address, asyncio.get_running_loop(), stop))
        await stop.wait()


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[risk_pb2_grpc.RiskServiceStub]:
    """A whole cluster: in processes of its own, for what draws the payments seeds the random numbers of this one."""
    started: Queue[Any] = Queue()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(tmp_path_factory.mktemp("traces"), started)))
    thread.start()
    address, loop, stop = started.get(timeout=90)
    with grpc.insecure_channel(address) as channel:
        yield risk_pb2_grpc.RiskServiceStub(channel)
    loop.call_soon_threadsafe(stop.set)
    thread.join(timeout=60)


words = st.text(max_size=4)
true_moments = st.floats(NOON_S - 5e6, NOON_S + 1e4).map(moment)
moments = true_moments | st.builds(
    Timestamp, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1)
)
labels = {"fraud": st.none() | st.booleans(), "label_ts": st.none() | true_moments}
true_events = st.builds(
    risk_pb2.PaymentEvent,
    event_id=words,
    ts=true_moments,
    card_id=words,
    merchant_id=words,
    amount=st.floats(0, 3.4e38),
    currency=st.sampled_from(["", "EUR", "usd"]),
    mcc=st.integers(0, 9999),
    country=st.sampled_from(["", "FR", "us"]),
    channel=st.sampled_from(wire.CHANNELS),
    device_id=words,
    issuer_bin=words,
    outcome=st.sampled_from(wire.OUTCOMES),
    **labels,
)
wild_events = st.builds(
    risk_pb2.PaymentEvent,
    ts=st.none() | moments,
    amount=st.floats(),
    currency=words,
    mcc=st.integers(0, 2**32 - 1),
    country=words,
    channel=words,
    outcome=words,
    fraud=st.none() | st.booleans(),
    label_ts=st.none() | moments,
)


def payments(events: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        risk_pb2.Payment,
        event=events,
        card_history=st.lists(events, max_size=6),
        merchant_history=st.lists(events, max_size=6),
        merchant_stats=st.just([]) | st.lists(st.floats(-10, 10, width=32), min_size=8, max_size=8),
    )


wild_payments = payments(true_events | wild_events) | st.just(risk_pb2.Payment())


def assert_assessed(signal: risk_pb2.Signal) -> None:
    assert 0 <= signal.probability <= 1
    assert signal.HasField("score")
    assert risk_pb2.RISK_LEVEL_LOW <= signal.level <= risk_pb2.RISK_LEVEL_HIGHEST


@settings(max_examples=150, deadline=None)
@given(payments(true_events))
def test_a_payment_that_can_be_true_is_assessed(stub: risk_pb2_grpc.RiskServiceStub, asked: risk_pb2.Payment) -> None:
    answer = stub.Score(risk_pb2.ScoreRequest(payment=asked), timeout=10)

    assert_assessed(answer.signals[0])


@settings(max_examples=150, deadline=None)
@given(st.lists(wild_payments | payments(true_events), max_size=5))
def test_whatever_comes_is_answered_or_refused_as_invalid(
    stub: risk_pb2_grpc.RiskServiceStub, asked: list[risk_pb2.Payment]
) -> None:
    try:
        answer = stub.ScoreBatch(risk_pb2.ScoreBatchRequest(payments=asked), timeout=10)
    except grpc.RpcError as error:
        assert error.code() is INVALID, error.details()  # noqa: PT017  either end is a good one
        return
    assert len(answer.assessments) == len(asked)
    for signal in (assessment.signals[0] for assessment in answer.assessments):
        if signal.level == risk_pb2.RISK_LEVEL_NOT_ASSESSED:
            assert signal.degraded_reason.startswith("invalid: payments[")
        else:
            assert_assessed(signal)


def test_a_payment_is_worth_the_same_alone_and_among_others(stub: risk_pb2_grpc.RiskServiceStub) -> None:
    asked = [payment(cards, merchants) for cards, merchants in ((0, 0), (3, 9), (140, 70), (20, 1))]

    together = stub.ScoreBatch(risk_pb2.ScoreBatchRequest(payments=asked), timeout=10).assessments
    alone = [stub.Score(risk_pb2.ScoreRequest(payment=one), timeout=10) for one in asked]

    for assessment, answer in zip(together, alone, strict=True):
        assert assessment.signals[0].probability == pytest.approx(answer.signals[0].probability, abs=1e-6)
        assert assessment.truncated_card_events == answer.truncated_card_events
    assert Counter(answer.truncated_card_events for answer in alone) == {0: 3, 13: 1}
