"""A load generator that does not give up: an open loop whose payments are asked again until they have an answer.

    python benchmarks/persistent.py --address HOST:PORT --questions FILE.npz --rate 800 --seconds 30

As `open_loop.py`, but for one thing: an attempt that ends in UNAVAILABLE, or with its connection, is made again after
a growing moment, on another connection where that one is leaving or lost. Prints one JSON object: what became of
payments and of attempts, and both by the second in which the payment was meant to arrive.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import random
import select
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import arrivals
import http2
import numpy as np
import serialised
from open_loop import CONNECTIONS, METHOD, START_IN_S, STRIDE
from outcomes import OK, UNAVAILABLE
from serialised import Questions

from headrace.rpc.frames import GOAWAY

DEADLINE_S: Final = 3.0
"""Of an attempt: more than the 2 s after which the gateway gives up a replica that hangs."""
PATIENCE_S: Final = 20.0
"""A payment that has no answer by then is given up: lost business."""
UNSAID_S: Final = 1.0
"""An attempt of which nothing is heard for so long past its deadline is lost; it is made again all the same."""
UNHEARD: Final = "nothing"
BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
CONNECT_AGAIN_S: Final = 0.05
REFUSED_STREAM: Final = b"reset 7"
MAX_WAIT_S: Final = 0.05


class Leaving(http2.Connection):
    """A connection whose server may say that it goes: calls that it has are answered, new ones belong elsewhere."""

    leaving = False

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == GOAWAY:
            self.leaving = True
        else:
            super()._take(kind, flags, stream, payload)

    @property
    def takes_calls(self) -> bool:
        return not self.lost and not self.leaving

    @property
    def idle(self) -> bool:
        return not self._calls


@dataclass(slots=True)
class Payment:
    """One that was meant to arrive, and what it took."""

    place: int
    intended_s: float
    attempts: int = 0
    current: int = -1
    """The attempt under way; -1 = none."""
    ended_s: float = 0.0
    """0 = it has no answer yet; negative = it was given up."""
    body: bytes = b""
    said: list[str] = field(default_factory=list)
    """How attempts ended that were no answers."""


class Pool:
    """Connections to one address, as many as asked for; one that is lost is made anew, in a thread."""

    def __init__(self, address: str, on_end: http2.OnEnd) -> None:
        self._make: Callable[[], Leaving] = lambda: Leaving(address, METHOD, on_end)
        self._connecting = ThreadPoolExecutor(CONNECTIONS)
        self._coming: list[Future[Leaving]] = []
        self._not_before = 0.0
        self._turn = 0
        self.connections = [self._make() for _ in range(CONNECTIONS)]

    def next(self) -> Leaving | None:
        """One that takes calls, in turns."""
        for _ in self.connections:
            self._turn = (self._turn + 1) % len(self.connections)
            if (found := self.connections[self._turn]).takes_calls:
                return found
        return None

    def mend(self, now: float) -> None:
        """Drop those that are over, and have others made in their place."""
        for connection in [one for one in self.connections if one.lost or (one.leaving and one.idle)]:
            connection.close()
            self.connections.remove(connection)
        for future in [one for one in self._coming if one.done()]:
            self._coming.remove(future)
            if future.exception() is None:
                self.connections.append(future.result())
            else:
                self._not_before = now + CONNECT_AGAIN_S
        missing = CONNECTIONS - len(self._coming) - sum(one.takes_calls for one in self.connections)
        if missing > 0 and now >= self._not_before:
            self._coming += [self._connecting.submit(self._make) for _ in range(missing)]

    def close(self) -> None:
        self._connecting.shutdown()
        for connection in self.connections:
            connection.close()


class Generator:
    """Payments at their intended times, each until it is answered or given up."""

    def __init__(self, address: str, requests: Sequence[bytes], seed: int) -> None:
        self._requests = requests
        self._random = random.Random(seed)
        self._pool = Pool(address, self._ended)
        self._due: list[tuple[float, int]] = []
        """When a payment is to be asked again, and which."""
        self._overdue: deque[tuple[float, int, int]] = deque()
        """When nothing more is expected of an attempt: the time, the attempt, its payment. In order."""
        self._of: dict[int, int] = {}
        """Attempt → payment."""
        self._attempts = 0
        self._open = 0
        self.payments: list[Payment] = []
        self.lost_attempts = 0
        self.late_s = 0.0
        """By how much the latest payment was asked about too late, for the first time: this process's own doing."""

    def run(self, times_s: Sequence[float]) -> float:
        """Returns: the start, on `perf_counter`."""
        start = time.perf_counter() + START_IN_S
        coming = deque(start + at for at in times_s)
        try:
            while coming or self._open:
                now = time.perf_counter()
                self._pool.mend(now)
                while coming and coming[0] <= now:
                    self._arrive(coming.popleft(), now)
                while self._due and self._due[0][0] <= now:
                    self._attempt(heapq.heappop(self._due)[1], now)
                if not self._wait(coming[0] if coming else now + MAX_WAIT_S):  # what lies there unread is not lost
                    self._give_up_what_is_overdue(now)
        finally:
            self._pool.close()
        return start

    def _arrive(self, intended_s: float, now: float) -> None:
        number = len(self.payments)
        self.payments.append(Payment(number * STRIDE % len(self._requests), intended_s))
        self.late_s = max(self.late_s, now - intended_s)
        self._open += 1
        self._attempt(number, now)

    def _attempt(self, number: int, now: float) -> None:
        payment = self.payments[number]
        if now - payment.intended_s > PATIENCE_S:
            payment.ended_s, self._open = -now, self._open - 1
            return
        connection = self._pool.next()
        if connection is None:  # no gateway takes calls: none was asked
            heapq.heappush(self._due, (now + CONNECT_AGAIN_S, number))
            return
        attempt, self._attempts = self._attempts, self._attempts + 1
        self._of[attempt] = number
        payment.attempts, payment.current = payment.attempts + 1, attempt
        self._overdue.append((now + DEADLINE_S + UNSAID_S, attempt, number))
        connection.call(attempt, self._requests[payment.place], DEADLINE_S)

    def _ended(self, attempt: int, body: bytes, how: bytes) -> None:
        number = self._of.pop(attempt, -1)
        payment = self.payments[number] if number >= 0 else None
        if payment is None or payment.current != attempt:
            return
        payment.current = -1
        code, words = http2.status(how)
        if code == OK:
            payment.ended_s, payment.body, self._open = time.perf_counter(), body, self._open - 1
            return
        payment.said.append(f"status {code}: {words}")
        if code == UNAVAILABLE or how in (http2.CONNECTION_LOST, REFUSED_STREAM):
            self._ask_again(number)
        else:
            payment.ended_s, self._open = -time.perf_counter(), self._open - 1

    def _ask_again(self, number: int) -> None:
        pause_s = BACKOFF_S[min(self.payments[number].attempts, len(BACKOFF_S)) - 1]
        heapq.heappush(self._due, (time.perf_counter() + pause_s * self._random.uniform(0.5, 1.5), number))

    def _give_up_what_is_overdue(self, now: float) -> None:
        while self._overdue and self._overdue[0][0] <= now:
            _, attempt, number = self._overdue.popleft()
            if self._of.pop(attempt, None) is not None:
                self.lost_attempts += 1
                self.payments[number].current = -1
                self.payments[number].said.append(UNHEARD)
                self._ask_again(number)

    def _wait(self, until_s: float) -> bool:
        """Write and read until something is due. Whether anything was there to be read."""
        living = [one for one in self._pool.connections if not one.lost]
        for one in living:
            if one.wants_to_write:
                one.flush()
        writers = [one for one in living if one.wants_to_write]
        due_s = min(until_s, self._due[0][0] if self._due else until_s) - time.perf_counter()
        readable, _, _ = select.select(living, writers, [], max(0.0, min(due_s, MAX_WAIT_S)))
        for one in readable:
            one.read()
        return bool(readable)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    questions = serialised.load(options.questions)
    generator = Generator(options.address, questions.requests, options.seed)
    times = arrivals.poisson(options.rate, options.seconds, options.seed)
    gc.collect()
    gc.disable()  # a collection over all that is kept would make later requests late
    start = generator.run(times.tolist())
    found = summary(generator.payments, generator.lost_attempts, questions, start, options.seconds)
    return {**found, "late_ms": round(generator.late_s * 1e3, 3)}


def summary(
    payments: Sequence[Payment], lost_attempts: int, questions: Questions, start_s: float, seconds: float
) -> dict[str, Any]:
    """Counts, and by the second: latencies from the intended arrival to the answer (ms), attempts that were refused."""
    right = np.array([p.ended_s > 0 and questions.is_right(p.place, p.body) for p in payments], bool)
    wrong = sum(p.ended_s > 0 for p in payments) - int(right.sum())
    intended = np.array([p.intended_s for p in payments]) - start_s
    took_ms = (np.array([p.ended_s for p in payments]) - start_s - intended) * 1e3
    refused = np.array([len(p.said) for p in payments])
    unheard = np.array([p.said.count(UNHEARD) for p in payments])
    second = np.minimum(intended.astype(int), int(np.ceil(seconds)) - 1)
    told = Counter(words for p in payments for words in p.said)
    return {
        "payments": len(payments),
        "right": int(right.sum()),
        "wrong": wrong,
        "given_up": len(payments) - int(right.sum()) - wrong,
        "asked_again": int((refused > 0).sum()),
        "lost_attempts": lost_attempts,
        "told": dict(told.most_common(8)),
        "p50_ms": _rank(took_ms[right], 50),
        "p99_ms": _rank(took_ms[right], 99),
        "slowest_ms": _rank(took_ms[right], 100),
        "by_second": [
            {
                "answered": int((mine := right & (second == each)).sum()),
                "refused": int(refused[second == each].sum()),
                "unheard": int(unheard[second == each].sum()),
                "p50_ms": _rank(took_ms[mine], 50),
                "p99_ms": _rank(took_ms[mine], 99),
            }
            for each in range(int(np.ceil(seconds)))
        ],
    }


def _rank(values: np.ndarray, percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 3) if len(values) else None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True)
    parser.add_argument("--questions", type=Path, required=True, help="as `serialised.py` writes them")
    parser.add_argument("--rate", type=float, required=True, help="Poisson arrivals a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(json.dumps(measure(parse())))
