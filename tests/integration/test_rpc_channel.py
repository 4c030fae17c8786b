"""The rpc room's client, against its own server and grpc.aio's: calls, lost peers, stopped peers, reconnecting."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import Any, Final

import grpc
import pytest
from tests.rpc import LARGE, Heard, Make, Run, calling, serving, until

from headrace.rpc.channel import Channel
from headrace.rpc.messages import Failure


async def code_of(asking: Any) -> grpc.StatusCode:
    try:
        await asking
    except Failure as failure:
        return failure.code
    return grpc.StatusCode.OK


def test_our_channel_asks_and_is_told(run: Run, make_server: Make) -> None:
    async def main() -> tuple[Any, ...]:
        async with serving(make_server) as served, calling(served.address) as channel:
            answers = await asyncio.gather(*[channel.unary("/t.T/unary", b"%d" % i, 20.0) for i in range(200)])
            large = await channel.unary("/t.T/sized", b"%d" % LARGE, 30.0)
            codes = [
                await code_of(channel.unary("/t.T/refuse", b"", 5.0)),
                await code_of(channel.unary("/t.T/none", b"", 5.0)),
                await code_of(channel.unary("/t.T/sleep", b"", 0.2)),
            ]
            await asyncio.wait_for(served.handlers.cancelled.wait(), 5)
            assert channel._connection is not None
            return answers == [b"%d" % i for i in range(200)], len(large), codes, dict(channel._connection.streams)

    right, size, codes, left = run(main())

    assert (right, size, left) == (True, LARGE, {})
    assert [code.name for code in codes] == ["FAILED_PRECONDITION", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"]


def test_our_stream_goes_both_ways_until_we_end_it(run: Run, make_server: Make) -> None:
    sent = [bytes([i % 256]) * (i * 997 % 300_000) for i in range(100)]

    async def main() -> Heard:
        heard = Heard()
        async with serving(make_server) as served, calling(served.address) as channel:
            stream = await channel.stream("/t.T/both", heard.messages.append, heard.on_end)
            for i, message in enumerate(sent, 1):
                stream.send(message, ends=i == len(sent))
            await until(lambda: heard.ends, 20)
        return heard

    heard = run(main())

    assert heard.messages == sent
    assert heard.ends == [grpc.StatusCode.OK]


def test_a_stream_that_the_peer_ends_early_is_over_on_both_sides(run: Run) -> None:
    async def main() -> tuple[list[grpc.StatusCode], int]:
        heard = Heard()
        async with serving() as served, calling(served.address) as channel:
            await channel.stream("/t.T/none", heard.messages.append, heard.on_end)
            await until(lambda: heard.ends)
            await channel.unary("/t.T/unary", b"", 5.0)
            (ours,) = served.server.connections
            return heard.ends, len(ours.streams)

    assert run(main()) == ([grpc.StatusCode.UNIMPLEMENTED], 0)


def test_a_leaving_peer_ends_our_stream_in_its_own_time_and_gets_no_new_call(run: Run, make_server: Make) -> None:
    async def main() -> tuple[Any, ...]:
        heard = Heard()
        async with serving(make_server) as served, calling(served.address) as channel:
            stream = await channel.stream("/t.T/both", heard.messages.append, heard.on_end)
            stream.send(b"before")
            await until(lambda: heard.messages)
            old = channel._connection
            assert old is not None
            stopping = asyncio.create_task(served.server.stop(10.0))
            await until(lambda: old.leaving)
            code = await code_of(channel.unary("/t.T/unary", b"", 2.0))
            stream.send(b"after", ends=True)
            await until(lambda: heard.ends)
            await asyncio.wait_for(stopping, 3)
            return heard, code, old.closed

    heard, code, closed = run(main())

    assert (heard.messages, heard.ends) == ([b"before", b"after"], [grpc.StatusCode.OK])
    assert code is grpc.StatusCode.UNAVAILABLE
    assert closed


def test_our_channel_comes_back_to_a_peer_that_does(run: Run, make_server: Make, free_port: int) -> None:
    async def main() -> list[grpc.StatusCode]:
        codes = []
        async with calling(f"127.0.0.1:{free_port}") as channel:
            codes.append(await code_of(channel.unary("/t.T/unary", b"", 5.0)))
            for _ in range(2):
                async with serving(make_server, free_port):
                    codes.append(await code_of(channel.unary("/t.T/unary", b"", 5.0)))
                await until(lambda: channel._connection is None or channel._connection.closed)
            codes.append(await code_of(channel.unary("/t.T/unary", b"", 5.0)))
        codes.append(await code_of(channel.unary("/t.T/unary", b"", 5.0)))
        return codes

    assert [code.name for code in run(main())] == ["UNAVAILABLE", "OK", "OK", "UNAVAILABLE", "UNAVAILABLE"]


def test_a_closed_channel_has_ended_its_calls_and_left_nothing(run: Run, make_server: Make) -> None:
    async def main() -> tuple[list[grpc.StatusCode], set[str]]:
        heard = Heard()
        async with serving(make_server) as served:
            channel = Channel(served.address)
            stream = await channel.stream("/t.T/both", heard.messages.append, heard.on_end)
            stream.send(b"a")
            await until(lambda: heard.messages)
            await channel.close()
            ended = list(heard.ends)
            await channel.close()
        return ended, {task.get_name() for task in asyncio.all_tasks() if task.get_name() == "keep-alive"}

    assert run(main()) == ([grpc.StatusCode.UNAVAILABLE], set())


PEER: Final = """
import asyncio, sys, grpc
from headrace.rpc.server import Server
async def both(requests, rpc):
    async for request in requests:
        yield request
async def main():
    server = Server()
    handler = grpc.stream_stream_rpc_method_handler(both)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"both": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.parametrize(("how", "within_s"), [(signal.SIGKILL, 0.5), (signal.SIGSTOP, 2.5)], ids=["killed", "stopped"])
def test_a_peer_that_is_gone_is_noticed(run: Run, how: signal.Signals, within_s: float) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    peer = subprocess.Popen([sys.executable, "-c", PEER], stdout=subprocess.PIPE, env=environment)
    assert peer.stdout is not None
    port = int(peer.stdout.readline())

    async def main() -> tuple[float, list[grpc.StatusCode]]:
        heard = Heard()
        async with calling(f"127.0.0.1:{port}") as channel:
            stream = await channel.stream("/t.T/both", heard.messages.append, heard.on_end)
            stream.send(b"a")
            await until(lambda: heard.messages)
            begun = time.monotonic()
            peer.send_signal(how)
            await until(lambda: heard.ends, 10)
            return time.monotonic() - begun, heard.ends

    try:
        seconds, ends = run(main())
    finally:
        peer.kill()
        peer.wait()
        peer.stdout.close()

    assert ends == [grpc.StatusCode.UNAVAILABLE]
    assert seconds < within_s + 0.2  # a busy machine's
