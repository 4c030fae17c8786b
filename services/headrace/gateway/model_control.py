"""RepositoryModelLoad and RepositoryModelUnload: what may be asked, passed on to control, awaited until it shows here.

Nothing but a model's name goes on from here: files and configurations are refused, code never comes over the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc import aio
from tritonclient.grpc import service_pb2

from headrace.access import name_of
from headrace.channel import ERROR, connect
from headrace.config import ControlSettings
from headrace.credentials import ClientCredentials
from headrace.errors import (
    DeadlinePassed,
    HeadraceError,
    InvalidInference,
    NotExplicit,
    NotServing,
    Unsupported,
    named,
)
from headrace.gateway.models import Models
from headrace.rpc.call import Call
from headrace.v1 import control_pb2, control_pb2_grpc

REPOSITORY_NAME: Final = "'repository_name' specification is not supported"
PERIOD_S: Final = 0.02
SEEN_S: Final = 10.0
"""From READY at control until a gateway has it takes milliseconds; one that does not get there says so."""
AWAY: Final = "control is away, or has gone: what has begun goes on, and RepositoryIndex says what has come of it"
OTHERWISE: Final = {
    grpc.StatusCode.UNAUTHENTICATED: "control does not know this gateway",
    grpc.StatusCode.PERMISSION_DENIED: "control does not let this gateway ask for it",
    grpc.StatusCode.UNIMPLEMENTED: "control is of an older version, which loads no models",
}
"""What a status of control's means where control has not named an error."""


class ModelControl:
    """Asks control in the name of whoever asks this gateway."""

    def __init__(
        self,
        settings: ControlSettings,
        address: str,
        credentials: ClientCredentials,
        models: Models,
    ) -> None:
        self._explicit = settings.model_control == "explicit"
        self._address = address
        self._credentials = credentials
        self._models = models

    async def load(self, request: service_pb2.RepositoryModelLoadRequest, rpc: Call) -> None:
        """Returns once this gateway has a ready replica of every version that is loaded.

        Raises: Unsupported, InvalidInference, NotExplicit; NotLoaded with the reason; NotServing when control or the
        deployer is away, or goes. Cancellation: the load goes on.
        """
        self._check(request, _check_load)
        message = control_pb2.LoadRequest(model=request.model_name, asked_by=name_of(rpc))
        answer = await self._ask(lambda stub: stub.Load(message, timeout=rpc.time_remaining()))
        versions = set(answer.versions)
        await self._until(
            lambda: self._heard(answer) and self._models.settled(request.model_name, versions),
            f"'{request.model_name}' is loaded, and this gateway has no ready replica of it yet",
        )

    async def unload(self, request: service_pb2.RepositoryModelUnloadRequest, rpc: Call) -> None:
        """Returns once what the gateways held of it is answered and its replicas have stopped. As `load`."""
        self._check(request, _check_unload)
        message = control_pb2.UnloadRequest(model=request.model_name, asked_by=name_of(rpc))
        answer = await self._ask(lambda stub: stub.Unload(message, timeout=rpc.time_remaining()))
        await self._until(
            lambda: self._heard(answer),
            f"'{request.model_name}' is unloaded, and this gateway has not heard of it yet",
        )

    def _check(self, request: Any, check: Callable[[str, Any], None]) -> None:
        if request.repository_name:
            raise Unsupported(REPOSITORY_NAME)
        for name, value in request.parameters.items():
            check(name[:64], value)
        if not self._explicit:
            raise NotExplicit
        if not request.model_name:
            raise InvalidInference("model_name: required")

    def _heard(self, answer: control_pb2.LoadResponse | control_pb2.UnloadResponse) -> bool:
        return self._models.heard(answer.epoch, answer.snapshot_version)

    async def _ask(self, call: Callable[[control_pb2_grpc.ControlStub], Any]) -> Any:
        """Raises: as `load`."""
        try:
            async with connect(self._address, self._credentials) as channel:
                return await call(control_pb2_grpc.ControlStub(channel))
        except aio.AioRpcError as error:
            raise _told(error) from error

    async def _until(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Raises: NotServing."""
        try:
            async with asyncio.timeout(SEEN_S):
                while not condition():  # noqa: ASYNC110  replicas' state; none of them signals it
                    await asyncio.sleep(PERIOD_S)
        except TimeoutError as error:
            raise NotServing(otherwise) from error


def _told(error: aio.AioRpcError) -> HeadraceError:
    """What to tell the caller: control's own words, and never those of a transport that knows addresses."""
    for key, name in error.trailing_metadata() or ():
        if key == ERROR:
            return named(str(name))(error.details() or "")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlinePassed("Request timeout expired")
    return NotServing(OTHERWISE.get(error.code(), AWAY))


def _check_load(name: str, _: Any) -> None:
    """Raises: Unsupported, or InvalidInference with Triton's sentence."""
    if name == "config" or name.startswith("file:"):
        raise Unsupported(
            f"load parameter '{name}' is not supported: a version is loaded as it lies in the model directories, "
            "code and configuration never come over the wire"
        )
    raise InvalidInference(f"unrecognized load parameter '{name}'.")


def _check_unload(name: str, value: service_pb2.ModelRepositoryParameter) -> None:
    """No model of ours depends on another one: with or without dependents it is the same. Raises: InvalidInference."""
    if name != "unload_dependents":
        raise InvalidInference(f"unrecognized unload parameter '{name}'.")
    if value.WhichOneof("parameter_choice") != "bool_param":
        raise InvalidInference("invalid value type for 'unload_dependents' parameter, expected bool_param.")
