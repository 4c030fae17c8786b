"""Ray Serve with its own gRPC proxy and `@serve.batch`, tuned."""

from __future__ import annotations

from pathlib import Path

import environments
import machine

from systems.launch import INSIDE, Launch, peer_environment

TUNED = {
    # A bundle: one loop for router and user code, fewer logs. It brings a direct ingress too, which measured no
    # better here and leaves worker nodes unready on Kubernetes.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    # gRPC between proxy and replica. In the bundle by name, but the proxy has made up its mind before that is read.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_worker_niceness": "0",  # else its workers give way to every other process on the two cores
    "RAY_USAGE_STATS_ENABLED": "0",
}


def launch(workload: str, _: Path) -> Launch:
    port, http = machine.free_port(), machine.free_port()
    command = [str(environments.python_of("ray-serve")), str(INSIDE / "ray_serve_start.py"), str(port), str(http)]
    return Launch(command, {**peer_environment(workload), **TUNED}, f"127.0.0.1:{port}")
