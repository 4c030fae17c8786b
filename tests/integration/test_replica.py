"""A replica behind a real socket, registered with a real control: who it answers, whom it refuses, how it leaves.

Its model adds up two numbers, and does whatever the first of them asks for; it waits while the file `gate` exists.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from safetensors.numpy import save_file

from headrace.channel import STAMPS
from headrace.config import ControlSettings, ModelSettings, ReplicaSettings, Settings
from headrace.control.server import ControlServer
from headrace.errors import StartupError
from headrace.serving import weights
from headrace.serving.health import LIVE
from headrace.serving.replica import ReplicaServer
from headrace.telemetry import context
from headrace.v1 import control_pb2, control_pb2_grpc, replica_pb2, replica_pb2_grpc
from headrace_models import spec as disk

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")

MODEL = """
import time
from pathlib import Path
import torch

class Obedient(torch.nn.Module):
    def __init__(self, folder):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))
        self.gate, self.seen = Path(folder) / "gate", Path(folder) / "seen"

    def forward(self, inputs, lengths):
        x = inputs["x"]
        with self.seen.open("a") as seen:
            seen.write(f"{x[0, 0]:g}\\n")
        while self.gate.exists():
            time.sleep(0.001)
        if (x[:, 0] == 13).any():
            raise ValueError("unlucky")
        if (x[:, 0] == 99).any():
            raise torch.AcceleratorError("device-side assert")
        return {"sum": x.sum(1, keepdim=True) + self.bias}

def build(config):
    return Obedient(**config)
"""
Run = Callable[..., Any]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
OK, FAILED = replica_pb2.ROW_STATUS_OK, replica_pb2.ROW_STATUS_FAILED
WARMING = control_pb2.REPLICA_STATE_WARMING
READY = control_pb2.REPLICA_STATE_READY
DRAINING = control_pb2.REPLICA_STATE_DRAINING


MAPPED = "203.0.113.9"
"""Nobody's, by RFC 5737."""


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(8):
        while not condition():
            await asyncio.sleep(0.002)


class Model:
    """A model version on disk whose forward pass a test holds and lets go."""

    def __init__(self, folder: Path, bias: float = 0.0) -> None:
        self.directory = folder / "obedient" / "1"
        self.directory.mkdir(parents=True)
        self.gate, self._seen = folder / "gate", folder / "seen"
        weights_file = self.directory / "weights.safetensors"
        save_file({"bias": np.full(1, bias, np.float32)}, weights_file)
        np.savez(
            self.directory / "golden.npz", **{"input.x": np.ones((1, 2), "<f4"), "output.sum": np.array([[2]], "<f4")}
        )
        (self.directory / "model.py").write_text(MODEL)
        spec = {
            "name": "obedient",
            "version": 1,
            "factory": "model.py:build",
            "config": {"folder": str(folder)},
            "inputs": [{"name": "x", "datatype": "FP32", "dims": [2]}],
            "outputs": [{"name": "sum", "datatype": "FP32", "dims": [1]}],
            "weights": weights_file.name,
            "digest": disk.digest(weights_file),
            "golden": "golden.npz",
        }
        (self.directory / "spec.yaml").write_text(yaml.safe_dump(spec))

    def hold(self) -> None:
        """From now on a forward pass does not end."""
        self.gate.touch()

    def let_go(self) -> None:
        self.gate.unlink()

    @property
    def seen(self) -> list[float]:
        """The first number of every batch whose forward pass has begun; golden rows and warm-up left out."""
        return [number for number in map(float, self._seen.read_text().split()) if number > 1]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path)


class Rig:
    """A replica, its control and a channel to each."""

    def __init__(self, replica: ReplicaServer, control: ControlServer) -> None:
        self.replica = replica
        self.control_address = f"127.0.0.1:{control.port}"

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        async with (
            aio.insecure_channel(f"127.0.0.1:{self.replica.port}") as channel,
            aio.insecure_channel(self.control_address) as to_control,
        ):
            self._stub = replica_pb2_grpc.ReplicaStub(channel)
            self._health = health_pb2_grpc.HealthStub(channel)
            self._directory = control_pb2_grpc.ControlStub(to_control)
            yield

    def execute(self, *firsts: float, timeout_s: float = 10, **header: str) -> Any:
        """A call with a batch of the rows (first, 1)."""
        addressee = {"replica_id": self.replica.replica_id, "model": "obedient", "version": "1"} | header
        batch = replica_pb2.PackedBatch(
            **addressee,
            rows=len(firsts),
            columns=[np.array([(first, 1) for first in firsts], "<f4").tobytes()],
            remaining_s=np.full(len(firsts), np.inf, "<f8").tobytes(),
            context=context.pack(b"t" * 16, 7, sampled=True),
        )
        return self._stub.Execute(batch, timeout=timeout_s)

    async def received(self) -> None:
        """Until the replica has whatever was sent before: a call that it refuses at once goes the same way."""
        await self.execute(9, model="another").code()

    async def health(self, service: str = "") -> int:
        return (await self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=2)).status

    async def until_health(self, status: int) -> None:
        async with asyncio.timeout(8):
            while await self.health() != status:
                await asyncio.sleep(0.02)

    async def states(self) -> list[int]:
        """What control says of the replicas it knows."""
        snapshot = await self._directory.Describe(control_pb2.DescribeRequest(), timeout=2)
        return [entry.state for entry in snapshot.replicas]

    async def until_states(self, states: list[int]) -> None:
        async with asyncio.timeout(8):
            while await self.states() != states:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def replica(model: Model, **settings: float) -> AsyncIterator[Rig]:
    """A replica that has started, or is still warming up where the gate is shut."""
    of_replica = ReplicaSettings(**{"notice_s": 0.0, "grace_s": 2.0, **settings})
    async with ControlServer(Settings(control=ControlSettings(port=0, ledger=":memory:"))) as control:
        found = weights.read(model.directory)
        server = ReplicaServer(found, of_replica, ModelSettings(), f"127.0.0.1:{control.port}")
        starting = asyncio.create_task(server.start("127.0.0.1"))
        await eventually(lambda: starting.done() or (server.port and model.gate.exists()))
        rig = Rig(server, control)
        async with rig.connected():
            try:
                yield rig
            finally:
                model.gate.unlink(missing_ok=True)
                await starting
                await server.stop()


def sums(answer: replica_pb2.PackedAnswer) -> list[float]:
    return np.frombuffer(answer.columns[0], "<f4").tolist()


def test_a_batch_is_answered_row_by_row_with_the_stamps_of_every_stage(run: Run, model: Model) -> None:
    async def main() -> None:
        async with replica(model) as rig:
            answer = await rig.execute(2, 3, 4)

            assert sums(answer) == [3, 4, 5]
            assert list(answer.status) == [OK] * 3
            stages = ("received", "started", "unpacked", "copied", "computed", "fetched", "packed")
            stamps = [getattr(answer.stamps, f"{stage}_ns") for stage in stages]
            assert stamps == sorted(stamps)
            assert abs(stamps[0] / 1e9 - time.time()) < 5

    run(main())


@pytest.mark.parametrize("header", [{"replica_id": "another"}, {"model": "another"}, {"version": "2"}])
def test_a_batch_for_somebody_else_is_refused(run: Run, model: Model, header: dict[str, str]) -> None:
    """A port may have come back for another model: a wrong answer would be worse than none."""

    async def main() -> None:
        async with replica(model) as rig:
            assert await rig.execute(2, **header).code() is grpc.StatusCode.FAILED_PRECONDITION
            assert not model.seen

    run(main())


def test_a_full_queue_refuses_and_the_batches_it_holds_are_answered(run: Run, model: Model) -> None:
    async def main() -> None:
        async with replica(model, queue_batches=2) as rig:
            model.hold()
            running = rig.execute(2)
            await eventually(lambda: model.seen == [2])
            waiting = [rig.execute(3), rig.execute(4)]
            await rig.received()
            refused = [await rig.execute(5 + i).code() for i in range(3)]
            model.let_go()
            answers = await asyncio.gather(running, *waiting)

            assert refused == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 3
            assert [sums(answer) for answer in answers] == [[3], [4], [5]]
            assert [answer.queued for answer in answers] == [2, 1, 0]

    run(main())


def test_a_batch_that_was_cancelled_while_it_waited_never_runs(run: Run, model: Model) -> None:
    async def main() -> None:
        async with replica(model, queue_batches=1) as rig:
            model.hold()
            running = rig.execute(2)
            await eventually(lambda: model.seen == [2])
            gone = rig.execute(3)
            await rig.received()
            assert await rig.execute(4).code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # so `gone` is in the queue
            gone.cancel()
            await rig.received()
            model.let_go()
            await running
            await rig.execute(5)

            assert model.seen == [2, 5]

    run(main())


def test_a_batch_whose_call_ran_out_of_time_while_it_waited_never_runs(run: Run, model: Model) -> None:
    async def main() -> None:
        async with replica(model) as rig:
            model.hold()
            running = rig.execute(2)
            await eventually(lambda: model.seen == [2])
            late = await rig.execute(3, timeout_s=0.05).code()
            await rig.received()
            model.let_go()
            await running
            await rig.execute(4)

            assert late is grpc.StatusCode.DEADLINE_EXCEEDED
            assert model.seen == [2, 4]

    run(main())


def test_a_bad_row_is_marked_and_a_batch_of_bad_rows_is_an_error(run: Run, model: Model) -> None:
    async def main() -> None:
        async with replica(model) as rig:
            answer = await rig.execute(2, 13, 4)

            assert list(answer.status) == [OK, FAILED, OK]
            assert sums(answer) == [3, 0, 5]
            failed = rig.execute(13)
            assert await failed.code() is grpc.StatusCode.INTERNAL
            stamps = replica_pb2.Stamps.FromString((await failed.trailing_metadata())[STAMPS])
            assert 0 < stamps.received_ns <= stamps.started_ns <= stamps.unpacked_ns <= stamps.packed_ns
            assert stamps.computed_ns == 0
            assert await rig.health() == SERVING

    run(main())


def test_a_replica_that_warms_up_is_known_and_alive_but_takes_no_batches(run: Run, model: Model) -> None:
    async def main() -> None:
        model.hold()
        async with replica(model) as rig:
            await rig.until_states([WARMING])
            assert await rig.health() == NOT_SERVING
            assert await rig.health(LIVE) == SERVING
            assert await rig.execute(2).code() is grpc.StatusCode.UNAVAILABLE

            model.let_go()
            await rig.until_states([READY])
            assert await rig.health() == SERVING
            assert sums(await rig.execute(2)) == [3]

    run(main())


def own_address() -> str:
    """One that others reach this machine by, and loopback does not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but its own")
        return str(probe.getsockname()[0])


def speaks_six() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


def test_replicas_that_share_an_address_have_a_port_of_the_range_each_and_one_too_many_says_so(
    run: Run, model: Model, free_port: int
) -> None:
    """As several replicas of one pod start, all at once. The range is larger: somebody else may have a port of it."""
    ports = free_port, free_port + 5
    of_replica = ReplicaSettings(notice_s=0.0, ports=ports)

    async def main() -> tuple[list[int], list[str], StartupError | None]:
        found = weights.read(model.directory)
        many = [ReplicaServer(found, of_replica, ModelSettings(), "") for _ in range(7)]
        try:
            outcomes = await asyncio.gather(*(one.start("127.0.0.1") for one in many), return_exceptions=True)
            started = [one for one, outcome in zip(many, outcomes, strict=True) if outcome is None]
            answers = []
            for one in started:
                async with aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
                    addressee = {"replica_id": "nobody", "model": "obedient", "version": "1"}
                    call = replica_pb2_grpc.ReplicaStub(channel).Execute(replica_pb2.PackedBatch(**addressee))
                    answers.append((await call.details()).split(",")[0])
            errors = [outcome for outcome in outcomes if isinstance(outcome, StartupError)]
            return [one.port for one in started], answers, errors[0] if errors else None
        finally:
            await asyncio.gather(*(one.stop() for one in many))

    taken, answers, error = run(main())

    assert len(taken) == len(set(taken)) >= 2
    assert all(ports[0] <= port <= ports[1] for port in taken)
    assert len(set(answers)) == len(taken)  # each is itself behind its own port
    assert "more replicas than ports" in str(error)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "one of its own", MAPPED])
def test_a_replica_listens_where_it_says(run: Run, model: Model, host: str) -> None:
    """An address that the machine does not have is mapped to it: then it listens everywhere."""
    away = own_address()
    if host == "::1" and not speaks_six():
        pytest.skip("this machine has no IPv6")
    host = host.replace("one of its own", away)

    def reached(address: str, port: int) -> bool:
        try:
            socket.create_connection((address, port), timeout=2).close()
        except OSError:
            return False
        return True

    async def main() -> tuple[bool, ...]:
        async with ControlServer(Settings(control=ControlSettings(port=0, ledger=":memory:"))) as control:
            found = weights.read(model.directory)
            settings = ReplicaSettings(notice_s=0)
            replica = ReplicaServer(found, settings, ModelSettings(), f"127.0.0.1:{control.port}")
            try:
                await replica.start(host)
                return tuple(reached(address, replica.port) for address in ("127.0.0.1", "::1", away))
            finally:
                await replica.stop()

    at_four, at_six, at_away = run(main())

    assert at_four == (host in ("127.0.0.1", "localhost", MAPPED))
    assert at_away == (host in (away, MAPPED))
    assert at_six == (host == "::1") or host == "localhost"


def test_a_batch_that_hangs_turns_the_health_bad_until_it_ends(run: Run, model: Model) -> None:
    async def main() -> None:
        async with replica(model, max_batch_s=0.1) as rig:
            model.hold()
            hanging = rig.execute(2)
            await rig.until_health(NOT_SERVING)
            assert await rig.health(LIVE) == NOT_SERVING
            with pytest.raises(RuntimeError, match="has been running"):
                rig.replica.assert_healthy()

            model.let_go()
            await hanging
            await rig.until_health(SERVING)
            rig.replica.assert_healthy()

    run(main())


def test_a_replica_that_has_lost_its_device_asks_for_no_more_batches(run: Run, model: Model) -> None:
    async def main() -> None:
        async with replica(model) as rig:
            await rig.until_states([READY])
            assert await rig.execute(99).code() is grpc.StatusCode.INTERNAL
            await rig.until_states([DRAINING])
            await rig.until_health(NOT_SERVING)
            with pytest.raises(RuntimeError, match="device"):
                rig.replica.assert_healthy()

    run(main())


def test_a_stopping_replica_says_so_first_then_answers_what_it_has_and_what_still_comes(run: Run, model: Model) -> None:
    async def main() -> None:
        async with replica(model, notice_s=0.3) as rig:
            await rig.until_states([READY])
            model.hold()
            running = rig.execute(2)
            await eventually(lambda: model.seen == [2])
            staged = rig.execute(3)
            stopping = asyncio.create_task(rig.replica.stop())
            await rig.until_states([DRAINING])
            assert not stopping.done()
            unaware = rig.execute(4)  # its gateway has not heard yet
            await rig.received()
            model.let_go()

            answers = await asyncio.gather(running, staged, unaware)
            await stopping
            assert [sums(answer) for answer in answers] == [[3], [4], [5]]
            assert await rig.states() == []  # a goodbye: nobody waits for its lease
            assert await rig.execute(5).code() is grpc.StatusCode.UNAVAILABLE

    run(main())


def test_stopping_does_not_wait_for_a_batch_beyond_its_grace(run: Run, model: Model) -> None:
    async def main() -> None:
        async with replica(model, grace_s=0.1) as rig:
            model.hold()
            hanging = rig.execute(2)
            await eventually(lambda: model.seen == [2])
            async with asyncio.timeout(2):
                await rig.replica.stop()

            assert await hanging.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

    run(main())


def test_another_digest_for_a_version_that_is_served_is_refused_for_good(
    run: Run, model: Model, tmp_path: Path
) -> None:
    async def main() -> None:
        other = Model(tmp_path / "other", bias=1e-7)
        async with replica(model) as rig:
            await rig.until_states([READY])
            found = weights.read(other.directory)
            intruder = ReplicaServer(found, ReplicaSettings(), ModelSettings(), rig.control_address)
            try:
                await intruder.start("127.0.0.1")
                with pytest.raises(StartupError, match="digest"):
                    await intruder.registration.wait_registered()
            finally:
                await intruder.stop()

    run(main())
