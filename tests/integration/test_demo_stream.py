"""The demos' payments as a gateway receives them: in order, at their pace, saying what an experiment asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace import demo_traffic
from headrace.demo_stream import Pace, Stream
from headrace_models import simulator, wire
from headrace_models.history import Timeline

Run = Callable[..., Any]


class Recorder(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Remembers what it is asked; refuses every payment of `refused`."""

    def __init__(self, refused: str = "") -> None:
        self.requests: list[service_pb2.ModelInferRequest] = []
        self._refused = refused

    async def ModelInfer(  # noqa: N802
        self, request: service_pb2.ModelInferRequest, context: aio.ServicerContext[Any, Any]
    ) -> service_pb2.ModelInferResponse:
        self.requests.append(request)
        if request.parameters["headrace_event_id"].string_param == self._refused:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return service_pb2.ModelInferResponse(model_name=request.model_name, model_version="2")


@asynccontextmanager
async def recording(recorder: Recorder) -> AsyncIterator[triton.InferenceServerClient]:
    server = aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(recorder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client
    await server.stop(None)


@cache
def timeline() -> Timeline:
    return Timeline(simulator.simulate(3, days=20, cards=400, merchants=60))


async def sent(count: int, refused: str = "", rate: float = 100_000) -> tuple[Stream, Recorder]:
    """The last `count` payments, through."""
    events = timeline().events
    rows = np.arange(len(events) - count, len(events))
    stream, recorder = Stream(timeline(), rows, Pace(rate)), Recorder(refused)
    async with recording(recorder) as client, stream.flowing(client):
        while len(stream.answered) + stream.errors < count:
            await asyncio.sleep(0.01)
    return stream, recorder


def test_a_payment_says_who_pays_how_much_of_what(run: Run) -> None:
    stream, recorder = run(sent(40))

    events, last = timeline().events, len(timeline().events) - 1
    request = next(r for r in recorder.requests if r.parameters["headrace_event_id"].string_param == f"e{last}")
    assert request.model_name == "fraud-tx"
    assert request.model_version == ""  # who answers is the policy's business
    assert request.parameters["headrace_entity"].string_param == f"{int(events.card[last]) % 2**64:016x}"
    assert request.parameters["headrace_amount"].WhichOneof("parameter_choice") == "double_param"
    assert request.parameters["headrace_amount"].double_param == float(events.amount[last])
    currency = request.parameters["headrace_currency"].string_param
    assert wire.letters_code(currency) == events.currency[last]
    assert sorted(stream.answered) == stream.rows.tolist()
    assert stream.by_version == {"2": 40}


def test_payments_carry_the_histories_that_they_had(run: Run) -> None:
    _, recorder = run(sent(40))

    last = len(timeline().events) - 1
    request = next(r for r in recorder.requests if r.parameters["headrace_event_id"].string_param == f"e{last}")
    expected = timeline().columns(last)
    assert [tensor.name for tensor in request.inputs] == list(expected)
    assert list(request.raw_input_contents) == [np.ascontiguousarray(v).tobytes() for v in expected.values()]


def test_payments_go_in_order(run: Run) -> None:
    """One caller starts after the other, so the order of arrival is theirs but for those that travel together."""
    _, recorder = run(sent(300))

    ids = np.array([int(r.parameters["headrace_event_id"].string_param[1:]) for r in recorder.requests])
    assert len(ids) == 300
    assert np.abs(np.argsort(ids) - np.arange(300)).max() <= 32


def test_a_refused_payment_is_counted_and_the_next_goes_on(run: Run) -> None:
    last = len(timeline().events) - 1
    stream, _ = run(sent(40, refused=f"e{last - 20}"))

    assert stream.errors == 1
    assert last - 20 not in stream.answered
    assert len(stream.answered) == 39
    assert "39 by version 2" in stream.summary()


def test_no_more_payments_go_than_the_pace_allows(run: Run) -> None:
    """One that is late is not made up for, so a slow machine sees fewer, never more."""

    async def turns(pace: Pace) -> float:
        begun = time.monotonic()
        await asyncio.gather(*(pace.turn() for _ in range(21)))
        return time.monotonic() - begun

    assert run(turns(Pace(400))) >= 20 / 400


def rate_after(looks: list[tuple[int, int]], pace: Pace) -> float:
    for behind, lost in looks:
        pace.keep_up(behind, lost)
    return pace.rate


def test_the_pace_grows_to_what_was_asked_for_and_not_beyond() -> None:
    pace = Pace(100)

    assert pace.rate == 50
    assert 50 < rate_after([(0, 0)], pace) < 100
    assert rate_after([(0, 0)] * 50, pace) == 100


@pytest.mark.parametrize("look", [(101, 0), (0, 1)], ids=["behind", "lost"])
def test_whoever_cannot_keep_up_is_sent_fewer_until_there_is_room(look: tuple[int, int]) -> None:
    """Losses count once: what is lost stays lost, and is no reason to go on slowing down."""
    pace = Pace(100)
    rate_after([(0, 0)] * 50, pace)

    slower = rate_after([look], pace)

    assert 50 < slower < 100
    assert slower < rate_after([(0, look[1])], pace)
    assert 0 < rate_after([(10_000, look[1])] * 50, pace) < 50


def test_an_outcome_bears_the_id_that_was_scored() -> None:
    events = timeline().events
    fraud = int(np.flatnonzero(events.label == wire.LABEL_FRAUD)[0])
    honest = int(np.flatnonzero(events.label == wire.LABEL_LEGITIMATE)[0])

    assert demo_traffic.outcome(events, fraud) is not None
    assert [(o.event_id, o.fraud) for row in (fraud, honest) if (o := demo_traffic.outcome(events, row))] == [
        (f"e{fraud}", True),
        (f"e{honest}", False),
    ]


def test_what_nobody_will_know_has_no_outcome() -> None:
    events = timeline().events
    unknown = np.flatnonzero(events.label == wire.LABEL_UNKNOWN)

    assert len(unknown)
    assert [demo_traffic.outcome(events, int(row)) for row in unknown] == [None] * len(unknown)
