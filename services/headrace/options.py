"""The options of every command that asks a port of headrace: whom it believes, and as whom it asks.

The token itself is never one of them: command lines are read by others.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from headrace.credentials import ClientCredentials


def _option(flag: str, said: str) -> Any:
    return typer.Option(flag, envvar=f"HEADRACE_{flag.strip('-').replace('-', '_').upper()}", help=said)


OPTIONS: Final[dict[str, Any]] = {
    "authorities": Annotated[Path | None, _option("--tls-authorities", "PEM: who signed the server's certificate.")],
    "certificate": Annotated[Path | None, _option("--tls-certificate", "PEM: your own certificate.")],
    "key": Annotated[Path | None, _option("--tls-key", "PEM: the key to your certificate.")],
    "name": Annotated[str, _option("--tls-name", "The name in the server's certificate, if it is not its address.")],
    "token_file": Annotated[Path | None, _option("--token-file", "Holds your token; over TLS, or to this machine.")],
}
"""Field of ClientCredentials → its option."""


def with_credentials(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options; it gets what they say as its argument `credentials`, a ClientCredentials."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "credentials"]
    empty = ClientCredentials()
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(empty, name), annotation=option)
        for name, option in OPTIONS.items()
    ]

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        shown = ClientCredentials(**{name: values.pop(name) for name in OPTIONS})
        return command(**values, credentials=shown)

    parameters = [*own, *added]  # typer reads them there
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
