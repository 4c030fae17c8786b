"""Deployers where something fails half-way. Real processes: `test_local_deployer`; real Ray: `test_ray_loading`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headrace.config import ModelSettings, Settings
from headrace.serving import deploy, weights
from headrace.serving.deploy import LocalDeployer
from headrace.serving.deploy_ray import RayDeployer

W1 = Path(__file__).parents[3] / "benchmarks" / "repository" / "w1-encoder" / "1"


class Child:
    """A process that starts where it is the first of two, and no other."""

    def __init__(self, name: str, *_: object, **__: object) -> None:
        self.number = int(name[-1])
        self.running = self.refused = False

    async def start(self) -> None:
        if self.number:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.running = True

    async def stop(self) -> None:
        self.running = False


def test_a_version_that_finds_no_room_for_all_of_its_processes_leaves_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Child] = []

    def make(*given: Any, **more: Any) -> Child:
        made.append(Child(*given, **more))
        return made[-1]

    monkeypatch.setattr(deploy, "Child", make)
    settings = Settings(models={"w1-encoder": ModelSettings(replicas=2)})
    deployer = LocalDeployer(settings, "127.0.0.1:1", tmp_path / "headrace.yaml", {})

    async def main() -> None:
        for tries in (1, 2):  # the second one begins anew, and waits for nothing that was left
            with pytest.raises(BlockingIOError):
                await deployer.load(weights.read(W1))
            assert len(made) == 2 * tries
            assert not any(child.running for child in made)
            assert not deployer.children

    asyncio.run(asyncio.wait_for(main(), 5))


def test_what_serve_did_not_delete_can_be_unloaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its controller is away at times: the first unload fails, the next one must not fail over the first."""
    deleted: list[str] = []

    def delete(name: str) -> None:
        deleted.append(name)
        if len(deleted) == 1:
            raise TimeoutError("Serve's controller does not answer")

    deployer = RayDeployer(Settings(), "127.0.0.1:1")
    monkeypatch.setattr(deployer, "_start_ray", lambda: None)
    monkeypatch.setattr(deployer, "_run", lambda _: None)
    monkeypatch.setattr(deployer, "_delete", delete)

    async def main() -> None:
        await deployer.load(weights.read(W1))
        with pytest.raises(TimeoutError):
            await deployer.unload("w1-encoder", ["1"])
        await deployer.unload("w1-encoder", ["1"])

    asyncio.run(asyncio.wait_for(main(), 5))

    assert deleted == ["w1-encoder-1"] * 2
