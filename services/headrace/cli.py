"""The command line: reads the settings, builds the parts, decides nothing.

A room is imported inside its command, never at the top: a gateway process must not load torch or Ray.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from headrace import config
from headrace.children import leave_group, leave_last_words, stop_with_supervisor
from headrace.credentials import ClientCredentials
from headrace.errors import HeadraceError, StartupError
from headrace.experiment_cli import experiment_app, traffic_app
from headrace.options import with_credentials

EX_CONFIG: Final = 78
"""sysexits.h: the configuration is wrong; a supervisor need not try again."""
OWN_FILES: Final = 0o077

app = typer.Typer(
    name="headrace",
    help="Serves PyTorch sequence models in the payment path: gRPC in, batched, traced, on Ray Serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(invoke_without_command=True)
app.add_typer(models_app, name="models")
app.add_typer(experiment_app, name="experiment")
app.add_typer(traffic_app, name="traffic")


class Device(StrEnum):
    """Where a module runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


ConfigOption = Annotated[Path | None, typer.Option("--config", help="headrace.yaml; see docs/operations.md.")]
ModelsOption = Annotated[
    list[Path] | None, typer.Option("--models", help="A directory of models, served beside the shipped one.")
]
EngineOption = Annotated[str | None, typer.Option(help="ray (default) or local: replicas as plain processes.")]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", metavar="NAME", help="Serve this model of those found; may be repeated.")
]
PortOption = Annotated[int | None, typer.Option(help="gRPC port of the gateway; 0 = any free one.")]
ControlOption = Annotated[str, typer.Option("--control", help="host:port of control.")]
ModelArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model.")]
PatienceOption = Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Wait so long; it goes on after that.")]
AddressOption = Annotated[str, typer.Option(help="host:port of a gateway.")]


def _print_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it with the flag
    if wanted:
        from importlib import metadata  # noqa: PLC0415

        typer.echo(metadata.version("headrace"))
        raise typer.Exit


VersionFlag = typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")


@app.callback()
def about(_: Annotated[bool, VersionFlag] = False) -> None:  # noqa: FBT002  a flag with a default
    """Take what is said of no command in particular."""


def main() -> None:
    """Run a command. A StartupError is one line on stderr and exit code 78; another of ours is one line and 1."""
    leave_group()
    try:
        app()
    except StartupError as error:
        leave_last_words(error)
        typer.echo(f"headrace: {error}", err=True)
        sys.exit(EX_CONFIG)
    except HeadraceError as error:
        typer.echo(f"headrace: {error}", err=True)
        sys.exit(1)


def _run(serve: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run a server until SIGINT, SIGTERM or its supervisor's end; it drains, and the process exits 0.

    What it and its children write, ledger and traces, is for its own user to read.
    """
    os.umask(OWN_FILES)
    import uvloop  # noqa: PLC0415  only servers need a loop

    async def until_signalled() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await stop_with_supervisor(stopped)
        await serve(stopped)

    uvloop.run(until_signalled())


@app.command()
def serve(
    engine: EngineOption = None,
    models: ModelsOption = None,
    only: OnlyOption = None,
    config_file: ConfigOption = None,
    port: PortOption = None,
    gateways: Annotated[int | None, typer.Option(min=1, help="Gateway processes that share the port.")] = None,
) -> None:
    """Start control, gateways and the models on this machine, until Ctrl-C."""
    from headrace.cluster import serve_until  # noqa: PLC0415

    settings = config.load(
        config_file,
        engine=engine,
        model_dirs=models or None,
        only=only or None,
        gateway__port=port,
        gateway__processes=gateways,
    )
    _run(lambda stopped: serve_until(settings, stopped))


@app.command()
def gateway(
    control: ControlOption = "127.0.0.1:8100", config_file: ConfigOption = None, port: PortOption = None
) -> None:
    """Run one gateway: the gRPC front door, without Ray and without torch."""
    from headrace.gateway.server import Gateway  # noqa: PLC0415
    from headrace.telemetry import logging  # noqa: PLC0415

    settings = config.load(config_file, gateway__port=port)
    logging.configure(settings.telemetry.log_level)
    _freeze()
    _run(lambda stopped: Gateway(settings, control).serve_until(stopped))


@app.command()
def control(config_file: ConfigOption = None, port: PortOption = None) -> None:
    """Run control: discovery of replicas, and the policy of every model."""
    from headrace.control.server import ControlServer  # noqa: PLC0415
    from headrace.telemetry import logging  # noqa: PLC0415

    settings = config.load(config_file, control__port=port)
    logging.configure(settings.telemetry.log_level)
    _run(lambda stopped: ControlServer(settings).serve_until(stopped))


@app.command()
def replica(
    model_dir: Annotated[Path, typer.Option(help="The directory of one model version.")],
    control: ControlOption = "127.0.0.1:8100",
    config_file: ConfigOption = None,
) -> None:
    """Run one replica of one model version as a plain process, without Ray."""
    from headrace.serving import process  # noqa: PLC0415
    from headrace.telemetry import logging  # noqa: PLC0415

    settings = config.load(config_file)
    logging.configure(settings.telemetry.log_level)
    _run(lambda stopped: process.serve_until(model_dir, control, settings, stopped))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def train(context: typer.Context) -> None:
    """Train a model, on simulated payments or on your own events; `headrace train --help` says how."""
    from headrace_models.training.__main__ import main as run  # noqa: PLC0415  torch is loaded here

    sys.exit(run(context.args))


@app.command()
def demo(engine: EngineOption = None, config_file: ConfigOption = None) -> None:
    """Stream a simulated day of payments through a cluster of its own, and say what it found."""
    from headrace.demo import run  # noqa: PLC0415

    settings = config.load(config_file, engine=engine, gateway__port=0, control__port=0, gateway__metrics_port=0)
    asyncio.run(run(settings))


@app.command("demo-shadow")
def demo_shadow(
    engine: EngineOption = None,
    config_file: ConfigOption = None,
    rate: Annotated[float, typer.Option(min=1, help="Payments a second, at most.")] = 150,
) -> None:
    """Compare two challengers of fraud-tx on simulated traffic: one takes over, one is refused. Exit code 1 if not."""
    from headrace.demo_shadow import run  # noqa: PLC0415

    settings = config.load(config_file, engine=engine, gateway__port=0, control__port=0, gateway__metrics_port=0)
    sys.exit(0 if asyncio.run(run(settings, rate)) else 1)


@app.command()
@with_credentials
def score(
    file: Annotated[Path, typer.Argument(help="JSON lines: a payment with its histories on each. - reads stdin.")],
    address: AddressOption = "127.0.0.1:8001",
    model: Annotated[str, typer.Option(help="The model to ask.")] = "fraud-tx",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")] = False,  # noqa: FBT002
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Wait so long for the model to be ready.")] = 0,
    *,
    credentials: ClientCredentials,
) -> None:
    """Score payments from a file."""
    from headrace.score_file import run, wait_ready  # noqa: PLC0415

    if wait:
        wait_ready(address, model, wait, credentials)
    sys.exit(run(file, address, model, as_json=as_json, credentials=credentials))


@models_app.callback()
@with_credentials
def models(
    context: typer.Context, address: AddressOption = "127.0.0.1:8001", *, credentials: ClientCredentials
) -> None:
    """List the models a gateway serves, load and unload them, or check one that could be served."""
    from headrace.score_file import print_models  # noqa: PLC0415

    if context.invoked_subcommand is None:
        print_models(address, credentials)


@models_app.command("list")
@with_credentials
def list_models(address: AddressOption = "127.0.0.1:8001", *, credentials: ClientCredentials) -> None:
    """List the models a gateway serves, and those it could."""
    from headrace.score_file import print_models  # noqa: PLC0415

    print_models(address, credentials)


@models_app.command("load")
@with_credentials
def load_model(
    model: ModelArgument,
    address: AddressOption = "127.0.0.1:8001",
    timeout: PatienceOption = 600,
    *,
    credentials: ClientCredentials,
) -> None:
    """Load every version of a model that lies in the model directories; wait until it is ready."""
    from headrace.load_model import load  # noqa: PLC0415

    load(address, model, timeout, credentials)


@models_app.command("unload")
@with_credentials
def unload_model(
    model: ModelArgument,
    address: AddressOption = "127.0.0.1:8001",
    timeout: PatienceOption = 600,
    *,
    credentials: ClientCredentials,
) -> None:
    """Unload a model: what was accepted is answered, then its replicas stop."""
    from headrace.load_model import unload  # noqa: PLC0415

    unload(address, model, timeout, credentials)


@models_app.command("check")
def check_models(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="One version's directory, or one of models.")],
    device: Annotated[Device, typer.Option(help="auto: the GPU where there is one.")] = Device.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,  # noqa: FBT002
) -> None:
    """Check that a model can be served: its files, and the laws its module must hold. Exit code 78 if not."""
    from headrace.check_models import run  # noqa: PLC0415

    run(directory, device.value, as_json=as_json)


@app.command()
def trace(
    trace_id: Annotated[str, typer.Argument(help="The beginning of a trace id; empty = the most recent.")] = "",
    directory: Annotated[Path, typer.Option("--dir", help="Where the trace files are.")] = Path("build/traces"),
    slowest: Annotated[int, typer.Option(min=0, help="List so many of the slowest instead.")] = 0,
) -> None:
    """Draw the waterfall of one inference from the local trace files, or list the slowest."""
    from rich.console import Console  # noqa: PLC0415

    from headrace.telemetry import reading, waterfall  # noqa: PLC0415

    console = Console()
    if slowest:
        console.print(waterfall.listing(reading.slowest(directory, slowest)))
        return
    found = reading.find(directory, trace_id) if trace_id else [t for t in (reading.latest(directory),) if t]
    if not found:
        raise StartupError(f"{directory}: no trace {trace_id or 'yet'}")
    for one in found:
        console.print(waterfall.draw(one))


@app.command()
def top(
    addresses: Annotated[
        list[str] | None, typer.Argument(help="host:port of gateways' metrics; 127.0.0.1:8002.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,  # noqa: FBT002
) -> None:
    """Show what the gateways are doing: models, rate, latency, batch size, refusals, replicas."""
    from headrace.top import run  # noqa: PLC0415

    run(addresses or ["127.0.0.1:8002"], every, once=once)


def _freeze() -> None:
    """Take what start-up made out of the collector's sight: full collections then cost the requests nothing."""
    import gc  # noqa: PLC0415

    gc.collect()
    gc.freeze()
