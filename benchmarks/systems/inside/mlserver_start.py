"""`mlserver start FOLDER`, with a ModelConfig: perf_analyzer asks for it, and MLServer's protocol has none.

The answer is bytes that FOLDER/model_config.binpb holds: MLServer's own messages and tritonclient's have the same
names, and one process can't load both.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc
from mlserver.cli import main
from mlserver.grpc.server import GRPCServer

SERVICE = "inference.GRPCInferenceService"


def add_model_config(answer: bytes) -> None:
    create = GRPCServer._create_server  # noqa: SLF001  it has no hook for another method

    async def model_config(_request: bytes, _context: Any) -> bytes:
        return answer

    def create_with_more(self: GRPCServer) -> Any:
        server = create(self)
        handler = grpc.unary_unary_rpc_method_handler(model_config)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelConfig": handler}),))
        return server

    GRPCServer._create_server = create_with_more  # noqa: SLF001


if __name__ == "__main__":
    add_model_config((Path(sys.argv[1]) / "model_config.binpb").read_bytes())
    sys.argv = ["mlserver", "start", sys.argv[1]]
    main()
