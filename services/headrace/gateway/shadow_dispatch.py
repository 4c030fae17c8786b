"""Where copies go: to replicas that have nothing else to do."""

from __future__ import annotations

import random

from headrace.gateway.dispatch import Dispatcher
from headrace.gateway.link import ReplicaLink


class ShadowDispatcher(Dispatcher):
    """Sends to replicas that have nothing to do: nothing of ours, and nothing of the lane that decides."""

    deciding: Dispatcher
    patience_s: float
    """What a copy may take: a batch that lets payments pass is late, not lost."""

    def _cap_s(self, link: ReplicaLink, *, last: bool) -> float:
        assert not last, "This is a bug."  # a copy has no second try
        return max(self.patience_s, super()._cap_s(link, last=True))

    def _choose(self, other_than: ReplicaLink | None = None) -> ReplicaLink | None:
        assert other_than is None, "This is a bug."  # a copy has no second try
        free = [
            link
            for link in self.links
            if link.choosable and not link.flights and not self.deciding.holds(link.replica_id)
        ]
        return random.choice(free) if free else None
