"""`headrace experiment …` and `headrace traffic …`: control's ExperimentService at a prompt. Asks and prints, no more.

Rooms are imported inside the commands, as in `cli.py`: the command line must start fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from headrace.credentials import ClientCredentials
from headrace.errors import NotServing, Refused
from headrace.experiments.profiles import Profile
from headrace.options import with_credentials

if TYPE_CHECKING:  # both cost a third of a second, and `headrace --help` needs neither
    from google.protobuf.message import Message
    from rich.console import RenderableType

    from headrace.v1 import experiments_pb2 as pb
    from headrace.v1.experiments_pb2_grpc import ExperimentServiceStub

TIMEOUT_S: Final = 10.0
CONTROL: Final = "127.0.0.1:8100"

experiment_app = typer.Typer(no_args_is_help=True, help="Prove a challenger on live traffic, and put it in charge.")
traffic_app = typer.Typer(no_args_is_help=True, help="Show or set which version answers.")


class Stage(StrEnum):
    """Where `promote --to` may go."""

    SHADOW = "shadow"
    CANARY = "canary"
    PRIMARY = "primary"
    FINISHED = "finished"


IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The experiment.")]
ControlOption = Annotated[str, typer.Option("--control", help="host:port of control.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
WatchOption = Annotated[float | None, typer.Option("--watch", min=0.2, help="Look again each so many seconds.")]
WhyOption = Annotated[str, typer.Option("--why", help="The reason, for the ledger.")]


@experiment_app.command()
@with_credentials
def create(  # noqa: PLR0913, PLR0917  the fields of an experiment
    file: Annotated[Path | None, typer.Option("--file", help="The same fields in YAML; an option wins.")] = None,
    model: Annotated[str | None, typer.Option(help="The public name of the model.")] = None,
    challenger: Annotated[str | None, typer.Option(help="The version that wants to be in charge.")] = None,
    incumbent: Annotated[str | None, typer.Option(help="The version in charge; whichever is.")] = None,
    identity: Annotated[
        str | None, typer.Option("--id", help="Made of model and versions where it is left out.")
    ] = None,
    share: Annotated[float | None, typer.Option(help="Share of the requests that make pairs; 1.")] = None,
    noise_share: Annotated[
        float | None, typer.Option(help="Share of pairs that the incumbent answers again; 0.1.")
    ] = None,
    timeout_ms: Annotated[int | None, typer.Option(help="What a copy may take; 1000.")] = None,
    threshold: Annotated[list[float] | None, typer.Option(help="Blocked from here; may be repeated.")] = None,
    output: Annotated[str | None, typer.Option(help="The output that is compared; score.")] = None,
    canary_share: Annotated[list[float] | None, typer.Option(help="A step of the canary; may be repeated.")] = None,
    automatic: Annotated[bool | None, typer.Option("--automatic", help="Take steps once their gates hold.")] = None,
    profile: Annotated[Profile | None, typer.Option(help="Limits of the gates; demo: 5,000 pairs, at once.")] = None,
    start: Annotated[bool | None, typer.Option("--start", help="Begin to compare at once.")] = None,
    why: Annotated[str | None, typer.Option("--why", help="The reason, for the ledger.")] = None,
    control: ControlOption = CONTROL,
    *,
    credentials: ClientCredentials,
) -> None:
    """Create an experiment: a challenger that is compared with the version in charge."""
    from headrace.experiments import plan_file  # noqa: PLC0415

    options: dict[str, Any] = {
        "model": model,
        "challenger": challenger,
        "incumbent": incumbent,
        "id": identity,
        "share": share,
        "noise_share": noise_share,
        "timeout_ms": timeout_ms,
        "thresholds": threshold or None,
        "output": output,
        "canary_shares": canary_share or None,
        "automatic": automatic,
        "profile": profile.value if profile else None,
        "start": start,
        "why": why,
    }
    request = plan_file.request(file, options)
    with _stub(control, credentials) as stub:
        _say(stub.CreateExperiment(request, timeout=TIMEOUT_S).experiment)


@experiment_app.command()
@with_credentials
def status(
    experiment: IdArgument,
    watch: WatchOption = None,
    as_json: JsonOption = False,
    control: ControlOption = CONTROL,
    *,
    credentials: ClientCredentials,
) -> None:
    """Say where an experiment stands: its verdict, the gates in the way, and the next step."""
    from headrace.experiments import tables  # noqa: PLC0415

    with _stub(control, credentials) as stub:
        if as_json:
            _print_json(_short(_report(stub, experiment)))
        else:
            _show(lambda: tables.status(_report(stub, experiment)), watch)


@experiment_app.command()
@with_credentials
def report(
    experiment: IdArgument,
    html: Annotated[Path | None, typer.Option("--html", help="Write one page to this file instead.")] = None,
    watch: WatchOption = None,
    as_json: JsonOption = False,
    control: ControlOption = CONTROL,
    *,
    credentials: ClientCredentials,
) -> None:
    """Say everything that is known of an experiment: figures, gates, disagreements, moves."""
    from headrace.experiments import tables  # noqa: PLC0415

    with _stub(control, credentials) as stub:
        if html:
            _write_page(html, _report(stub, experiment))
        elif as_json:
            _print_json(_report(stub, experiment))
        else:
            _show(lambda: tables.whole(_report(stub, experiment)), watch)


@experiment_app.command("list")
@with_credentials
def list_experiments(
    model: Annotated[str, typer.Option(help="Of this model only.")] = "",
    as_json: JsonOption = False,
    control: ControlOption = CONTROL,
    *,
    credentials: ClientCredentials,
) -> None:
    """List the experiments, the newest first."""
    from headrace.experiments import tables  # noqa: PLC0415
    from headrace.v1 import experiments_pb2 as pb  # noqa: PLC0415

    with _stub(control, credentials) as stub:
        found = stub.ListExperiments(pb.ListExperimentsRequest(model=model), timeout=TIMEOUT_S)
    if as_json:
        _print_json(found)
    else:
        _show(lambda: tables.listing(found.experiments), None)


@experiment_app.command()
@with_credentials
def promote(  # noqa: PLR0913  what a step may be asked for, and how
    experiment: IdArgument,
    why: WhyOption = "",
    consent: Annotated[bool, typer.Option("--consent", help="Pass gates that ask for a person.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Pass whatever the gates say; the ledger says so.")] = False,
    to: Annotated[Stage | None, typer.Option("--to", help="Straight to this stage; needs --force.")] = None,
    control: ControlOption = CONTROL,
    *,
    credentials: ClientCredentials,
) -> None:
    """Take an experiment one step on, if its gates hold."""
    from headrace.v1 import experiments_pb2 as pb  # noqa: PLC0415

    request = pb.PromoteRequest(id=experiment, why=why, consent=consent, force=force)
    if to:
        request.to_stage = pb.Stage.Value(f"STAGE_{to.name}")  # type: ignore[assignment]
    with _stub(control, credentials) as stub:
        seen = stub.GetExperiment(pb.GetExperimentRequest(id=experiment), timeout=TIMEOUT_S).experiment
        request.from_stage, request.from_share = seen.stage, seen.canary_share
        _say(stub.Promote(request, timeout=TIMEOUT_S).experiment)


@experiment_app.command()
@with_credentials
def rollback(
    experiment: IdArgument,
    why: WhyOption = "",
    force: Annotated[bool, typer.Option("--force", help="Though the incumbent is not ready to answer.")] = False,
    control: ControlOption = CONTROL,
    *,
    credentials: ClientCredentials,
) -> None:
    """Put the incumbent back in charge at once."""
    from headrace.v1 import experiments_pb2 as pb  # noqa: PLC0415

    request = pb.RollbackRequest(id=experiment, why=why, force=force)
    with _stub(control, credentials) as stub:
        _say(stub.Rollback(request, timeout=TIMEOUT_S).experiment)


@traffic_app.command("show")
@with_credentials
def show_traffic(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its public name.")],
    as_json: JsonOption = False,
    control: ControlOption = CONTROL,
    *,
    credentials: ClientCredentials,
) -> None:
    """Show which versions of a model answer now."""
    from headrace.experiments import tables  # noqa: PLC0415
    from headrace.v1 import experiments_pb2 as pb  # noqa: PLC0415

    with _stub(control, credentials) as stub:
        policy = stub.GetTraffic(pb.GetTrafficRequest(model=model), timeout=TIMEOUT_S).policy
    if as_json:
        _print_json(policy)
    else:
        _show(lambda: tables.policy(policy), None)


@traffic_app.command("set")
@with_credentials
def set_traffic(  # noqa: PLR0913  what a policy has, and how to ask
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its public name.")],
    primary: Annotated[
        str | None, typer.Option(help="The version that answers; as it is. '': the highest that is ready.")
    ] = None,
    canary: Annotated[str, typer.Option(help="A version beside it.")] = "",
    canary_share: Annotated[float, typer.Option(help="The share of the entities it answers.")] = 0.0,
    why: WhyOption = "",
    control: ControlOption = CONTROL,
    *,
    credentials: ClientCredentials,
) -> None:
    """Set which versions of a model answer, without an experiment."""
    from headrace.experiments import tables  # noqa: PLC0415
    from headrace.v1 import experiments_pb2 as pb  # noqa: PLC0415

    if bool(canary) != bool(canary_share):
        raise Refused("--canary and --canary-share belong together")
    request = pb.SetTrafficRequest(model=model, why=why)
    if canary:
        request.canary.version, request.canary.share = canary, canary_share
    with _stub(control, credentials) as stub:
        if primary is None:
            primary = stub.GetTraffic(pb.GetTrafficRequest(model=model), timeout=TIMEOUT_S).policy.primary_version
        request.primary_version = primary
        policy = stub.SetTraffic(request, timeout=TIMEOUT_S).policy
    _show(lambda: tables.policy(policy), None)


@contextmanager
def _stub(control: str, credentials: ClientCredentials) -> Iterator[ExperimentServiceStub]:
    """Control's service, for a while. Raises: Refused with its sentence, NotServing where nobody answers."""
    import grpc  # noqa: PLC0415

    from headrace.channel import connect_blocking  # noqa: PLC0415
    from headrace.experiments.words import plain  # noqa: PLC0415
    from headrace.v1.experiments_pb2_grpc import ExperimentServiceStub  # noqa: PLC0415

    with connect_blocking(control, credentials) as channel:
        try:
            yield ExperimentServiceStub(channel)
        except grpc.RpcError as error:
            said = plain(error.details() or error.code().name)
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise NotServing(f"{control} does not answer ({said})") from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NotServing(
                    f"{control} did not answer in time; a move may be made all the same: look before asking again"
                ) from error
            raise Refused(said) from error


def _report(stub: ExperimentServiceStub, experiment: str) -> pb.Report:
    from headrace.v1 import experiments_pb2 as pb  # noqa: PLC0415

    found: pb.GetReportResponse = stub.GetReport(pb.GetReportRequest(id=experiment), timeout=TIMEOUT_S)
    return found.report


def _short(whole: pb.Report) -> pb.Report:
    """What `status` says of a report: no figures, neither now nor at the moves."""
    from headrace.v1 import experiments_pb2 as pb  # noqa: PLC0415

    short = pb.Report(experiment=whole.experiment, at=whole.at, gates=whole.gates, verdict=whole.verdict)
    for move in short.experiment.moves:
        move.ClearField("figures")
    return short


def _say(experiment: pb.Experiment) -> None:
    """One line on where an experiment stands after a step."""
    from headrace.experiments import words  # noqa: PLC0415

    where = words.stage(experiment.stage, experiment.canary_share)
    typer.echo(
        words.plain(f"{experiment.id}: {where} ({experiment.model}, {experiment.incumbent} → {experiment.challenger})")
    )


def _write_page(path: Path, found: pb.Report) -> None:
    from headrace.experiments.page import page  # noqa: PLC0415

    try:
        path.write_text(page(found), "utf-8")
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    typer.echo(str(path))


def _print_json(message: Message) -> None:
    from google.protobuf import json_format  # noqa: PLC0415

    typer.echo(json_format.MessageToJson(message, preserving_proto_field_name=True))


def _show(look: Callable[[], RenderableType], every: float | None) -> None:
    """Print what is seen now, or what is seen each so many seconds until Ctrl-C."""
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    console = Console(highlight=False)
    if every is None:
        console.print(look())
        return
    with Live(look(), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                live.update(look(), refresh=True)
        except KeyboardInterrupt:
            return
