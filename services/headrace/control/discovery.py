"""Who is there: registrations, leases, and the snapshot that follows from them. Pure; driven by a Clock.

Owned by the control server. Every change raises the version; a load report alone does not, it rides along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from headrace.control import handover, registering
from headrace.core.clock import Clock
from headrace.errors import Conflict, NotPermitted
from headrace.v1 import control_pb2


@dataclass(slots=True)
class Entry:
    """One replica as it last described itself."""

    registration: control_pb2.Registration
    who: str
    """The caller whose it is: nobody else renews it, changes it or says goodbye for it."""
    expires_at: float


class Version(NamedTuple):
    """A version of a model that is registered."""

    spec: control_pb2.ModelSpec
    ready: bool
    """A replica of it is."""


Versions = Mapping[str, Version]


class Directory:
    """The replicas whose leases run."""

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._entries: dict[str, Entry] = {}
        self._standing_by: frozenset[str] = frozenset()
        """Ids of READY replicas that a later cluster has taken over from."""
        self._policies: dict[str, control_pb2.TrafficPolicy] = {}
        self._repository: control_pb2.Repository | None = None
        self.version = 1

    def register(self, registration: control_pb2.Registration, who: str = "") -> bool:
        """Enter, renew or (state GONE) remove a replica of the caller `who`. True when followers must hear of it.

        Raises: NotPermitted when another caller's replica has this id; Conflict when it was registered with another
        endpoint or spec, or the same model and version lives with another digest: a version is immutable;
        InvalidInference naming a field that gateways could not take over.
        """
        replica_id = registration.replica_id
        registering.check(registration)
        before = self._living(replica_id)
        if before is not None and before.who != who:
            raise NotPermitted(f"replica '{replica_id}' is registered by another caller")
        if registration.state == control_pb2.REPLICA_STATE_GONE:
            return self._changed(self._entries.pop(replica_id, None) is not None)
        if before is not None:
            _check_same(before.registration, registration)
        self._check_digest(registration)
        self._entries[replica_id] = Entry(registration, who, self._clock.now() + self._lease_s)
        return self._changed(before is None or _told(before.registration) != _told(registration))

    def expire(self) -> bool:
        """Drop the replicas whose leases ran out. True when there were any."""
        now = self._clock.now()
        late = [replica_id for replica_id, entry in self._entries.items() if entry.expires_at <= now]
        for replica_id in late:
            del self._entries[replica_id]
        return self._changed(bool(late))

    def set_policy(self, policy: control_pb2.TrafficPolicy) -> bool:
        """Say who answers for a model; an older revision changes nothing. True when followers must hear of it."""
        before = self._policies.get(policy.model)
        if before is not None and (before == policy or before.revision > policy.revision):
            return False
        self._policies[policy.model] = policy
        return self._changed(True)

    def set_repository(self, repository: control_pb2.Repository) -> bool:
        """Say what is loaded, and what could be. True when followers must hear of it."""
        changed = self._repository != repository
        self._repository = repository
        return self._changed(changed)

    def registrations(self) -> list[control_pb2.Registration]:
        """All that there are. From any thread."""
        return [entry.registration for entry in list(self._entries.values())]

    def shown(self) -> list[control_pb2.Registration]:
        """All, as followers see them: those that stand by are DRAINING. From any thread."""
        standing_by = self._standing_by
        return [_standing_by(one) if one.replica_id in standing_by else one for one in self.registrations()]

    def versions(self, model: str) -> Versions:
        """The registered versions of a model."""
        found: dict[str, Version] = {}
        for entry in self._entries.values():
            spec = entry.registration.spec
            if spec.name == model:
                ready = entry.registration.state == control_pb2.REPLICA_STATE_READY
                found[spec.version] = Version(spec, ready or (spec.version in found and found[spec.version].ready))
        return found

    def snapshot(self, epoch: str) -> control_pb2.Snapshot:
        """Everything, as followers get it."""
        return control_pb2.Snapshot(
            version=self.version,
            epoch=epoch,
            replicas=self.shown(),
            policies=self._policies.values(),
            repository=self._repository,
        )

    def _living(self, replica_id: str) -> Entry | None:
        entry = self._entries.get(replica_id)
        return entry if entry is not None and entry.expires_at > self._clock.now() else None

    def _check_digest(self, new: control_pb2.Registration) -> None:
        for entry in self._entries.values():
            old = entry.registration
            same = (old.spec.name, old.spec.version) == (new.spec.name, new.spec.version)
            if same and old.spec.digest != new.spec.digest and old.replica_id != new.replica_id:
                raise Conflict(
                    f"model '{new.spec.name}' version {new.spec.version} is registered with digest {old.spec.digest}, "
                    f"not {new.spec.digest}: a version is immutable"
                )

    def _changed(self, changed: bool) -> bool:  # noqa: FBT001  it is the answer, passed through
        if changed:
            owned = ((entry.registration, entry.who) for entry in self._entries.values())
            self._standing_by = handover.standing_by(owned)
        self.version += changed
        return changed


def _check_same(before: control_pb2.Registration, after: control_pb2.Registration) -> None:
    """What is one replica while its lease runs. Raises: Conflict."""
    for field, was, is_ in (
        ("endpoint", before.endpoint, after.endpoint),
        ("spec.name", before.spec.name, after.spec.name),
        ("spec.version", before.spec.version, after.spec.version),
        ("spec.digest", before.spec.digest, after.spec.digest),
    ):
        if was != is_:
            raise Conflict(f"replica '{after.replica_id}' is registered with {field} {was}, not {is_}")


def _told(registration: control_pb2.Registration) -> tuple[str | int, ...]:
    """What followers act on, and who stands by; the load is not part of it."""
    spec, where = registration.spec, (registration.service, registration.cluster, registration.started_us)
    return registration.endpoint, registration.state, f"{spec.name}/{spec.version}", spec.digest, *where


def _standing_by(registration: control_pb2.Registration) -> control_pb2.Registration:
    """How followers see it. A copy: the replica itself is READY, and is shown so again if it is needed."""
    shown = control_pb2.Registration()
    shown.CopyFrom(registration)
    shown.state = control_pb2.REPLICA_STATE_DRAINING
    shown.standby = True
    return shown
