"""A load generator in a process of its own: open loop (or closed), every answer checked once the load is over.

    python benchmarks/open_loop.py --address HOST:PORT --questions FILE.npz --rate 800 --seconds 8 [--burst 10]
    python benchmarks/open_loop.py --address HOST:PORT --questions FILE.npz --concurrency 64 --seconds 5

Prints one JSON object (`outcomes.summary`, and what this process cost: `cpu_s`, `cpu_us_per_request`). --table FILE.npz
gets every request: `intended_s`, `sent_s`, `ended_s`, `outcome` (place in `outcomes.CLASSES`), and `start_s`, what
`perf_counter` (one clock for all processes of a Linux machine) said at their zero. A run whose `generator_late_p99_ms`
is not small beside the latencies has measured the generator.

It shares its cores with the server. So it is one thread in `select` over a few connections, and does nothing with
an answer while the load lasts but note the time: a few 100,000 answers, about a kilobyte each, are kept.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import arrivals
import http2
import outcomes
import serialised
from http2 import Connection
from outcomes import Sent
from trail import Trail

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CONNECTIONS = 4
START_IN_S = 0.05
LOST_AFTER_S = 2.0
"""Past its deadline a request is listened for so long: the server may still end it, and then it is not lost."""
STRIDE = 31
"""From a question to the next: neighbours are alike, and two callers should not ask the same thing at once."""


class Generator:
    """Sends requests at their intended times; in a closed loop each ending intends another, at once."""

    def __init__(self, address: str, requests: Sequence[bytes], deadline_s: float) -> None:
        self._requests, self._deadline_s = requests, deadline_s
        self._connections = [Connection(address, METHOD, self._ended) for _ in range(CONNECTIONS)]
        self._intended: deque[float] = deque()
        self._under_way = 0
        self._oldest = 0
        self._again_until = 0.0
        self.sent: list[Sent] = []

    def open_loop(self, times_s: Sequence[float]) -> float:
        """Send at these seconds from the start, whatever comes back. Returns: the start, on `perf_counter`."""
        start = time.perf_counter() + START_IN_S
        self._intended.extend(start + at for at in times_s)
        self._run()
        return start

    def closed_loop(self, concurrency: int, seconds: float) -> float:
        """Keep so many under way for so long. Returns: the start, on `perf_counter`."""
        start = time.perf_counter() + START_IN_S
        self._again_until = start + seconds
        self._intended.extend([start] * concurrency)
        self._run()
        return start

    def _run(self) -> None:
        try:
            while self._intended or self._under_way:
                now = time.perf_counter()
                while self._intended and self._intended[0] <= now:
                    self._send(self._intended.popleft())
                self._flush()
                if not self._intended and self._all_given_up(now):
                    return
                self._wait()
        finally:
            for connection in self._connections:
                connection.close()

    def _send(self, intended_s: float) -> None:
        number = len(self.sent)
        place = number * STRIDE % len(self._requests)
        now = time.perf_counter()
        self.sent.append(Sent(place, intended_s, now))
        self._under_way += 1
        connection = self._connections[number % CONNECTIONS]
        connection.call(number, self._requests[place], intended_s + self._deadline_s - now)

    def _ended(self, number: int, body: bytes, how: bytes) -> None:
        request, now = self.sent[number], time.perf_counter()
        request.ended_s, request.body, request.how = now, body, how
        self._under_way -= 1
        if now < self._again_until and how != http2.CONNECTION_LOST:
            self._intended.append(now)

    def _all_given_up(self, now: float) -> bool:
        """Whether nothing under way is worth waiting for any more."""
        while self._oldest < len(self.sent) and self.sent[self._oldest].ended_s:
            self._oldest += 1
        if self._oldest == len(self.sent):
            return True
        # Intended times ascend: the last sent is the last to be given up.
        return now > self.sent[-1].intended_s + self._deadline_s + LOST_AFTER_S

    def _wait(self) -> None:
        """Until something comes, or the next is due. `select` keeps microseconds; epoll and uvloop round to ms."""
        until = self._intended[0] - time.perf_counter() if self._intended else LOST_AFTER_S / 10
        living = [connection for connection in self._connections if not connection.lost]
        writers = [connection for connection in living if connection.wants_to_write]
        readable, _, _ = select.select(living, writers, [], max(0.0, until))
        for connection in readable:
            connection.read()

    def _flush(self) -> None:
        """What is due at one time goes out in one write a connection: writing is most of what a request costs here."""
        for connection in self._connections:
            if connection.wants_to_write:
                connection.flush()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One run, judged. Its figures are of what was meant to arrive after the warm-up."""
    questions = serialised.load(options.questions)
    deadline_s, seconds = options.deadline_ms / 1e3, options.warm_up + options.seconds
    generator = Generator(options.address, questions.requests, deadline_s)
    gc.collect()
    gc.disable()  # a collection over all that is kept would make later requests late
    cpu_s = time.process_time()
    if options.concurrency:
        start = generator.closed_loop(options.concurrency, seconds)
    else:
        start = generator.open_loop(schedule(options, seconds).tolist())
    cpu_s = time.process_time() - cpu_s
    judged = [outcomes.judge(request, questions, deadline_s) for request in generator.sent]
    first = sum(request.intended_s < start + options.warm_up for request in generator.sent)
    if options.table:
        Trail.of(generator.sent[first:], judged[first:], start + options.warm_up).write(options.table)
    return {
        "generator": "headrace",
        **outcomes.summary(generator.sent[first:], judged[first:], options.seconds),
        "warm_up_failed": sum(kind in (outcomes.WRONG, outcomes.ERROR, outcomes.LOST) for kind, _ in judged[:first]),
        "cpu_s": round(cpu_s, 3),
        "cpu_us_per_request": round(cpu_s / max(1, len(judged)) * 1e6, 1),
    }


def schedule(options: argparse.Namespace, seconds: float) -> arrivals.Times:
    if options.burst:
        bursts = arrivals.Bursts(options.burst, options.burst_ms / 1e3, options.burst_every)
        return arrivals.bursty(options.rate, seconds, options.seed, bursts)
    return arrivals.poisson(options.rate, seconds, options.seed)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True)
    parser.add_argument("--questions", type=Path, required=True, help="as `serialised.py` writes them")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before those, under the same load")
    parser.add_argument("--deadline-ms", type=float, default=50.0, help="from the intended arrival")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rate", type=float, help="open loop: Poisson arrivals a second")
    how.add_argument("--concurrency", type=int, default=0, help="closed loop: so many callers")
    parser.add_argument("--burst", type=float, default=0.0, help="so many times the rate in bursts (0 = none)")
    parser.add_argument("--burst-ms", type=float, default=200.0)
    parser.add_argument("--burst-every", type=float, default=2.0, help="seconds from burst to burst")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", type=Path, help="where every request goes")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(json.dumps(measure(parse(sys.argv[1:]))))
