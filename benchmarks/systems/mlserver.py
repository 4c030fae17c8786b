"""MLServer over gRPC with adaptive batching and a custom runtime.

It can batch equal shapes only (it joins whatever comes, and looks at the first shape): on W2 its callers pad to the cap
and send lengths, and the runtime takes the padding off again and buckets.
"""

from __future__ import annotations

import json
from pathlib import Path

import environments
import machine
from tritonclient.grpc import model_config_pb2, service_pb2

from systems.launch import CAP, INSIDE, MAX_ROWS, MODELS, Launch, peer_environment

MAX_BATCH_TIME_S = 0.005
"""At 64, 0.5 and 1 ms gave half to two thirds, 20 ms the same. A lone caller sits through it; 0 turns batching off."""
PARALLEL_WORKERS = 0
"""In the server's own process: a worker process, with its queue and pickles, gave 5 to 20 % less at 64 and at 1.

On a thread of its own beside the loop the model gave less as well."""


def launch(workload: str, folder: Path) -> Launch:
    http, grpc, metrics = (machine.free_port() for _ in range(3))
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "metrics_endpoint": None,  # with it every call goes through an interceptor
        "parallel_workers": PARALLEL_WORKERS,
        "logging_settings": {"version": 1, "root": {"level": "ERROR"}, "loggers": {"mlserver": {"level": "ERROR"}}},
    }
    inputs = inputs_of(workload)
    model = {
        "name": MODELS[workload],
        "implementation": "mlserver_runtime.Runtime",
        "platform": "headrace-bench",
        "versions": ["1"],
        "max_batch_size": MAX_ROWS,
        "max_batch_time": MAX_BATCH_TIME_S,
        "inputs": [{"name": name, "datatype": kind, "shape": [-1, *dims]} for name, kind, dims in inputs],
        "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}],
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "model_config.binpb").write_bytes(model_config(workload).SerializeToString())
    command = [str(environments.python_of("mlserver")), str(INSIDE / "mlserver_start.py"), str(folder)]
    return Launch(command, peer_environment(workload), f"127.0.0.1:{grpc}")


def inputs_of(workload: str) -> list[tuple[str, str, list[int]]]:
    if workload == "W1":
        return [("events", "FP32", [32, 16])]
    return [("events", "FP32", [CAP, 16]), ("length", "INT32", [1])]


def model_config(workload: str) -> service_pb2.ModelConfigResponse:
    inputs = [
        model_config_pb2.ModelInput(name=name, data_type=f"TYPE_{kind}", dims=dims)
        for name, kind, dims in inputs_of(workload)
    ]
    return service_pb2.ModelConfigResponse(
        config=model_config_pb2.ModelConfig(
            name=MODELS[workload],
            max_batch_size=MAX_ROWS,
            input=inputs,
            output=[model_config_pb2.ModelOutput(name="score", data_type="TYPE_FP32", dims=[1])],
        )
    )
