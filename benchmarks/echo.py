"""The ceiling: a server on uvloop that answers ModelInfer with a constant. No decoding, no model, no tracing.

    python benchmarks/echo.py PORT grpc|headrace

On grpc.aio's server, or on headrace's own: what headrace reaches beside it is the share of the transport's speed that
is left with everything on.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
import uvloop
from grpc import aio
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from headrace.rpc.server import Server


class Echo(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Just enough of the protocol for a load generator."""

    async def ModelInfer(self, request: Any, rpc: Any) -> Any:
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        answer.outputs.add(name="score", datatype="FP32", shape=[1, 1])
        answer.raw_output_contents.append(np.zeros(1, np.float32).tobytes())
        return answer

    async def ServerReady(self, request: Any, rpc: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    async def ServerMetadata(self, request: Any, rpc: Any) -> Any:
        return service_pb2.ServerMetadataResponse(name="echo")

    async def ModelMetadata(self, request: Any, rpc: Any) -> Any:
        kind = service_pb2.ModelMetadataResponse.TensorMetadata
        return service_pb2.ModelMetadataResponse(
            name=request.name,
            versions=["1"],
            inputs=[kind(name="events", datatype="FP32", shape=[-1, 32, 16])],
            outputs=[kind(name="score", datatype="FP32", shape=[-1, 1])],
        )

    async def ModelConfig(self, request: Any, rpc: Any) -> Any:
        return service_pb2.ModelConfigResponse(
            config=model_config_pb2.ModelConfig(
                name=request.name,
                max_batch_size=64,
                input=[model_config_pb2.ModelInput(name="events", data_type="TYPE_FP32", dims=[32, 16])],
                output=[model_config_pb2.ModelOutput(name="score", data_type="TYPE_FP32", dims=[1])],
            )
        )


async def main() -> None:
    server: Any = aio.server() if sys.argv[2] == "grpc" else Server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Echo(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
