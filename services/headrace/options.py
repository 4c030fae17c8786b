"""The options of every command that asks a port of headrace: whom it believes, and as whom it asks.

The token itself is never one of them: command lines are read by others.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from headrace.credentials import ClientCredentials

Command = Callable[..., Any]


class Port(NamedTuple):
    """A port, and how it is asked."""

    address: str
    credentials: ClientCredentials


class Option(NamedTuple):
    """An option that is added to a command."""

    annotation: Any
    default: Any = None


def _option(kind: Any, flag: str, said: str) -> Any:
    environment = f"HEADRACE_{flag.strip('-').replace('-', '_').upper()}"
    return Annotated[kind, typer.Option(flag, envvar=environment, help=said)]


FILE: Final = Path | None
CREDENTIALS: Final = {
    "authorities": Option(_option(FILE, "--tls-authorities", "PEM: who signed the server's certificate.")),
    "certificate": Option(_option(FILE, "--tls-certificate", "PEM: your own certificate.")),
    "key": Option(_option(FILE, "--tls-key", "PEM: the key to your certificate.")),
    "name": Option(_option(str, "--tls-name", "The name in the server's certificate, if not its address."), ""),
    "token_file": Option(_option(FILE, "--token-file", "Holds your token; over TLS, or to this machine.")),
}
"""Field of ClientCredentials → its option."""
CONTROL: Final = Option(Annotated[str, typer.Option("--control", help="host:port of control.")], "127.0.0.1:8100")


def with_credentials(command: Command) -> Command:
    """Give a command these options; it gets what they say as its argument `credentials`."""
    return _with(command, "credentials", CREDENTIALS, ClientCredentials)


def with_control(command: Command) -> Command:
    """The same for a command that asks control; it gets a Port as its argument `control`."""

    def port(address: str, **said: Any) -> Port:
        return Port(address, ClientCredentials(**said))

    return _with(command, "control", {"address": CONTROL, **CREDENTIALS}, port)


def _with(command: Command, argument: str, options: Mapping[str, Option], make: Callable[..., Any]) -> Command:
    """A command with options in place of an argument that is made of them."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != argument]
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, kind, default=option.default, annotation=option.annotation)
        for name, option in options.items()
    ]

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        made = make(**{name: values.pop(name) for name in options})
        return command(**values, **{argument: made})

    parameters = [*own, *added]  # typer reads them there
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
