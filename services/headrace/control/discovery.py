"""Who is there: registrations, leases, and the snapshot that follows from them. Pure; driven by a Clock.

Owned by the control server. Every change raises the version; a load report alone does not, it rides along.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.core.clock import Clock
from headrace.errors import Conflict, InvalidInference
from headrace.v1 import control_pb2


@dataclass(slots=True)
class Entry:
    """One replica as it last described itself."""

    registration: control_pb2.Registration
    expires_at: float


class Directory:
    """The replicas whose leases run."""

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._entries: dict[str, Entry] = {}
        self._primaries: dict[str, str] = {}
        self.version = 1

    def register(self, registration: control_pb2.Registration) -> bool:
        """Enter, renew or (state GONE) remove a replica. True when followers must hear of it.

        Raises: Conflict when the same model and version lives with another digest: a version is immutable;
        InvalidInference when the version is not an integer, by which gateways order versions.
        """
        replica_id = registration.replica_id
        if not registration.spec.version.isdecimal():
            raise InvalidInference(
                f"version '{registration.spec.version}' of '{registration.spec.name}' is not an integer"
            )
        if registration.state == control_pb2.REPLICA_STATE_GONE:
            return self._changed(self._entries.pop(replica_id, None) is not None)
        self._check_digest(registration)
        before = self._entries.get(replica_id)
        self._entries[replica_id] = Entry(registration, self._clock.now() + self._lease_s)
        return self._changed(before is None or _told(before.registration) != _told(registration))

    def expire(self) -> bool:
        """Drop the replicas whose leases ran out. True when there were any."""
        now = self._clock.now()
        late = [replica_id for replica_id, entry in self._entries.items() if entry.expires_at <= now]
        for replica_id in late:
            del self._entries[replica_id]
        return self._changed(bool(late))

    def set_primary(self, model: str, version: str) -> bool:
        """Name the version that answers for a model ("" = the highest that is ready)."""
        before = self._primaries.get(model)
        self._primaries[model] = version
        return self._changed(before != version)

    def snapshot(self, epoch: str) -> control_pb2.Snapshot:
        """Everything, as followers get it."""
        return control_pb2.Snapshot(
            version=self.version,
            epoch=epoch,
            replicas=[entry.registration for entry in self._entries.values()],
            policies=[
                control_pb2.TrafficPolicy(model=model, primary_version=version)
                for model, version in self._primaries.items()
            ],
        )

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
        self.version += changed
        return changed


def _told(registration: control_pb2.Registration) -> tuple[str, int, str, str]:
    """What followers act on; the load is not part of it."""
    spec = registration.spec
    return registration.endpoint, registration.state, f"{spec.name}/{spec.version}", spec.digest
