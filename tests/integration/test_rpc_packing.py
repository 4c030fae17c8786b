"""Answers compressed: for whom, how, and when it is not worth it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st
from tests.rpc import Raw, Run, Served, data, opening, serving
from tests.streaming import Opened, with_gateway

from headrace.rpc import frames
from headrace.rpc.fields import literal
from headrace.rpc.messages import ZLIB_BITS, Reader, framed
from headrace.rpc.packing import Compression, packed
from headrace.rpc.server import Server

TAKES_BOTH = literal(b"grpc-accept-encoding", b"identity, deflate, gzip")


@asynccontextmanager
async def packing(compression: Compression) -> AsyncIterator[Served]:
    def make() -> Server:
        server = Server()
        server.compression = compression
        return server

    async with serving(make) as served:
        yield served


async def answer_to(
    served: Served, message: bytes, more: bytes, method: str = "unary"
) -> tuple[dict[bytes, bytes], bytes]:
    """The fields that open an answer, and its messages as they came."""
    async with Raw.to(served) as raw:
        raw.send(opening(1, method, more=more) + data(1, message, ends=True))
        fields = dict(raw.fields.decode(await raw.until(frames.HEADERS, 1), raw=True))
        kept = b""
        while True:
            kind, flags, number, payload = await raw.frame()
            if (kind, number) == (frames.DATA, 1):
                kept += payload
            elif (kind, number) == (frames.HEADERS, 1) and flags & frames.END_STREAM:
                return fields, kept


GZIP, DEFLATE = literal(b"grpc-encoding", b"gzip"), literal(b"grpc-encoding", b"deflate")
CASES: list[tuple[Compression, bytes, bytes]] = [
    ("none", TAKES_BOTH + GZIP, b""),
    ("asked", TAKES_BOTH, b""),
    ("asked", TAKES_BOTH + GZIP, b"gzip"),
    ("asked", TAKES_BOTH + DEFLATE, b"deflate"),
    ("asked", GZIP, b""),
    ("gzip", TAKES_BOTH, b"gzip"),
    ("gzip", TAKES_BOTH + DEFLATE, b"gzip"),
    ("gzip", literal(b"grpc-accept-encoding", b"deflate"), b""),
    ("gzip", b"", b""),
]


@pytest.mark.parametrize(("compression", "more", "expected"), CASES)
@pytest.mark.parametrize("method", ["unary", "both"])
def test_answers_are_compressed_as_the_server_is_set_and_the_client_takes_them(
    run: Run, compression: Compression, more: bytes, expected: bytes, method: str
) -> None:
    async def main() -> Any:
        async with packing(compression) as served:
            return await answer_to(served, framed(b"abcd" * 1000), more, method)

    fields, answer = run(main())

    reader = Reader(1 << 20, expected or b"identity")
    reader.feed(answer)
    assert fields.get(b"grpc-encoding", b"") == expected
    assert (len(answer) < 200) == bool(expected)
    assert reader.next() == b"abcd" * 1000


@pytest.mark.parametrize("message", [b"", b"short", np.random.default_rng(0).bytes(4000)])
def test_what_would_not_become_shorter_leaves_as_it_is(run: Run, message: bytes) -> None:
    async def main() -> Any:
        async with packing("gzip") as served:
            return await answer_to(served, framed(message), TAKES_BOTH)

    fields, answer = run(main())

    assert fields[b"grpc-encoding"] == b"gzip"
    assert answer == framed(message)


@given(message=st.binary(max_size=2000), repeats=st.integers(1, 50), encoding=st.sampled_from(sorted(ZLIB_BITS)))
def test_a_packed_message_is_the_message(message: bytes, repeats: int, encoding: bytes) -> None:
    reader = Reader(1 << 20, encoding)
    reader.feed(packed(message * repeats, encoding))

    assert reader.next() == message * repeats
    assert len(reader) == 0


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("compression", ["none", "asked", "gzip"])
def test_tritonclient_gets_its_answers_whatever_it_asks_and_the_gateway_does(
    run: Run, tmp_path: Path, algorithm: str, compression: str
) -> None:
    def ask(port: int) -> list[float]:
        columns = {"events": np.ones((8, 3, 2), np.float32), "key": np.arange(8)[:, None]}
        tensors = []
        for name, values in columns.items():
            tensors.append(triton.InferInput(name, list(values.shape), "FP32" if name == "events" else "INT64"))
            tensors[-1].set_data_from_numpy(values)
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            result = client.infer("echo", tensors, compression_algorithm=algorithm)
            return [float(number) for number in result.as_numpy("sum")[:, 0]]

    async def body(it: Opened) -> Any:
        return await asyncio.to_thread(ask, it.gateway.port)

    answers = with_gateway(run, tmp_path, body, gateway__compression=compression)

    assert answers == [6.0 + key for key in range(8)]
