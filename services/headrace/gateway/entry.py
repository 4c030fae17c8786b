"""What a gateway asks of a call before it reads it: a group's secret, an identity and its permission, its quota.

In this order, each by the part that knows it; composed once a method, so that a call pays for what its method needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from prometheus_client.core import Metric
from tritonclient.grpc import service_pb2

from headrace.access import Access, Identity
from headrace.config import GatewaySettings, Settings
from headrace.errors import QuotaExceeded, status_of
from headrace.gateway import envelope
from headrace.gateway.quotas import Quotas
from headrace.gateway.restricted import Restrictions, Secret
from headrace.permissions import INFERENCE, RISK, needed
from headrace.rpc.bounds import BOUNDS, Bounds
from headrace.rpc.call import Call
from headrace.rpc.messages import Failure
from headrace.rpc.methods import Rule
from headrace.telemetry.metrics import counter, gauge
from headrace.v1 import risk_pb2

STREAM: Final = f"/{INFERENCE}/ModelStreamInfer"
"""Its requests are counted one by one, as they are answered (`headrace.gateway.quotas.metered`), not the stream."""
MESSAGES: Final[dict[str, Any]] = {
    f"/{INFERENCE}/ModelInfer": service_pb2.ModelInferRequest,
    STREAM: service_pb2.ModelInferRequest,
    f"/{RISK}/Score": risk_pb2.ScoreRequest,
    f"/{RISK}/ScoreBatch": risk_pb2.ScoreBatchRequest,
}
"""What those who may `infer` send: the only messages that may be large."""


Figures = dict[tuple[str, ...], float]


class Entry:
    """The rules of a gateway's port."""

    def __init__(self, settings: Settings, access: Access) -> None:
        """Raises: StartupError when the file of a secret cannot be used."""
        self._access = access
        self._most = settings.gateway.max_message_bytes
        self._status_codes = settings.gateway.status_codes
        self._restrictions = Restrictions(settings.gateway.restricted)
        self.quotas = Quotas(settings.access)

    def rule_of(self, path: str) -> Rule:
        """What a server asks of those who call this method."""
        rule = self._access.rule_of(path)
        rule = rule._replace(max_message=min(rule.max_message, self._most))
        if path in MESSAGES:
            check = envelope.check_of(MESSAGES[path].DESCRIPTOR)
            rule = rule._replace(check=check, check_above=envelope.SMALL)
        if self.quotas.any and needed(path) == "infer":
            rule = rule._replace(admit=Counted(rule, self.quotas, path, self._code(path)))
        secret = self._restrictions.of(path)
        return rule if secret is None else rule._replace(admit=Demanding(rule, secret))

    def _code(self, path: str) -> grpc.StatusCode:
        oip = path.startswith(f"/{INFERENCE}/")
        return grpc.StatusCode[status_of(QuotaExceeded(""), oip=oip, status_codes=self._status_codes)]

    def figures(self, limited: Mapping[str, int]) -> list[Metric]:
        """For who scrapes. `limited` = how often a client has run into which bound of the port."""
        meters = dict(self.quotas.meters)
        refused: Figures = {
            (name, quota): float(count)
            for name, meter in meters.items()
            for quota, count in dict(meter.refused).items()
        }
        held: Figures = {(name,): float(meter.in_flight) for name, meter in meters.items()}
        reached: Figures = {(bound,): float(limited.get(bound, 0)) for bound in BOUNDS}
        about = "Requests refused for their caller's quota."
        return [
            counter("headrace_quota_refused", about, ("caller", "quota"), refused),
            gauge("headrace_quota_in_flight", "Requests of callers with a quota.", ("caller",), held),
            counter("headrace_restricted_refused", "Calls without their group's secret.", (), self._refused()),
            counter("headrace_limited", "Clients that ran into a bound of the port.", ("bound",), reached),
        ]

    def _refused(self) -> Figures:
        return {(): float(self._restrictions.refused)}


class Counted:
    """An identity, then a place in its quota."""

    def __init__(self, rule: Rule, quotas: Quotas, path: str, code: grpc.StatusCode) -> None:
        assert rule.admit is not None, "This is a bug."
        self._admit = rule.admit
        self._quotas = quotas
        self._streams = path == STREAM
        self._code = code

    def __call__(self, call: Call) -> object:
        """Raises: Failure."""
        caller = self._admit(call)
        assert isinstance(caller, Identity), "This is a bug."
        meter = self._quotas.of(caller.name)
        if meter is None:
            return caller
        call.meter = meter
        if not self._streams:
            try:
                meter.enter()
            except QuotaExceeded as refused:
                pushback = (("grpc-retry-pushback-ms", str(refused.retry_ms)),)
                raise Failure(self._code, str(refused), pushback) from None
            call.leaving = meter.leave
        return caller


class Demanding:
    """A group's secret, then whatever else is asked."""

    def __init__(self, rule: Rule, secret: Secret) -> None:
        self._secret = secret
        self._admit = rule.admit

    def __call__(self, call: Call) -> object:
        """Raises: Failure."""
        self._secret.check(call)
        return None if self._admit is None else self._admit(call)


def bounds(settings: GatewaySettings) -> Bounds:
    """Of its port."""
    return Bounds(settings.max_connections, settings.max_connections_per_address, settings.max_message_s)
