"""Callers of a closed gateway over fake replicas, each with a token that is its name."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from grpc import aio

OWN = "own-processes"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def caller(name: str, *may: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "token_sha256": digest(name), "may": may or ("infer",), **more}


def closed(folder: Path, *callers: dict[str, Any]) -> dict[str, Any]:
    """Flags of settings that know these callers, and the cluster's own processes."""
    file = folder / "own.token"
    file.write_text(OWN)
    known = [*callers, caller(OWN, "gateway", "replica")]
    return {"access__mode": "closed", "access__callers": known, "access__token_file": file}


def bearing(name: str) -> tuple[tuple[str, str], ...]:
    """Metadata of this caller's calls; "" = of nobody's."""
    return (("authorization", f"Bearer {name}"),) if name else ()


async def outcome(call: Awaitable[Any]) -> tuple[str, str]:
    """Code and sentence that a call ends with."""
    try:
        await call
    except aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def pushback(error: aio.AioRpcError) -> str:
    found: Any = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms", "")
    return str(found)
