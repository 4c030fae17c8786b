"""The models this gateway knows: which versions there are, which lane serves each, which one answers.

Fed by control's snapshots, read by the servicer. A lane, once open, stays while its replicas answer, whatever a
later snapshot leaves out: nothing on the payment path waits for control.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from headrace.config import Settings
from headrace.core.clock import Clock
from headrace.core.records import BatchRecord
from headrace.core.routing import parse_version, primary
from headrace.core.tensors import Axis, ModelSpec, Signal, TensorSpec
from headrace.errors import NotReady, NotServing, UnknownModel
from headrace.gateway.lane import Lane
from headrace.gateway.link import Sender
from headrace.gateway.pressure import Pressure
from headrace.v1 import control_pb2


@dataclass(slots=True)
class Model:
    """One model: a lane per version, and the version the policy names."""

    name: str
    primary: str = ""
    lanes: dict[str, Lane] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    """Versions that have been ready at least once."""
    answering: str | None = None
    """The version that answers who names none, as of the last look."""

    def in_charge(self) -> str | None:
        """The version that answers who names none: the policy's, or the highest that is ready."""
        lane = self.lanes.get(self.answering or "")
        if lane is None or not lane.ready:
            self.look()
        return self.answering

    def look(self) -> None:
        """See anew who is in charge. Done whenever replicas come or go, not for every request."""
        self.answering = self.primary or primary("", self.ready_versions() or self.opened)

    def ready_versions(self) -> list[str]:
        return sorted((version for version, lane in self.lanes.items() if lane.ready), key=int)


class Models:
    """Every lane of a gateway."""

    def __init__(
        self,
        settings: Settings,
        sender: Sender,
        clock: Clock,
        pressure: Pressure,
        on_batch: Callable[[BatchRecord], None],
        on_closed: Callable[[str, str], None],
    ) -> None:
        self._settings = settings
        self._sender = sender
        self._clock = clock
        self._pressure = pressure
        self._on_batch = on_batch
        self._on_closed = on_closed
        self._models: dict[str, Model] = {}
        self._informed = False
        """A snapshot has come: before, nobody can say that a model is unknown."""

    def __iter__(self) -> Iterator[Model]:
        """Of a copy: a scraper's thread walks here too, while the loop opens and closes lanes."""
        return iter(list(self._models.values()))

    def lanes(self) -> list[Lane]:
        return [lane for model in self for lane in list(model.lanes.values())]

    def apply(self, snapshot: control_pb2.Snapshot) -> None:
        """Follow control: open lanes for new versions, tell every lane who its replicas are."""
        self._informed = True
        wanted = {policy.model: policy.primary_version for policy in snapshot.policies}
        groups: dict[tuple[str, str], list[control_pb2.Registration]] = defaultdict(list)
        for registration in snapshot.replicas:
            groups[registration.spec.name, registration.spec.version].append(registration)
        for name, version in groups:
            self._open(name, version, groups[name, version][0].spec)
        for model in self:
            model.primary = wanted.get(model.name, self._settings.model(model.name).primary_version)
            for version, lane in model.lanes.items():
                lane.dispatcher.update(groups.get((model.name, version), ()))
                if lane.ready:
                    model.opened.add(version)
            model.look()

    def find(self, name: str, version: str) -> Lane:
        """The lane that answers for this model and version ("" = whichever is in charge).

        A version that has been ready keeps its lane open while its replicas are away: its riders wait, within
        their deadlines. Raises: UnknownModel, NotReady, InvalidInference, with Triton's sentences.
        """
        model = self._models.get(name)
        if model is None and not self._informed:
            raise NotServing("this gateway is starting: it has not heard yet which models there are")
        if model is None:
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        wanted = parse_version(version) or model.in_charge()
        if wanted is None:
            raise UnknownModel(f"Request for unknown model: '{name}' has no available versions")
        lane = model.lanes.get(wanted)
        if lane is None:
            raise UnknownModel(f"Request for unknown model: '{name}' version {wanted} is not found")
        if wanted not in model.opened:
            raise NotReady(f"Request for unknown model: '{name}' version {wanted} is not at ready state")
        return lane

    def all_ready(self) -> bool:
        """There is a model, and every model has a version that answers."""
        return bool(self._models) and all(model.ready_versions() for model in self)

    async def retire(self) -> None:
        """Close the lanes that have had neither replica nor rider for a while: versions come and go for ever."""
        for model in self:
            model.look()
            for version, lane in list(model.lanes.items()):
                if lane.idle_s() > self._settings.gateway.retire_after_s:
                    del model.lanes[version]
                    model.opened.discard(version)
                    model.look()
                    await lane.close()
                    self._on_closed(model.name, version)
            if not model.lanes:
                del self._models[model.name]

    async def close(self) -> None:
        for lane in self.lanes():
            await lane.close()

    def _open(self, name: str, version: str, spec: control_pb2.ModelSpec) -> None:
        model = self._models.setdefault(name, Model(name))
        if version not in model.lanes:
            batching = self._settings.model(name).batching
            model.lanes[version] = Lane(
                _spec(spec), batching, self._sender, self._clock, self._pressure, self._on_batch
            )


def _spec(wire: control_pb2.ModelSpec) -> ModelSpec:
    return ModelSpec(
        name=wire.name,
        version=wire.version,
        digest=wire.digest,
        inputs=_tensors(wire.inputs),
        outputs=_tensors(wire.outputs),
        axes=tuple(Axis(axis.name, axis.cap, axis.required) for axis in wire.axes),
        max_rows=wire.max_rows,
        max_tokens=wire.max_tokens,
        platform=wire.platform,
        extras=_tensors(wire.extras),
        signal=Signal(wire.signal.name, wire.signal.calibration_version) if wire.HasField("signal") else None,
    )


def _tensors(wire: Iterable[control_pb2.TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=tensor.name,
            datatype=tensor.datatype,
            dims=tuple(tensor.dims),
            axis=tensor.axis or None,
            finite=tensor.finite,
            minimum=tensor.minimum if tensor.bounded_below else None,
            ordered=tensor.ordered,
            optional=tensor.optional,
            labels=tuple(tensor.labels),
            costs_rows=tensor.costs_rows,
        )
        for tensor in wire
    )
