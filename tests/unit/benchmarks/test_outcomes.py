"""Each request ends in one class; latency counts from when it should have been sent."""

from __future__ import annotations

import http2
import numpy as np
import outcomes
import pytest
from outcomes import Sent
from serialised import Questions
from tritonclient.grpc import service_pb2

QUESTIONS = Questions([b""] * 2, {"p": np.array([[0.25], [0.5]], np.float32)}, {"p": 1e-4})
REFUSED_BY_QUEUE = "[request id: <id_unknown>] Exceeds maximum queue size"
EXPIRED = "[request id: 7] Request timeout expired"


def answer(p: float, name: str = "p") -> bytes:
    message = service_pb2.ModelInferResponse(model_name="m")
    message.outputs.add(name=name, datatype="FP32", shape=[1, 1])
    message.raw_output_contents.append(np.float32(p).tobytes())
    return message.SerializeToString()


def trailers(code: int, words: str = "") -> bytes:
    told = http2.literal(b"grpc-status", str(code).encode())
    return told + http2.literal(b"grpc-message", words.encode()) if words else told


def ended(after_s: float, how: bytes, body: bytes = b"") -> Sent:
    return Sent(place=0, intended_s=10.0, sent_s=10.001, ended_s=10.0 + after_s, body=body, how=how)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (ended(0.01, trailers(0), answer(0.25)), "right"),
        (ended(0.01, trailers(0), answer(0.25005)), "right"),
        (ended(0.06, trailers(0), answer(0.25)), "late"),
        (ended(0.01, trailers(0), answer(0.5)), "wrong"),
        (ended(0.06, trailers(0), answer(0.5)), "wrong"),
        (ended(0.01, trailers(0), answer(float("nan"))), "wrong"),
        (ended(0.01, trailers(0), answer(0.25, "q")), "wrong"),
        (ended(0.01, trailers(0)), "wrong"),
        (ended(0.01, trailers(14, REFUSED_BY_QUEUE)), "refused"),
        (ended(0.01, trailers(8, REFUSED_BY_QUEUE)), "refused"),
        (ended(0.049, trailers(14, EXPIRED)), "refused"),
        (ended(0.051, trailers(14, EXPIRED)), "deadline"),
        (ended(0.051, trailers(4, "Deadline Exceeded")), "deadline"),
        (ended(0.051, b"reset 8"), "deadline"),
        (ended(0.01, b"reset 8"), "error"),
        (ended(0.01, trailers(14, "no replica of 'm' is ready")), "error"),
        (ended(0.01, trailers(13, "internal error")), "error"),
        (ended(0.06, b"connection lost"), "error"),
        (Sent(place=0, intended_s=10.0, sent_s=10.0), "lost"),
    ],
)
def test_a_request_is_judged(request_: Sent, expected: str) -> None:
    assert outcomes.judge(request_, QUESTIONS, 0.05)[0] == expected


def test_latency_counts_from_the_intended_arrival_also_where_the_generator_was_late() -> None:
    requests = [Sent(0, intended_s=1.0, sent_s=1.030, ended_s=1.040) for _ in range(100)]
    found = outcomes.summary(requests, [("right", "")] * 100, seconds=2.0)
    assert found["p99_ms"] == pytest.approx(40)
    assert found["generator_late_p99_ms"] == pytest.approx(30)
    assert found["goodput_rps"] == found["rps"] == found["offered_rps"] == 50


def test_a_refusal_is_timed_from_the_intended_arrival_and_from_its_sending() -> None:
    requests = [Sent(0, intended_s=1.0, sent_s=1.030, ended_s=1.040)]
    found = outcomes.summary(requests, [("refused", EXPIRED)], seconds=1.0)
    assert (found["refused_p99_ms"], found["refused_sent_p99_ms"]) == (pytest.approx(40), pytest.approx(10))
    assert found["p50_ms"] is None
    assert found["told"] == {EXPIRED: 1}


def test_the_classes_add_up_to_what_was_sent() -> None:
    judged = [(kind, "") for kind in outcomes.CLASSES for _ in range(3)]
    found = outcomes.summary([Sent(0, 1.0, 1.0, 1.1)] * len(judged), judged, seconds=1.0)
    names = ("right", "late", "wrong", "refused", "deadline", "errors", "lost")
    assert [found[name] for name in names] == [3] * 7
    assert found["sent"] == 21


def test_a_run_in_which_nothing_came_has_no_percentiles() -> None:
    found = outcomes.summary([], [], seconds=1.0)
    assert (found["sent"], found["p99_ms"], found["generator_late_p99_ms"]) == (0, None, None)


def test_what_was_right_is_told_half_second_by_half_second() -> None:
    requests = [Sent(0, at_s, at_s, at_s + 0.01) for at_s in (7.0, 7.2, 7.4, 8.6, 8.7)]
    judged = [("right", ""), ("right", ""), ("late", ""), ("right", ""), ("right", "")]

    assert outcomes.summary(requests, judged, seconds=2.0)["right_shares"] == [0.6667, 1.0]
    assert outcomes.summary([], [], seconds=2.0)["right_shares"] == []
