"""Registrations, held against what gateways can take over: a wrong one is refused by a field's name, and not entered.

One that only a gateway stumbled over would disturb every gateway, each time it is told.
"""

from __future__ import annotations

import re
from typing import Final

from headrace.control import specs
from headrace.control.names import MAX_TEXT, check_name
from headrace.core.routing import is_version
from headrace.errors import InvalidInference
from headrace.v1 import control_pb2

MAX_SPEC: Final = 64 << 10
"""Bytes of a spec. Those of ten inputs take 400."""
ENDPOINT: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[?[0-9A-Fa-f:.]{2,45}\]?):([0-9]{1,5})")
"""A name or an address of either kind, and a port."""
TEXTS: Final = ("cluster", "host", "device", "precision", "service")


def check(registration: control_pb2.Registration) -> None:
    """Raises: InvalidInference naming the field."""
    spec = registration.spec
    check_name("replica_id", registration.replica_id)
    check_name("spec.name", spec.name)
    if not is_version(spec.version):
        raise InvalidInference(
            f"spec.version: {spec.version[:32]!r} of '{spec.name}' is not an integer from 1, in up to 18 digits"
        )
    endpoint = ENDPOINT.fullmatch(registration.endpoint)
    if endpoint is None or not 0 < int(endpoint[1]) < 1 << 16:
        raise InvalidInference(f"endpoint: {registration.endpoint[:MAX_TEXT]!r} is not HOST:PORT")
    for name in TEXTS:
        if len(getattr(registration, name)) > MAX_TEXT:
            raise InvalidInference(f"{name}: {MAX_TEXT} characters at most")
    if spec.ByteSize() > MAX_SPEC:
        raise InvalidInference(f"spec: {spec.ByteSize()} bytes, {MAX_SPEC} at most")
    specs.check(spec)
