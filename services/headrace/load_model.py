"""`headrace models load` and `unload`: a gateway's RepositoryModelLoad and RepositoryModelUnload at a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.channel import connect_blocking
from headrace.client import ERRORS
from headrace.credentials import NOBODY, ClientCredentials
from headrace.errors import NotLoaded, Unsupported

CODES: Final = {**ERRORS, grpc.StatusCode.INTERNAL: NotLoaded, grpc.StatusCode.UNIMPLEMENTED: Unsupported}


def load(address: str, model: str, timeout_s: float, credentials: ClientCredentials = NOBODY) -> None:
    """Returns once every version of the model is ready there. Raises: a HeadraceError with the server's sentence."""
    request = service_pb2.RepositoryModelLoadRequest(model_name=model)
    _ask(address, credentials, lambda stub: stub.RepositoryModelLoad(request, timeout=timeout_s))


def unload(address: str, model: str, timeout_s: float, credentials: ClientCredentials = NOBODY) -> None:
    """Returns once its replicas have stopped. As `load`."""
    request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
    _ask(address, credentials, lambda stub: stub.RepositoryModelUnload(request, timeout=timeout_s))


def _ask(address: str, credentials: ClientCredentials, call: Callable[[Any], Any]) -> None:
    with connect_blocking(address, credentials) as channel:
        try:
            call(service_pb2_grpc.GRPCInferenceServiceStub(channel))
        except grpc.RpcError as error:
            raise CODES.get(error.code(), NotLoaded)(error.details()) from error
