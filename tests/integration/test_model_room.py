"""The shipped models together behind one gateway: states carried, retries chosen, scores explained, by tritonclient."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import zip_longest
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc.aio as triton
from grpc import aio
from tests.payments import mapping, payment
from tritonclient.utils import np_to_triton_dtype

from headrace import config
from headrace.cluster import Cluster
from headrace.serving import weights
from headrace.v1 import risk_pb2, risk_pb2_grpc
from headrace_models import attempts, explain, retries, simulator, wire
from headrace_models.history import Timeline

pytestmark = pytest.mark.slow

Run = Callable[..., Any]
Arrays = Mapping[str, np.ndarray]
MODELS = ["acceptance", "fraud-gru", "fraud-tx"]
OF_THE_CARD = ("card_ts", "card_amount", "card_codes", "card_ids")
OUTCOME = wire.CARD_CODES.index("outcome")
CONCURRENCY, STEPPING = 16, 4
PAYMENTS = [payment(cards, merchants) for cards, merchants in ((0, 0), (3, 9), (12, 0), (1, 30), (40, 5), (127, 64))]


async def _serve(trace_dir: Path, started: Queue[Any]) -> None:
    free = {
        "gateway__port": 0,
        "gateway__metrics_port": 0,
        "control__port": 0,
        "control__ledger": ":memory:",
        "telemetry__log_level": "ERROR",
    }
    chosen = config.load(None, {}, engine="local", only=MODELS, telemetry__trace_dir=trace_dir, **free)
    stop = asyncio.Event()
    async with Cluster(chosen) as cluster:
        started.put((cluster.address, asyncio.get_running_loop(), stop))
        await stop.wait()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway with a replica of each."""
    started: Queue[Any] = Queue()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(tmp_path_factory.mktemp("traces"), started)))
    thread.start()
    found, loop, stop = started.get(timeout=120)
    yield found
    loop.call_soon_threadsafe(stop.set)
    thread.join(timeout=60)


class Answer(dict[str, np.ndarray]):
    """The outputs of a response."""

    def __init__(self, result: triton.InferResult) -> None:
        response = result.get_response()
        super().__init__({output.name: result.as_numpy(output.name) for output in response.outputs})
        self.batch_rows: int = response.parameters["headrace_batch_rows"].int64_param


class Callers:
    """Both of the gateway's services, at most `CONCURRENCY` calls at a time."""

    def __init__(self, client: triton.InferenceServerClient, risk: risk_pb2_grpc.RiskServiceStub) -> None:
        self.risk = risk
        self._client = client
        self._permits = asyncio.Semaphore(CONCURRENCY)

    async def infer(self, model: str, columns: Arrays, outputs: Sequence[str] = ()) -> Answer:
        inputs = []
        for name, values in columns.items():
            inputs.append(triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype)))
            inputs[-1].set_data_from_numpy(values)
        asked = [triton.InferRequestedOutput(name) for name in outputs]
        async with self._permits:
            return Answer(await self._client.infer(model, inputs, outputs=asked or None))

    async def score(self, asked: risk_pb2.Payment, **more: Any) -> risk_pb2.Signal:
        async with self._permits:
            return (await self.risk.Score(risk_pb2.ScoreRequest(payment=asked, **more), timeout=10)).signals[0]


@asynccontextmanager
async def calling(address: str) -> Any:
    async with triton.InferenceServerClient(address) as client, aio.insecure_channel(address) as channel:
        yield Callers(client, risk_pb2_grpc.RiskServiceStub(channel))


def with_callers(run: Run, address: str, body: Callable[[Callers], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with calling(address) as callers:
            return await body(callers)

    return run(main())


def columns_of(asked: risk_pb2.Payment) -> dict[str, np.ndarray]:
    histories = ([mapping(e) for e in history] for history in (asked.card_history, asked.merchant_history))
    return wire.payment_columns(mapping(asked.event), *histories)


def of_gru(columns: Arrays) -> dict[str, np.ndarray]:
    """What fraud-gru cannot do without."""
    return {name: columns[name] for name in (*OF_THE_CARD, "merchant_stats")}


def shipped(name: str) -> torch.nn.Module:
    torch.set_num_threads(1)
    return weights.load(weights.read(weights.shipped_models() / name / "1"), "cpu")


# A state that is carried ----------------------------------------------------------------------------------------------


def busy_cards() -> list[list[dict[str, np.ndarray]]]:
    """Of some simulated cards every payment, with its history as it was then."""
    timeline = Timeline(simulator.simulate(5, days=90, cards=300, merchants=60, fraud_share=0.01))
    events = timeline.events
    cards, counts = np.unique(events.card, return_counts=True)
    found = []
    for card in cards[np.argsort(-counts)]:
        rows = np.flatnonzero(events.card == card)
        # Two at one moment do not know of each other, so that neither's state is that of the history.
        if len(rows) <= wire.CARD_CAP and len(np.unique(events.ts[rows])) == len(rows):
            found.append([_alone(timeline, row) for row in rows])
        if len(found) == STEPPING:
            return found
    raise AssertionError("the world has too few cards")


def _alone(timeline: Timeline, row: int) -> dict[str, np.ndarray]:
    packed, _ = timeline.packed(np.array([row]))
    return {
        name: packed[name] if name == "merchant_stats" else packed[name][None]
        for name in (*OF_THE_CARD, "merchant_stats")
    }


async def step(callers: Callers, histories: list[dict[str, np.ndarray]]) -> list[Answer]:
    """One card's payments, one event at a time, what was answered carried to the next."""
    answers: list[Answer] = []
    state: dict[str, np.ndarray] = {}
    for history in histories:
        newest = {name: history[name][:, -1:] for name in OF_THE_CARD} | {"merchant_stats": history["merchant_stats"]}
        if answers:
            outcome = history["card_codes"][:, -2, OUTCOME : OUTCOME + 1]  # known by now, of the payment before
            state = {name: answers[-1][name] for name in ("state_h", "state_ids")} | {"previous_outcome": outcome}
        answers.append(await callers.infer("fraud-gru", newest | state))
    return answers


def test_a_state_carried_from_answer_to_request_gives_the_score_of_the_whole_history(run: Run, address: str) -> None:
    cards = busy_cards()

    async def body(callers: Callers) -> Any:
        stepping = [asyncio.ensure_future(step(callers, card)) for card in cards]
        whole = [[asyncio.ensure_future(callers.infer("fraud-gru", one)) for one in card] for card in cards]
        return await asyncio.gather(*stepping), [await asyncio.gather(*card) for card in whole]

    stepped, whole = with_callers(run, address, body)

    compared = [(a, b) for left, right in zip(stepped, whole, strict=True) for a, b in zip(left, right, strict=True)]
    assert len(compared) > 100
    assert max(abs(float(a["p"][0, 0] - b["p"][0, 0])) for a, b in compared) < 1e-5
    assert all(np.array_equal(a["state_ids"], b["state_ids"]) for a, b in compared)
    # More than the cards that step: some rode with whole histories.
    assert max(answer.batch_rows for card in stepped for answer in card) > STEPPING


def as_sequence(card: int, histories: list[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """One card's payments as the requests of a sequence: the gateway keeps what is carried."""
    asked = []
    for place, history in enumerate(histories):
        newest = {name: history[name][:, -1:] for name in OF_THE_CARD} | {"merchant_stats": history["merchant_stats"]}
        if place:
            newest["previous_outcome"] = history["card_codes"][:, -2, OUTCOME : OUTCOME + 1]
        inputs = []
        for name, values in newest.items():
            inputs.append(triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype)))
            inputs[-1].set_data_from_numpy(np.ascontiguousarray(values))
        flags = {"sequence_id": f"card-{card}", "sequence_start": not place, "sequence_end": history is histories[-1]}
        asked.append({"model_name": "fraud-gru", "inputs": inputs, "request_id": f"{card} {place}", **flags})
    return asked


def test_a_state_kept_by_the_gateway_for_a_sequence_gives_the_score_of_the_whole_history(
    run: Run, address: str
) -> None:
    """All cards at once on one stream, without waiting for any answer."""
    cards = busy_cards()
    sequences = [as_sequence(card, histories) for card, histories in enumerate(cards)]
    mixed = [one for place in zip_longest(*sequences) for one in place if one is not None]

    async def questions() -> AsyncIterator[dict[str, Any]]:
        for one in mixed:
            yield one

    async def main() -> Any:
        async with triton.InferenceServerClient(address) as client, calling(address) as callers:
            streamed = [(result, error) async for result, error in client.stream_infer(questions())]
            whole = [await asyncio.gather(*(callers.infer("fraud-gru", one) for one in card)) for card in cards]
            return streamed, whole

    streamed, whole = run(main())

    assert [error for _, error in streamed if error is not None] == []
    for result, asked in zip([result for result, _ in streamed], mixed, strict=True):
        card, place = map(int, asked["request_id"].split())
        expected = whole[card][place]
        assert result.get_response().id == asked["request_id"]
        assert result.as_numpy("p")[0, 0] == pytest.approx(expected["p"][0, 0], abs=1e-5)
        np.testing.assert_array_equal(result.as_numpy("state_ids"), expected["state_ids"])


def test_risk_service_asks_a_model_whose_states_may_be_left_out(run: Run, address: str) -> None:
    async def body(callers: Callers) -> Any:
        typed = [await callers.score(asked, model="fraud-gru") for asked in PAYMENTS]
        return typed, [await callers.infer("fraud-gru", of_gru(columns_of(asked))) for asked in PAYMENTS]

    typed, tensors = with_callers(run, address, body)

    for signal, answer in zip(typed, tensors, strict=True):
        assert (signal.name, signal.model) == ("fraud", "fraud-gru")
        assert signal.probability == pytest.approx(answer["p"][0, 0], abs=1e-6)
        assert signal.score == answer["score"][0, 0]
    assert len({signal.probability for signal in typed}) > 1


# A retry that is decided ----------------------------------------------------------------------------------------------


def test_a_retry_is_chosen_from_the_answer_under_the_networks_rules(run: Run, address: str) -> None:
    base = {"amount": 80.0, "currency": "EUR", "mcc": 5411, "country": "FR", "channel": "ecommerce", "issuer_bin": "4"}
    tries = [{"ts": f"2026-03-01T{hour:02}:00:00Z", "outcome": "insufficient_funds"} for hour in range(10)]
    columns = attempts.columns({**base, "ts": "2026-03-01T10:00:00Z"}, tries)

    answer = with_callers(run, address, lambda callers: callers.infer("acceptance", columns))
    approve = answer["approve"][0]
    # Ten re-attempts in the last hours: Mastercard wants a day to pass, Visa does not mind.
    tired = retries.allowed(retries.MASTERCARD, [], list(range(10)))
    never = retries.allowed(retries.VISA, ["visa_category_1"], [])
    draws = np.linspace(0, 1, 200, endpoint=False)
    chosen = [retries.choose(approve, tired, 80.0, 0.1, draw) for draw in draws]

    flat = {name: torch.from_numpy(values[0] if name.startswith("attempt_") and name != "attempt_no" else values)
            for name, values in columns.items()}  # fmt: skip
    with torch.inference_mode():
        local = shipped("acceptance")(flat, {"attempt": torch.tensor([10])})["approve"].numpy()
    assert np.abs(local - answer["approve"]).max() < 1e-5
    assert ((approve > 0) & (approve < 1)).all()
    assert tired.mask.any()
    assert not tired.mask.all()
    assert {choice.action for choice in chosen} - {retries.STOP} == set(np.flatnonzero(tired.mask))
    assert all(choice.propensity > 0 for choice in chosen)
    assert retries.choose(approve, never, 80.0, 0.1, 0.5) == retries.Choice(retries.STOP, 1.0, 0.0, "visa-category-1")


# A score that is explained --------------------------------------------------------------------------------------------


def told(signal: risk_pb2.Signal) -> dict[str, float]:
    return {factor.name: factor.log_odds for factor in signal.top_factors}


def most(factors: np.ndarray) -> dict[str, float]:
    """What RiskService should tell of them."""
    ranked = sorted(zip(explain.FACTORS, factors.tolist(), strict=True), key=lambda factor: -factor[1])[:5]
    return {name: by for name, by in ranked if by > 0}


def test_the_factors_are_the_modules_own_whoever_is_asked_for_them(run: Run, address: str) -> None:
    async def body(callers: Callers) -> Any:
        tensors = [await callers.infer("fraud-tx", columns_of(one), ["top_factors"]) for one in PAYMENTS]
        return tensors, [await callers.score(one, explain=True) for one in PAYMENTS]

    tensors, typed = with_callers(run, address, body)

    module: Any = shipped("fraud-tx")
    for asked, answer, signal in zip(PAYMENTS, tensors, typed, strict=True):
        columns = columns_of(asked)
        flat = {n: torch.from_numpy(v if n == "merchant_stats" else v[0]) for n, v in columns.items()}
        lengths = {axis: torch.tensor([columns[f"{axis}_ts"].shape[1]]) for axis in ("card", "merchant")}
        with torch.inference_mode():
            local = module.extras(flat, lengths)["top_factors"].numpy()
        assert list(answer) == ["top_factors"]
        assert answer["top_factors"] == pytest.approx(local, abs=1e-5)
        assert told(signal) == pytest.approx(most(answer["top_factors"][0]), abs=1e-5)
    assert any(told(signal) for signal in typed)


def test_explained_and_plain_requests_leave_each_others_scores_alone(run: Run, address: str) -> None:
    ways = {"plain": ["p"], "explained": ["p", "top_factors"]}

    async def body(callers: Callers) -> Any:
        alone = [await callers.infer("fraud-tx", columns_of(one), ways["explained"]) for one in PAYMENTS]
        calls = [
            (way, place, asyncio.ensure_future(callers.infer("fraud-tx", columns_of(PAYMENTS[place]), outputs)))
            for _ in range(8)
            for place in range(len(PAYMENTS))
            for way, outputs in ways.items()
        ]
        return alone, [(way, place, await call) for way, place, call in calls]

    alone, together = with_callers(run, address, body)

    for way, place, answer in together:
        assert list(answer) == ways[way]
        assert answer["p"] == pytest.approx(alone[place]["p"], abs=1e-6)
        if way == "explained":
            assert answer["top_factors"] == pytest.approx(alone[place]["top_factors"], abs=1e-5)
    # Neighbours in line are of the two kinds in turn.
    assert max(answer.batch_rows for way, _, answer in together if way == "explained") > 1
    assert max(answer.batch_rows for way, _, answer in together if way == "plain") > 1
