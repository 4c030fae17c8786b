"""A load generator in a process of its own: closed loop, every answer compared with the one it must be.

    python benchmarks/load.py --address HOST:PORT --model NAME --questions FILE.npz --concurrency N --seconds S

FILE.npz holds `input.<name>` arrays [count, …] and `expected.<name>` arrays [count, …]. One request carries one row.
Where there is a `lengths.<name>` [count], that input's rows differ in length and lie end to end: [sum of lengths, …].
Prints one JSON object: rps, p50_ms, p99_ms, right, wrong, errors, cpu_s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvloop
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.client import request

WARM_UP_S = 1.0
TOLERANCE = 1e-4


@dataclass
class Questions:
    """Requests, encoded once, and the answers they must get."""

    requests: list[service_pb2.ModelInferRequest]
    expected: list[dict[str, np.ndarray]]


@dataclass
class Tally:
    """What came back."""

    latencies_s: list[float] = field(default_factory=list)
    right: int = 0
    wrong: int = 0
    errors: int = 0


def load_questions(path: Path, model: str) -> Questions:
    with np.load(path) as arrays:
        held = dict(arrays)
    answers = {name.removeprefix("expected."): rows for name, rows in held.items() if name.startswith("expected.")}
    inputs = {
        name.removeprefix("input."): one_by_one(rows, held.get(f"lengths.{name.removeprefix('input.')}"))
        for name, rows in held.items()
        if name.startswith("input.")
    }
    count = len(next(iter(answers.values())))
    return Questions(
        [request(model, {name: rows[i] for name, rows in inputs.items()}) for i in range(count)],
        [{name: rows[i] for name, rows in answers.items()} for i in range(count)],
    )


def one_by_one(rows: np.ndarray, lengths: np.ndarray | None) -> list[np.ndarray]:
    """Each row with a batch dimension of 1 in front."""
    parts = rows if lengths is None else np.split(rows, np.cumsum(lengths)[:-1])
    return [part[None] for part in parts]


def is_right(response: service_pb2.ModelInferResponse, expected: dict[str, np.ndarray]) -> bool:
    if len(response.outputs) != len(expected):
        return False
    return all(
        np.allclose(np.frombuffer(raw, expected[output.name].dtype), expected[output.name].ravel(), atol=TOLERANCE)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    )


async def ask_for_ever(address: str, questions: Questions, first: int, counting_from: float, until: float) -> Tally:
    """One caller: asks, waits, checks, asks again."""
    tally = Tally()
    async with aio.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        turn = first
        while (begun := time.perf_counter()) < until:
            place = turn % len(questions.requests)
            turn += 1
            try:
                response = await stub.ModelInfer(questions.requests[place], timeout=10)
            except aio.AioRpcError:
                tally.errors += 1
                continue
            right = is_right(response, questions.expected[place])
            tally.wrong += not right
            if begun >= counting_from:
                tally.right += right
                tally.latencies_s.append(time.perf_counter() - begun)
    return tally


async def run(options: argparse.Namespace) -> dict[str, float]:
    questions = load_questions(options.questions, options.model)
    start = time.perf_counter() + WARM_UP_S
    async with asyncio.TaskGroup() as group:
        callers = [
            group.create_task(ask_for_ever(options.address, questions, 31 * i, start, start + options.seconds))
            for i in range(options.concurrency)
        ]
    tallies = [caller.result() for caller in callers]
    latencies_ms = np.concatenate([np.array(tally.latencies_s) for tally in tallies]) * 1e3
    return {
        "rps": round(sum(tally.right for tally in tallies) / options.seconds, 1),
        "p50_ms": round(float(np.percentile(latencies_ms, 50)), 3),
        "p99_ms": round(float(np.percentile(latencies_ms, 99)), 3),
        "right": sum(tally.right for tally in tallies),
        "wrong": sum(tally.wrong for tally in tallies),
        "errors": sum(tally.errors for tally in tallies),
        "cpu_s": round(time.process_time(), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    print(json.dumps(uvloop.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
