"""The models this gateway knows: which versions there are, which lane serves each, which one answers.

Fed by control's snapshots, read by the servicer. A lane, once open, stays while its replicas answer, whatever a
later snapshot leaves out: nothing on the payment path waits for control.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial

from headrace.config import FallbackSettings, Settings
from headrace.core.routing import Policy, is_version, parse_version, primary
from headrace.errors import InvalidInference, NotReady, NotServing, UnknownModel
from headrace.gateway import wire
from headrace.gateway.comparisons import Comparisons, MakeNotes
from headrace.gateway.fallback import Fallback
from headrace.gateway.lane import Lane
from headrace.gateway.repository import Repository
from headrace.gateway.shadow import Surroundings
from headrace.v1 import control_pb2

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Model:
    """One model: a lane per version, and the policy that says which of them answers."""

    name: str
    policy: Policy = Policy()  # noqa: RUF009  it is frozen
    lanes: dict[str, Lane] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    """Versions that have been ready at least once."""
    closed: frozenset[str] = frozenset()
    """Versions that are unloaded, or about to be: what waits for them is answered, and nobody comes any more."""
    answering: str | None = None
    """The version in charge, as of the last look."""
    without_entity: int = 0
    """Requests that came without a key while there was a canary: the primary has answered them."""
    canary_away: int = 0
    """Requests that the primary answered because the canary had no replica."""

    def choose(self, entity: str) -> str | None:
        """The version that answers a request about this entity: the canary, or the one in charge."""
        canary = self.policy.canary
        if canary is not None:
            if not entity:
                self.without_entity += 1
            elif canary.takes(entity):
                lane = self.lanes.get(canary.version)
                if lane is not None and lane.ready and canary.version in self.opened:
                    return canary.version
                self.canary_away += 1  # an answer by the primary is worth more than none
        return self.in_charge()

    def in_charge(self) -> str | None:
        """The primary: the policy's, or the highest that is ready."""
        lane = self.lanes.get(self.answering or "")
        if lane is None or not lane.ready:
            self.look()
        return self.answering

    def look(self) -> None:
        """See anew who is in charge. Done whenever replicas come or go, not for every request."""
        open_ones = self.ready_versions() or self.opened
        wanted = self.policy.primary
        if wanted in self.closed and not open_ones:
            wanted = ""  # it was not lost, it was taken away: there is nothing to wait for
        self.answering = primary(wanted, open_ones)
        for version, lane in self.lanes.items():
            canary = version != self.answering and self._is_canary(version)
            lane.path = "canary" if canary else "primary"
            lane.answers = canary or version == self.answering

    def _is_canary(self, version: str) -> bool:
        return self.policy.canary is not None and self.policy.canary.version == version

    def ready_versions(self) -> list[str]:
        """Those that answer whoever comes."""
        return sorted((v for v, lane in self.lanes.items() if lane.ready and v not in self.closed), key=int)


class Models:
    """Every lane of a gateway."""

    def __init__(
        self, settings: Settings, around: Surroundings, on_closed: Callable[[str, str], None], notes: MakeNotes
    ) -> None:
        self._settings = settings
        self._around = around
        self._on_closed = on_closed
        self.comparisons = Comparisons(around, self.strained, notes)
        self.repository = Repository()
        self._models: dict[str, Model] = {}
        self.informed = False
        """A snapshot has come: before, nobody can say that a model is unknown."""
        self._heard = ("", 0)
        """Epoch and version of the last snapshot."""
        self._left_out: set[tuple[str, str]] = set()
        """Versions of the last snapshot that could not be taken over: each is told once."""

    def __iter__(self) -> Iterator[Model]:
        """Of a copy: a scraper's thread walks here too, while the loop opens and closes lanes."""
        return iter(list(self._models.values()))

    def names(self) -> list[str]:
        """Those that models have given to themselves, their tensors and their axes."""
        specs = [lane.spec for lane in self.lanes()]
        named = [*((spec,) for spec in specs), *(part for s in specs for part in (s.inputs, s.answers, s.axes))]
        return [each.name for group in named for each in group]

    def lanes(self) -> list[Lane]:
        return [lane for model in self for lane in list(model.lanes.values())]

    def apply(self, snapshot: control_pb2.Snapshot) -> None:
        """Follow control: open lanes for new versions, tell every lane who its replicas are."""
        self.informed = True
        self._heard = snapshot.epoch, snapshot.version
        if snapshot.HasField("repository"):
            self.repository.apply(snapshot.repository)
        policies = {policy.model: wire.policy(policy) for policy in snapshot.policies}
        groups: dict[tuple[str, str], list[control_pb2.Registration]] = defaultdict(list)
        for registration in snapshot.replicas:
            groups[registration.spec.name, registration.spec.version].append(registration)
        self._left_out &= groups.keys()
        for name, version in groups:
            with self._apart(name, version):
                self._open(name, version, groups[name, version][0].spec)
        for model in self:
            default = Policy(self._settings.model(model.name).primary_version)
            model.policy = policies.get(model.name, default)
            model.closed = self.repository.closed(model.name)
            model.opened -= model.closed
            for version, lane in model.lanes.items():
                with self._apart(model.name, version):
                    lane.dispatcher.update(groups.get((model.name, version), ()))
                if lane.ready and version not in model.closed:
                    model.opened.add(version)
            model.look()
            with self._apart(model.name, "as compared"):
                self.comparisons.follow(model.name, model.policy, model.lanes, groups)

    def find(self, name: str, version: str, entity: str = "") -> Lane:
        """The lane that answers for this model and version ("" = whichever the policy chooses for this entity).

        A version that has been ready keeps its lane open while its replicas are away: its riders wait, within
        their deadlines. Raises: UnknownModel, NotReady, InvalidInference, with Triton's sentences.
        """
        model = self._models.get(name)
        if model is None and not self.informed:
            raise NotServing("this gateway is starting: it has not heard yet which models there are")
        if model is None:
            raise self._unknown(name, version)
        wanted = parse_version(version) or model.choose(entity)
        if wanted is None:
            raise UnknownModel(f"Request for unknown model: '{name}' has no available versions")
        lane = model.lanes.get(wanted)
        if lane is None and version:
            raise self._unknown_version(name, wanted)
        if lane is None or wanted not in model.opened:  # where the caller names none, it is not the caller's mistake
            raise NotReady(f"Request for unknown model: '{name}' version {wanted} is not at ready state")
        return lane

    def _unknown(self, name: str, version: str) -> UnknownModel | NotReady:
        """What to say of a model without a lane: of one that was unloaded, something else than of one never seen."""
        if not self.repository.knows(name):
            return UnknownModel(f"Request for unknown model: '{name}' is not found")
        if not (wanted := parse_version(version)):
            return UnknownModel(f"Request for unknown model: '{name}' has no available versions")
        return self._unknown_version(name, wanted)

    def _unknown_version(self, name: str, version: str) -> UnknownModel | NotReady:
        asked = f"Request for unknown model: '{name}' version {version}"
        if self.repository.knows(name, version):
            return NotReady(f"{asked} is not at ready state")
        return UnknownModel(f"{asked} is not found")

    def heard(self, epoch: str, version: int) -> bool:
        """Control's snapshot of this version has been taken over, or a later one of the same epoch."""
        return self._heard[0] == epoch and self._heard[1] >= version

    def settled(self, name: str, versions: Collection[str]) -> bool:
        """Each of these versions is ready, or is unloaded again already."""
        model = self._models.get(name)
        ready = model.ready_versions() if model else []
        return {*ready, *self.repository.closed(name)}.issuperset(versions)

    def drained(self, name: str) -> bool:
        """Nothing is held any more of those versions of a model that are closed."""
        model = self._models.get(name)
        return model is None or all(model.lanes[v].empty for v in model.closed & model.lanes.keys())

    def _stand_in(self, lane: Lane, settings: FallbackSettings) -> Lane | None:
        """Who is asked when `lane` has no answer; None = nobody who is ready. Never a later version: it is unproven."""
        own, version = self._models.get(lane.spec.name), settings.version
        if settings.model:
            own = self._models.get(settings.model)
            version = (own.in_charge() or "") if own else ""
        elif version == "previous" and own:
            earlier = [one for one in own.ready_versions() if int(one) < int(lane.spec.version)]
            version = earlier[-1] if earlier else ""
        found = own.lanes.get(version) if own else None
        return found if found is not None and found is not lane and found.ready else None

    def strained(self) -> bool:
        """Payments wait for more than one turn of a lane's replicas: no moment for copies."""
        return any(lane.strained for model in self._models.values() for lane in model.lanes.values())

    def all_ready(self) -> bool:
        """There is a model, and every model has a version that answers; those that are unloaded need none."""
        loaded = [model for model in self if model.lanes.keys() - model.closed]
        return bool(loaded) and all(model.ready_versions() for model in loaded)

    async def retire(self) -> None:
        """Close the lanes that have had neither replica nor rider for a while: versions come and go for ever.

        Not those in charge that somebody stands in for: what an outage is answered by must not end in the middle of it.
        """
        for model in self:
            model.look()
            for version, lane in list(model.lanes.items()):
                # What is unloaded may come back as something else.
                patience_s = 0.0 if version in model.closed else self._settings.gateway.retire_after_s
                if lane.idle_s() > patience_s and (version in model.closed or not lane.answered_otherwise):
                    del model.lanes[version]
                    model.opened.discard(version)
                    model.look()
                    self.comparisons.without(lane)
                    await lane.close()
                    self._on_closed(model.name, version)
            if not model.lanes:
                del self._models[model.name]

    async def close(self) -> None:
        await self.comparisons.close()
        for lane in self.lanes():
            await lane.close()

    @contextlib.contextmanager
    def _apart(self, name: str, version: str) -> Iterator[None]:
        """What can't be taken over of one version is left out, and stops no other one."""
        try:
            yield
        except Exception:  # whatever a stranger's replica says of itself
            if (name, version) not in self._left_out:
                self._left_out.add((name, version))
                log.exception("version %.32s of '%.256s' could not be taken over", version, name)

    def _open(self, name: str, version: str, spec: control_pb2.ModelSpec) -> None:
        model = self._models.get(name) or Model(name)
        if version in model.lanes:
            return
        if not is_version(version):
            raise InvalidInference("a version is an integer from 1, in up to 18 digits")
        batching = self._settings.model(name).batching
        around = self._around
        lane = Lane(wire.spec(spec), batching, around.sender, around.clock, around.pressure, around.on_batch)
        model.lanes[version] = lane
        fallback = self._settings.model(name).fallback
        if fallback is not None:
            lane.fallback = Fallback(fallback, lane, partial(self._stand_in, lane, fallback), around.clock)
        self._models[name] = model  # not before: a model without a version would never be ready
