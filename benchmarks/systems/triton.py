"""NVIDIA Triton: its C++ server with the Python backend, out of the nvidia-pytriton wheel.

Queue delay 0: while the instance runs, requests gather to the next batch. One instance, as everywhere here: in
alternating starts on two cores a second one gave 2 to 4 % more of W1 at 64, 5 % less of W2 at 64, 15 % less of W1 at 1.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import environments
import machine

from systems.launch import CAP, INSIDE, MAX_ROWS, MODELS, Launch, packages_of, peer_environment

INSTANCES = 1
LOOK_AT_PYTHONPATH = "import os, sys\nsys.path[:0] = os.environ['PYTHONPATH'].split(os.pathsep)\n"
FIXED = 'input [{ name: "events", data_type: TYPE_FP32, dims: [32, 16] }]'
RAGGED = 'input [{ name: "events", data_type: TYPE_FP32, dims: [-1, 16], allow_ragged_batch: true }]'
PADDED = f"""input [
  {{ name: "events", data_type: TYPE_FP32, dims: [{CAP}, 16] }},
  {{ name: "length", data_type: TYPE_INT32, dims: [1] }}
]"""


def fixed(workload: str, folder: Path) -> Launch:
    return launch(workload, folder, FIXED, "triton_model.py")


def stock(workload: str, folder: Path) -> Launch:
    return launch(workload, folder, PADDED, "triton_padded_model.py")


def expert(workload: str, folder: Path) -> Launch:
    return launch(workload, folder, RAGGED, "triton_model.py")


def launch(workload: str, folder: Path, inputs: str, source: str) -> Launch:
    write_repository(folder / "repository" / MODELS[workload], inputs, source)
    packages = packages_of("triton")
    triton = Path(packages) / "pytriton" / "tritonserver"
    home = base_of(environments.python_of("triton"))
    http, grpc, metrics = (machine.free_port() for _ in range(3))
    command = [str(triton / "bin" / "tritonserver"), f"--model-repository={folder / 'repository'}"]
    command += [f"--backend-directory={assemble_backend(triton, folder)}", "--log-info=false", "--log-warning=false"]
    command += [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    environment = {
        **peer_environment(workload, packages),
        "PYTHONHOME": home,
        "LD_LIBRARY_PATH": f"{packages}/nvidia_pytriton.libs:{home}/lib",
    }
    return Launch(command, environment, f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}")


def write_repository(directory: Path, inputs: str, source: str) -> None:
    (directory / "1").mkdir(parents=True)
    shutil.copy(INSIDE / source, directory / "1" / "model.py")
    (directory / "config.pbtxt").write_text(f"""
backend: "python"
max_batch_size: {MAX_ROWS}
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
instance_group [{{ kind: KIND_CPU, count: {INSTANCES} }}]
{inputs}
output [{{ name: "score", data_type: TYPE_FP32, dims: [1] }}]
""")


def assemble_backend(triton: Path, folder: Path) -> Path:
    """The wheel keeps the stub of each Python version apart from the backend that looks for it beside itself.

    The stub's interpreter is isolated: it looks at no environment and no PYTHONPATH, so its first module is told to.
    """
    target = folder / "backends" / "python"
    shutil.copytree(triton / "backends" / "python", target)
    stub = triton / "python_backend_stubs" / sysconfig.get_python_version() / "triton_python_backend_stub"
    shutil.copy(stub, target)
    first = target / "triton_python_backend_utils.py"
    first.write_text(LOOK_AT_PYTHONPATH + first.read_text())
    return target.parent


def base_of(python: Path) -> str:
    """Where the interpreter of an environment lives: the stub embeds it, and knows no environments."""
    asked = [str(python), "-c", "import sys; print(sys.base_prefix)"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
