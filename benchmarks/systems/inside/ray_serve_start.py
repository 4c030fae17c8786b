"""A deployment behind Ray Serve's own gRPC proxy, batched by `@serve.batch`.

    python ray_serve_start.py GRPC_PORT HTTP_PORT

Requests of any length may meet in a batch, which is a list of rows: on W2 the module buckets them, as it does for us.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import ray
from encoder import Encoder
from ray import serve
from ray.serve.config import gRPCOptions
from ray.serve.schema import LoggingConfig
from tritonclient.grpc import model_config_pb2, service_pb2

MAX_ROWS = 64
SERVICER = "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"


# So many may be under way at once that a batch fills while another runs; the default of 5 would starve it.
@serve.deployment(
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 1},
    logging_config=LoggingConfig(enable_access_log=False, log_level="ERROR"),
)
class Model:
    def __init__(self) -> None:
        self.encoder = Encoder()
        self.runner = ThreadPoolExecutor(1)

    # What gathered while the last batch ran is the next one: waits of 5 and 10 ms measured worse, at 64 as at 1.
    @serve.batch(max_batch_size=MAX_ROWS, batch_wait_timeout_s=0.0)
    async def score(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        # Beside the loop, which takes the next requests meanwhile: a sixth more at 64 than on it, and less time at 1.
        return list(await asyncio.get_running_loop().run_in_executor(self.runner, self.encoder, rows))

    async def ModelInfer(self, request: Any) -> Any:
        row = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape[1:])
        score = await self.score(row)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        answer.outputs.add(name="score", datatype="FP32", shape=[1, 1])
        answer.raw_output_contents.append(score.tobytes())
        return answer

    async def ServerReady(self, _: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    async def ModelReady(self, _: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, _: Any) -> Any:
        return service_pb2.ServerMetadataResponse(name="ray-serve")

    async def ModelMetadata(self, request: Any) -> Any:
        kind = service_pb2.ModelMetadataResponse.TensorMetadata
        return service_pb2.ModelMetadataResponse(
            name=request.name,
            versions=["1"],
            inputs=[kind(name="events", datatype="FP32", shape=[-1, *self.dims()])],
            outputs=[kind(name="score", datatype="FP32", shape=[-1, 1])],
        )

    async def ModelConfig(self, request: Any) -> Any:
        return service_pb2.ModelConfigResponse(
            config=model_config_pb2.ModelConfig(
                name=request.name,
                max_batch_size=MAX_ROWS,
                input=[model_config_pb2.ModelInput(name="events", data_type="TYPE_FP32", dims=self.dims())],
                output=[model_config_pb2.ModelOutput(name="score", data_type="TYPE_FP32", dims=[1])],
            )
        )

    def dims(self) -> list[int]:
        return [-1 if self.encoder.ragged else 32, 16]


def main() -> None:
    grpc_port, http_port = int(sys.argv[1]), int(sys.argv[2])
    # Logical processors: the actors of Serve itself must find a place, whatever the machine has.
    ray.init(
        address="local", num_cpus=16, object_store_memory=200 << 20, include_dashboard=False,
        log_to_driver=False, logging_level=logging.ERROR, _temp_dir=str(Path.cwd() / "ray"),
    )  # fmt: skip
    serve.start(
        http_options={"port": http_port, "host": "127.0.0.1"},
        grpc_options=gRPCOptions(port=grpc_port, grpc_servicer_functions=[SERVICER]),
        logging_config=LoggingConfig(enable_access_log=False, log_level="ERROR"),
    )
    serve.run(Model.bind())  # the proxy finds by route whatever has one, over gRPC too
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())  # Ray put its own there
    stopped.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
