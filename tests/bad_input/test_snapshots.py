"""Whatever control says of one model, a gateway goes on with the others, and takes over what is right again."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from grpc import aio
from tests.fuzz.mutation import mutated
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.gateway.server import Gateway
from headrace.testing.control import FakeControl
from headrace.testing.gateway import settings
from headrace.testing.replica import ECHO_SPEC, FakeReplica
from headrace.v1 import control_pb2

Run = Callable[..., Any]
SNAPSHOTS = 200


def other() -> control_pb2.Registration:
    """A replica of another model, that is not there."""
    found = control_pb2.Registration(
        replica_id="other", endpoint="127.0.0.1:9", spec=ECHO_SPEC, state=control_pb2.REPLICA_STATE_READY, host="h"
    )
    found.spec.name = "other"
    found.spec.extras.add(name="why", datatype="FP32", dims=[2], labels=["a", "b"], costs_rows=2)
    found.spec.signal.name = "fraud"
    return found


def policy() -> control_pb2.TrafficPolicy:
    found = control_pb2.TrafficPolicy(model="other", primary_version="1", revision=1)
    found.canary.share = 0.5
    found.shadows.add(experiment_id="e", incumbent="1", challenger="2", share=1, timeout_ms=10, max_in_flight_rows=8)
    return found


def test_what_control_says_wrongly_of_a_model_is_no_matter_of_the_others(run: Run, tmp_path: Path) -> None:
    async def main() -> list[float]:
        source, found = random.Random(5), []
        new_spec = control_pb2.ModelSpec.FromString(ECHO_SPEC.SerializeToString())
        new_spec.name = "new"
        async with FakeControl() as control, FakeReplica() as echo, FakeReplica(new_spec) as new:
            await control.say([echo.registration])
            async with Gateway(settings(tmp_path), control.address) as gateway:
                await gateway.wait_ready(10)
                async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

                    async def ask(model: str, key: int) -> float:
                        columns = {"events": np.ones((1, 2, 2), np.float32), "key": np.array([[key]], np.int64)}
                        answer = await stub.ModelInfer(request(model, columns), timeout=5)
                        return float(np.frombuffer(answer.raw_output_contents[0])[0]) - key

                    wrong = other()
                    for key in range(SNAPSHOTS):
                        said = control_pb2.Snapshot(version=key + 2, epoch="fake")
                        said.replicas.extend([mutated(wrong, source), echo.registration, mutated(wrong, source)])
                        said.policies.append(mutated(policy(), source))
                        gateway.models.apply(said)
                        found.append(await ask("echo", key))
                    gateway.models.apply(control_pb2.Snapshot(version=999, replicas=[new.registration]))
                    found.append(await ask("new", 1))
        return found

    assert run(main()) == [4.0] * (SNAPSHOTS + 1)
