"""TLS in the rpc room: who is let in, what handlers are told of them, files that change, clients that mean no TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from grpc import aio
from tests.certificates import Authority, Issued
from tests.rpc import LARGE, OPTIONS, Handlers, Heard, Run, Served, ask, nothing_left, serving, until

from headrace.channel import connect, connect_blocking
from headrace.credentials import ClientCredentials
from headrace.rpc.channel import Channel
from headrace.rpc.messages import Failure
from headrace.rpc.server import Server
from headrace.rpc.tls import TlsFiles, Watched, server_context

URI = "spiffe://pay.example/checkout"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def on_each_loop(request: pytest.FixtureRequest) -> Run:
    def bounded(coroutine: Any, timeout_s: float = 60) -> Any:
        async def main() -> Any:
            async with asyncio.timeout(timeout_s):
                return await coroutine

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main())

    return bounded


def replace(path: Path, content: bytes) -> None:
    """As a rotation does it: another file takes the name."""
    other = path.with_suffix(".new")
    other.write_bytes(content)
    other.rename(path)


def watched(files: TlsFiles, *, require: bool = False) -> Watched[ssl.SSLContext]:
    return Watched(files.all(), lambda: server_context(files, require_client_certificate=require))


@contextlib.asynccontextmanager
async def secured(issued: Issued, clients: Path | None = None, *, require: bool = False) -> AsyncIterator[Served]:
    server, handlers = Server(), Handlers()
    handlers.join(server)
    files = TlsFiles(issued.certificate, issued.key, clients)
    port = server.add_secure_port("127.0.0.1:0", watched(files, require=require))
    await server.start()
    try:
        yield Served(server, port, handlers)
    finally:
        await server.stop(None)


def shown(authority: Authority, issued: Issued | None = None, name: str = "") -> ClientCredentials:
    own = (issued.certificate, issued.key) if issued else (None, None)
    return ClientCredentials(authority.path, *own, name=name)


async def code_of(served: Served, credentials: ClientCredentials) -> str:
    """What becomes of a call of grpcio's, and of the same call of ours: they must agree."""
    async with connect(served.address, credentials, OPTIONS) as channel:
        try:
            assert await ask(channel, "unary", b"a", timeout=5) == b"a"
            theirs = "OK"
        except aio.AioRpcError as error:
            theirs = error.code().name
    ours_channel = Channel(served.address, credentials)
    try:
        assert await ours_channel.unary("/t.T/unary", b"a", 5.0) == b"a"
        ours = "OK"
    except Failure as failure:
        ours = failure.code.name
    finally:
        await ours_channel.close()
    assert theirs == ours
    return ours


def test_calls_and_streams_go_over_tls_as_they_do_without(on_each_loop: Run, authority: Authority) -> None:
    async def main() -> tuple[Any, ...]:
        async with secured(authority.issue("server")) as served:
            heard = Heard()
            channel = Channel(served.address, shown(authority))
            answers = await asyncio.gather(*[channel.unary("/t.T/unary", b"%d" % i, 20.0) for i in range(200)])
            large = len(await channel.unary("/t.T/sized", b"%d" % LARGE, 30.0))
            stream = await channel.stream("/t.T/both", heard.messages.append, heard.on_end)
            for size in (1, 300_000, 5):
                stream.send(bytes(size), ends=size == 5)
            await until(lambda: heard.ends, 10)
            await channel.close()
            async with connect(served.address, shown(authority), OPTIONS) as theirs:
                same = [await ask(theirs, "unary", b"a"), len(await ask(theirs, "sized", b"%d" % LARGE))]
                many = [m async for m in theirs.unary_stream("/t.T/many")(b"3")]
            await nothing_left(served)
            return answers == [b"%d" % i for i in range(200)], large, [*map(len, heard.messages)], same, many

    assert on_each_loop(main()) == (True, LARGE, [1, 300_000, 5], [b"a", LARGE], [b"0", b"1", b"2"])


def test_clients_without_the_certificate_that_is_asked_for_are_not_let_in(run: Run, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server = ours.issue("server")
    clients = {
        "known": shown(ours, ours.issue("client", here=False)),
        "none": shown(ours),
        "expired": shown(ours, ours.issue("old", days=-1)),
        "of another authority": shown(ours, theirs.issue("foreign")),
        "believes another authority": shown(theirs, ours.issue("client2")),
        "expects another name": shown(ours, ours.issue("client3"), name="elsewhere.example"),
        "speaks no TLS": ClientCredentials(),
    }

    async def main(*, require: bool) -> dict[str, str]:
        async with secured(server, ours.path, require=require) as served:
            return {name: await code_of(served, credentials) for name, credentials in clients.items()}

    refused = dict.fromkeys(clients, "UNAVAILABLE") | {"known": "OK"}
    assert run(main(require=True)) == refused
    assert run(main(require=False)) == refused | {"none": "OK"}


def test_a_server_is_known_by_the_name_it_should_have_wherever_it_is(run: Run, authority: Authority) -> None:
    issued = authority.issue("server", dns=("replica.headrace",), here=False)

    async def main() -> list[str]:
        async with secured(issued) as served:
            return [await code_of(served, shown(authority, name=name)) for name in ("replica.headrace", "")]

    assert run(main()) == ["OK", "UNAVAILABLE"]


def test_a_common_name_is_no_host(run: Run, authority: Authority) -> None:
    issued = authority.issue("replica.headrace", here=False)

    async def main() -> str:
        async with secured(issued) as served:
            channel = Channel(served.address, shown(authority, name="replica.headrace"))
            with pytest.raises(Failure) as refused:
                await channel.unary("/t.T/unary", b"a", 5.0)
            await channel.close()
            return refused.value.code.name

    assert run(main()) == "UNAVAILABLE"


def test_an_expired_server_is_not_believed(run: Run, authority: Authority) -> None:
    async def main() -> str:
        async with secured(authority.issue("server", days=-1)) as served:
            return await code_of(served, shown(authority))

    assert run(main()) == "UNAVAILABLE"


@pytest.mark.parametrize("names", [(URI, "a.example"), (), None], ids=["alternative", "common", "none"])
def test_a_handler_is_told_who_calls_as_grpc_tells_it(
    run: Run, authority: Authority, names: tuple[str, ...] | None
) -> None:
    server = authority.issue("server")
    client = authority.issue("client", *names[:1], dns=names[1:], here=False) if names is not None else None
    told: list[dict[str, list[bytes]]] = []

    async def who(_: bytes, rpc: Any) -> bytes:
        told.append({key: sorted(values) for key, values in rpc.auth_context().items()})
        return b""

    def handlers() -> Any:
        return grpc.method_handlers_generic_handler("t.Who", {"who": grpc.unary_unary_rpc_method_handler(who)})

    async def main() -> None:
        async with secured(server, authority.path) as served:
            served.server.add_generic_rpc_handlers((handlers(),))
            async with connect(served.address, shown(authority, client)) as channel:
                await channel.unary_unary("/t.Who/who")(b"")
        reference = aio.server()
        reference.add_generic_rpc_handlers((handlers(),))
        pair = [(server.key.read_bytes(), server.certificate.read_bytes())]
        option = grpc.ssl_server_credentials(pair, authority.path.read_bytes(), client is not None)
        port = reference.add_secure_port("127.0.0.1:0", option)
        await reference.start()
        async with connect(f"127.0.0.1:{port}", shown(authority, client)) as channel:
            await channel.unary_unary("/t.Who/who")(b"")
        await reference.stop(None)

    run(main())
    ours, theirs = told

    assert ours == {key: theirs[key] for key in ours}
    assert ("peer_uri" in ours, "x509_common_name" in ours) == (bool(names), names is not None)


def test_certificates_and_authorities_change_under_load_without_a_failed_call(
    on_each_loop: Run, tmp_path: Path
) -> None:
    before, after = Authority(tmp_path, "before"), Authority(tmp_path, "after")
    server, newer = before.issue("server"), after.issue("newer")
    clients = tmp_path / "clients.pem"
    clients.write_bytes(before.path.read_bytes())
    old, new = shown(before, before.issue("old client")), shown(after, after.issue("new client"))

    async def main() -> tuple[Counter[str], Any]:
        results: Counter[str] = Counter()
        stopping = asyncio.Event()

        async def caller(channel: aio.Channel) -> None:
            while not stopping.is_set():
                results["right" if await ask(channel, "unary", b"a", timeout=5) == b"a" else "wrong"] += 1
                await asyncio.sleep(0.002)

        async def reconnecting() -> None:
            while not stopping.is_set():
                for credentials in (old, new):  # while the files change, one of the two is believed
                    channel = Channel(served.address, credentials)
                    with contextlib.suppress(Failure):
                        await channel.unary("/t.T/unary", b"a", 5.0)
                        results["connected, old" if credentials is old else "connected, new"] += 1
                    await channel.close()

        async with secured(server, clients, require=True) as served:
            async with connect(served.address, old, OPTIONS) as channel:
                calling = [asyncio.create_task(caller(channel)), asyncio.create_task(reconnecting())]
                await until(lambda: results["connected, old"] and results["right"])
                replace(clients, after.path.read_bytes())
                replace(server.certificate, newer.certificate.read_bytes())  # for a moment it is not its key's
                await asyncio.sleep(0.01)
                replace(server.key, newer.key.read_bytes())
                await until(lambda: results["connected, new"] or calling[0].done(), 10)
                refused, before_that = await code_of(served, old), results["right"]
                await until(lambda: results["right"] > before_that or calling[0].done())
                stopping.set()
                await asyncio.gather(*calling)
        return results, refused

    results, refused = on_each_loop(main())

    assert results["connected, new"]
    assert not results["wrong"]
    assert refused == "UNAVAILABLE"


def test_no_new_connection_is_lost_while_certificates_change(on_each_loop: Run, authority: Authority) -> None:
    server = authority.issue("server")
    others = [authority.issue(f"server-{number}") for number in range(2)]

    async def main() -> tuple[Counter[str], set[bytes]]:
        codes: Counter[str] = Counter()
        seen: set[bytes] = set()

        async def one() -> None:
            ours = Channel(served.address, shown(authority))
            try:
                await ours.unary("/t.T/unary", b"a", 5.0)
            except Failure as failure:
                codes[str(failure)] += 1
            else:
                codes["OK"] += 1
            await ours.close()

        async def connecting() -> None:
            context = ssl.create_default_context(cafile=authority.path)
            context.set_alpn_protocols(["h2"])
            while len(seen) < 1 + len(others):
                await asyncio.gather(*[one() for _ in range(8)])
                _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
                seen.add(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
                writer.close()

        async with secured(server) as served, asyncio.timeout(30):
            connection = asyncio.create_task(connecting())
            for number, other in enumerate(others, 1):
                await until(lambda number=number: len(seen) == number or connection.done())
                replace(server.key, other.key.read_bytes())
                replace(server.certificate, other.certificate.read_bytes())
            await connection
        return codes, seen

    codes, seen = on_each_loop(main())

    assert set(codes) == {"OK"}
    assert codes["OK"] > 20
    assert len(seen) == 3


def test_a_broken_new_file_is_told_once_and_what_was_there_goes_on(
    run: Run, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    issued = authority.issue("server")

    async def main() -> list[str]:
        async with secured(issued) as served:
            replace(issued.certificate, b"not a certificate")
            await until(lambda: "goes on" in caplog.text or "going on" in caplog.text)
            await asyncio.sleep(1.2)  # a second look
            codes = [await code_of(served, shown(authority))]
            issued.key.unlink()
            await until(lambda: "No such file" in caplog.text)
            return [*codes, await code_of(served, shown(authority))]

    assert run(main()) == ["OK", "OK"]
    assert caplog.text.count("no certificate to the key") == 1


HELLO = bytes.fromhex("160301") + (200).to_bytes(2, "big") + b"\x01"
"""The beginning of a client's first words, which never end."""


@pytest.mark.parametrize(
    "words",
    [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", HELLO, os.urandom(5000)],
    ids=["silence", "plain HTTP/2", "plain HTTP", "half a hello", "noise"],
)
def test_a_client_that_never_agrees_on_tls_harms_nobody(
    on_each_loop: Run, authority: Authority, words: bytes, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("headrace.rpc.port.HANDSHAKE_S", 1.0)

    async def main() -> tuple[bool, str]:
        async with secured(authority.issue("server")) as served:
            clients = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(20)]
            for _, writer in clients:
                writer.write(words)
            code = await code_of(served, shown(authority))
            for reader, writer in clients:
                with contextlib.suppress(ConnectionError):
                    await asyncio.wait_for(reader.read(), 5)  # to the end: we hang up
                writer.close()
            await nothing_left(served)
            return not served.handlers.begun.keys() - {"unary"}, code

    assert on_each_loop(main()) == (True, "OK")
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_tls_client_on_a_plain_port_is_told_off_and_harms_nobody(run: Run, authority: Authority) -> None:
    async def main() -> tuple[str, str]:
        async with serving() as served:
            return await code_of(served, shown(authority)), await code_of(served, ClientCredentials())

    assert run(main()) == ("UNAVAILABLE", "OK")


@pytest.mark.parametrize("protocols", [["http/1.1"], []], ids=["other", "none"])
def test_a_client_that_does_not_agree_on_h2_is_hung_up_on(run: Run, authority: Authority, protocols: list[str]) -> None:
    context = ssl.create_default_context(cafile=authority.path)
    if protocols:
        context.set_alpn_protocols(protocols)

    async def main() -> bytes:
        async with secured(authority.issue("server")) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
            said = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return said

    assert b"h2" in run(main())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_2_is_spoken_with_the_ciphers_of_http2_and_nothing_older(run: Run, authority: Authority) -> None:
    def context(version: str, ciphers: str) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=authority.path)
        made.set_ciphers(f"{ciphers}:@SECLEVEL=0")
        made.minimum_version = made.maximum_version = ssl.TLSVersion[version]
        made.set_alpn_protocols(["h2"])
        return made

    async def main() -> list[bool]:
        found = []
        async with secured(authority.issue("server")) as served:
            for version, ciphers in (("TLSv1_2", "ALL"), ("TLSv1_2", "AES128-SHA"), ("TLSv1_1", "ALL")):
                try:
                    secure = context(version, ciphers)
                    _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=secure)
                except OSError:  # an alert, or a reset
                    found.append(False)
                else:
                    found.append(True)
                    writer.close()
        return found

    assert run(main()) == [True, False, False]


def test_a_stopping_server_does_not_wait_for_hands_that_never_shake_and_leaves_its_port(
    on_each_loop: Run, authority: Authority
) -> None:
    issued = authority.issue("server")

    async def main() -> tuple[float, list[bytes]]:
        async with secured(issued) as served:
            clients = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(5)]
            assert await code_of(served, shown(authority)) == "OK"  # by now all of them are accepted
            begun = asyncio.get_running_loop().time()
            await served.server.stop(1.0)
            took = asyncio.get_running_loop().time() - begun
            async with serving(port=served.port):
                said = [await asyncio.wait_for(reader.read(), 5) for reader, _ in clients]
            for _, writer in clients:
                writer.close()
            return took, said

    took, said = on_each_loop(main())

    assert took < 1.0
    assert said == [b""] * 5


def test_a_stopping_server_says_goodbye_over_tls(on_each_loop: Run, authority: Authority) -> None:
    async def main() -> tuple[float, list[grpc.StatusCode]]:
        heard = Heard()
        async with secured(authority.issue("server")) as served:
            channel = Channel(served.address, shown(authority))
            await channel.stream("/t.T/both", heard.messages.append, heard.on_end)
            await channel.unary("/t.T/unary", b"", 5.0)
            begun = asyncio.get_running_loop().time()
            await served.server.stop(0.0)
            took = asyncio.get_running_loop().time() - begun
            await until(lambda: heard.ends)
            await channel.close()
        return took, heard.ends

    took, ends = on_each_loop(main())

    assert took < 1.0
    assert ends == [grpc.StatusCode.UNAVAILABLE]


def test_a_token_goes_with_every_kind_of_call_and_never_in_plain_text_to_another_machine(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    bearing = ClientCredentials(token_file=file)
    told: list[str] = []

    def handlers() -> Any:
        def note(rpc: Any) -> None:
            told.append(dict(rpc.invocation_metadata()).get("authorization", ""))

        async def one(_: Any, rpc: Any) -> bytes:
            note(rpc)
            return b"x"

        async def several(_: Any, rpc: Any) -> AsyncIterator[bytes]:
            note(rpc)
            yield b"x"

        methods: dict[str, Callable[..., Any]] = {
            "uu": grpc.unary_unary_rpc_method_handler(one),
            "us": grpc.unary_stream_rpc_method_handler(several),
            "su": grpc.stream_unary_rpc_method_handler(one),
            "ss": grpc.stream_stream_rpc_method_handler(several),
        }
        return grpc.method_handlers_generic_handler("t.Who", methods)

    def blocking(address: str) -> None:
        with connect_blocking(address, bearing) as channel:
            channel.unary_unary("/t.Who/uu")(b"", timeout=5)
            list(channel.unary_stream("/t.Who/us")(b"", timeout=5))
            channel.stream_unary("/t.Who/su")(iter([b""]), timeout=5)
            list(channel.stream_stream("/t.Who/ss")(iter([b""]), timeout=5))

    async def main() -> None:
        async with serving() as served:
            served.server.add_generic_rpc_handlers((handlers(),))
            async with connect(served.address, bearing) as channel:
                await channel.unary_unary("/t.Who/uu")(b"")
                assert [m async for m in channel.unary_stream("/t.Who/us")(b"")] == [b"x"]
                await channel.stream_unary("/t.Who/su")(iter([b""]))
                assert [m async for m in channel.stream_stream("/t.Who/ss")(iter([b""]))] == [b"x"]
            await asyncio.to_thread(blocking, served.address)
            ours = Channel(served.address, bearing)
            await ours.unary("/t.Who/uu", b"", 5.0)
            await ours.close()

    run(main())

    assert told == ["Bearer s3cret"] * 9
    assert bearing.metadata("10.0.0.1:8001") == ()
