"""What control says of each version that a deployer knows: loaded, on its way, or gone. Fed by snapshots.

No word of it changes nothing: a control that has just started has not heard its deployer yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from headrace.v1 import control_pb2 as pb

CLOSED: Final = frozenset({pb.MODEL_PHASE_UNLOADING, pb.MODEL_PHASE_UNLOADED})
STATES: Final = {
    pb.MODEL_PHASE_LOADING: "LOADING",
    pb.MODEL_PHASE_UNLOADING: "UNLOADING",
    pb.MODEL_PHASE_LOADED: "UNAVAILABLE",  # those that answer are READY, which is not for control to say
    pb.MODEL_PHASE_UNLOADED: "UNAVAILABLE",
    pb.MODEL_PHASE_FAILED: "UNAVAILABLE",
}
"""Phase → state in the repository index; empty for what was never loaded. Source: Triton, `RepositoryIndex`."""
NO_REPLICA: Final = "no replica is ready"


class Repository:
    """Versions by model."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, pb.ModelVersion]] = {}
        self.news = asyncio.Event()
        """Set at every word, for whoever tells control how far the unloading is here."""

    def __iter__(self) -> Iterator[pb.ModelVersion]:
        return (one for versions in self._models.values() for one in versions.values())

    def apply(self, repository: pb.Repository) -> None:
        """Take over what control says, as a whole."""
        self._models = {}
        for one in repository.versions:
            self._models.setdefault(one.model, {})[one.version] = one
        self.news.set()

    def closed(self, model: str) -> frozenset[str]:
        """Versions that nobody may be sent to any more."""
        return frozenset(one.version for one in self._models.get(model, {}).values() if one.phase in CLOSED)

    def knows(self, model: str, version: str = "") -> bool:
        """Some version of this model, or this one, was loaded once or should have been."""
        versions = self._models.get(model, {})
        asked = [versions[version]] if version in versions else [] if version else versions.values()
        return any(one.phase != pb.MODEL_PHASE_FOUND for one in asked)

    def unloading(self) -> dict[int, str]:
        """Act → model of what is being unloaded."""
        return {one.act: one.model for one in self if one.phase == pb.MODEL_PHASE_UNLOADING and one.act}

    def state(self, model: str, version: str, *, opened: bool) -> tuple[str, str]:
        """What the index says of a version that does not answer: its state, and why. `opened`: it has answered here."""
        one = self._models.get(model, {}).get(version)
        if one is None:  # no deployer speaks of it: its replicas alone do, and none of them was ready yet, or is now
            return ("UNAVAILABLE", NO_REPLICA) if opened else ("LOADING", "")
        return STATES.get(one.phase, ""), NO_REPLICA if one.phase == pb.MODEL_PHASE_LOADED else one.reason
