"""`python -m headrace.healthcheck` against gateways and control, as a container's supervisor runs it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.certificates import Authority

from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica

Run = Callable[..., Any]


async def check(*arguments: str) -> tuple[int | None, str]:
    """Its exit code, and what it says on stderr."""
    command = [sys.executable, "-m", "headrace.healthcheck", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    return process.returncode, said.decode()


def test_a_port_that_serves_a_name_is_healthy_by_that_name_alone(run: Run, tmp_path: Path, free_port: int) -> None:
    closed = f"127.0.0.1:{free_port}"

    async def main() -> list[tuple[int | None, str]]:
        async with FakeReplica() as replica, running_gateway(tmp_path, [replica]) as (gateway, control):
            there, silent = f"127.0.0.1:{gateway.port}", f"127.0.0.1:{control.port}"
            return [await check(there), await check("--service", "nobody", there), await check(closed, silent)]

    whole, unknown, second = run(main())

    assert whole == (0, "")
    assert unknown[0] == 1
    assert unknown[1].endswith(": NOT_FOUND\n")
    assert second == (0, f"{closed}: UNAVAILABLE\n")


def test_a_gateway_that_serves_no_model_is_not_healthy_as_a_whole(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[int | None, str]:
        async with running_gateway(tmp_path, []) as (gateway, _):
            return await check(f"127.0.0.1:{gateway.port}")

    code, said = run(main())

    assert code == 1
    assert said.endswith(": NOT_SERVING\n")


def test_nobody_there_is_not_healthy(run: Run, free_port: int) -> None:
    assert run(check(f"127.0.0.1:{free_port}")) == (1, f"127.0.0.1:{free_port}: UNAVAILABLE\n")


def test_a_port_with_tls_is_asked_over_tls(run: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("own", dns=("headrace.internal",), here=False)
    tls = {"tls__certificate": own.certificate, "tls__key": own.key, "tls__authorities": authority.path}
    trusting = ("--tls-authorities", str(authority.path))

    async def main() -> list[tuple[int | None, str]]:
        async with running_gateway(tmp_path, [], tls__name="headrace.internal", **tls) as (_, control):
            address = f"127.0.0.1:{control.port}"
            by_name = await check(*trusting, "--tls-name", "headrace.internal", address)
            return [by_name, await check(*trusting, address), await check(address)]

    by_name, by_address, in_plain_text = run(main())

    assert by_name == (0, "")
    assert by_address[0] == in_plain_text[0] == 1


def test_a_file_that_is_not_there_is_said_in_one_line(run: Run, tmp_path: Path) -> None:
    code, said = run(check("--tls-authorities", str(tmp_path / "none.pem"), "127.0.0.1:1"))

    assert code == 1
    assert said.count("\n") == 1
    assert "none.pem" in said
