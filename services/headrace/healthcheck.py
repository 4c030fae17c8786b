"""`python -m headrace.healthcheck`: asks a port for its health, for supervisors that can only run a command.

The images run it as their HEALTHCHECK. It reads no settings, bears no token and asks nothing but grpc.health.v1.
"""

from __future__ import annotations

import sys
from typing import Annotated, Final

import grpc
import typer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from headrace.channel import connect_blocking
from headrace.credentials import ClientCredentials
from headrace.errors import StartupError
from headrace.options import with_credentials

GATEWAY_AND_CONTROL: Final = ["127.0.0.1:8001", "127.0.0.1:8100"]
"""Where they listen if nobody says otherwise: one image runs either."""

AddressesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="HOST:PORT …", help=f"Asked in turn; {' '.join(GATEWAY_AND_CONTROL)}.")
]


def health(address: str, service: str, credentials: ClientCredentials, timeout_s: float) -> str:
    """What this port says of this service, in grpc.health.v1's words, or the gRPC code it failed with.

    Raises: StartupError when a file of the credentials cannot be used.
    """
    with connect_blocking(address, credentials.tokenless) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as error:
            return str(error.code().name)
        return str(HealthCheckResponse.ServingStatus.Name(answer.status))


@with_credentials
def check(
    addresses: AddressesArgument = None,
    service: Annotated[str, typer.Option(help="Of what: liveness, readiness, a service, a model; empty = all.")] = "",
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for each address.")] = 2.0,
    *,
    credentials: ClientCredentials,
) -> None:
    """Exit code 0 if one of the addresses says SERVING, 1 if none does."""
    for address in addresses or GATEWAY_AND_CONTROL:
        try:
            said = health(address, service, credentials, timeout_s)
        except StartupError as error:
            said = str(error)
        if said == "SERVING":
            return
        typer.echo(f"{address}: {said}", err=True)
    sys.exit(1)


def main() -> None:
    """Run it."""
    typer.run(check)


if __name__ == "__main__":
    main()
