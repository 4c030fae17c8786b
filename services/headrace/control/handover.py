"""Which replicas stand by because a later cluster of their service has taken over. Pure; called by the directory.

An upgrade builds a second cluster beside the first, and its engine takes the first away a while after. Gateways leave
it before that, while it can still answer: nobody's batch is there when it goes. Must never leave a version to fewer
READY replicas than its strongest cluster has.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from headrace.v1 import control_pb2

Owned = tuple[control_pb2.Registration, str]
"""A registration, and the name of the caller whose it is."""


class Place(NamedTuple):
    """What a replica stands for: any other of the same place may answer for it."""

    service: str
    who: str
    """Nobody takes over from another caller's replicas."""
    model: str
    version: str


def standing_by(registered: Iterable[Owned]) -> frozenset[str]:
    """Ids of the READY replicas of each cluster that a later one of its service has replaced.

    It has once it has as many READY replicas of the version, however many clusters there are: so the last READY replica
    of a version never stands by, and when the later cluster loses one, the earlier is back.
    """
    known = [(one, _place(one, who)) for one, who in registered if one.service and one.cluster]
    places: dict[Place, Counter[str]] = defaultdict(Counter)
    began_us: dict[tuple[str, str, str], int] = {}
    for one, place in known:
        places[place][one.cluster] += _is_ready(one)
        cluster = place.service, place.who, one.cluster
        began_us[cluster] = min(one.started_us, began_us.get(cluster, one.started_us))

    def replaced(place: Place, cluster: str) -> bool:
        ready = places[place]
        return any(ready[cluster] <= ready[other] and age(place, cluster) < age(place, other) for other in ready)

    def age(place: Place, cluster: str) -> tuple[int, str]:
        """Of two that began at once, the one whose name is later is the later one."""
        return began_us[place.service, place.who, cluster], cluster

    gone = {(place, cluster) for place, ready in places.items() for cluster in ready if replaced(place, cluster)}
    return frozenset(one.replica_id for one, place in known if _is_ready(one) and (place, one.cluster) in gone)


def _place(one: control_pb2.Registration, who: str) -> Place:
    return Place(one.service, who, one.spec.name, one.spec.version)


def _is_ready(one: control_pb2.Registration) -> bool:
    return one.state == control_pb2.REPLICA_STATE_READY
