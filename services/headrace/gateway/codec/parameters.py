"""What a request's parameters say, all checked, with Triton's sentences for what Triton knows."""

from __future__ import annotations

from math import isfinite
from typing import Any, Final, NamedTuple

from headrace.core.inference import MAX_KEY, UNKNOWN, SequenceStep, Subject
from headrace.errors import InvalidInference
from headrace.gateway import steps

OURS: Final = {
    "headrace_entity": "entity",
    "headrace_event_id": "event_id",
    "headrace_amount": "amount",
    "headrace_currency": "currency",
}
"""Request parameters that say what a request is about → the field of `Subject`."""
KEY: Final = "headrace_idempotency_key"
"""What makes retries get one answer. Never the protocol's id: clients use one for all they send."""


class Asked(NamedTuple):
    """What a request's parameters say."""

    priority: int
    """0 = they name none."""
    subject: Subject
    sequence: SequenceStep | None = None
    """None = it is part of none."""
    idempotency_key: str = ""
    """Empty = it is no retry of anything, and nothing is kept for one."""


NOTHING: Final = Asked(0, UNKNOWN)


def asked(request: Any) -> Asked:
    """Its parameters, all checked. Raises: InvalidInference, with Triton's sentences for what Triton knows."""
    if not request.parameters:
        return NOTHING
    priority = 0
    ours: dict[str, Any] = {}
    of_sequence: dict[str, Any] = {}
    for name, value in request.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if name == "priority":
            if kind not in ("uint64_param", "int64_param") or (priority := getattr(value, kind)) < 0:
                raise InvalidInference("invalid value for 'priority', expected value >= 0.")
        elif name == "timeout":
            if kind != "int64_param":
                raise InvalidInference("invalid value type for 'timeout' parameter, expected int64_param.")
        elif name in OURS or name == KEY:
            ours[OURS.get(name, name)] = _of_ours(name, kind, value)
        elif name in steps.PARAMETERS:
            of_sequence[name] = steps.read(name, kind, value)
        else:
            _check_other(name, kind)
    key, step = ours.pop(KEY, ""), steps.step(of_sequence) if of_sequence else None
    return Asked(priority, Subject(**ours) if ours else UNKNOWN, step, key)


def _check_other(name: str, kind: str | None) -> None:
    """A parameter that changes nothing here."""
    if name == "triton_enable_empty_final_response":  # of models that answer several times: here every answer is final
        if kind != "bool_param":
            raise InvalidInference(f"invalid value type for '{name}' parameter, expected bool_param.")
    elif name.startswith("triton_"):
        raise InvalidInference(f"parameter keys starting with 'triton_' are reserved for Triton usage: '{name}'")
    elif kind in ("uint64_param", None):
        raise InvalidInference(
            f"invalid value type for '{name}' parameter, expected int64_param, bool_param, or string_param."
        )


def _of_ours(name: str, kind: str | None, value: Any) -> str | float:
    if name == "headrace_amount":
        amount = getattr(value, kind) if kind in ("double_param", "int64_param") else float("nan")
        if not isfinite(amount):
            raise InvalidInference(f"invalid value for '{name}' parameter, expected a finite double_param.")
        return float(amount)
    if kind != "string_param":
        raise InvalidInference(f"invalid value type for '{name}' parameter, expected string_param.")
    text = str(value.string_param)
    if len(text) > MAX_KEY:
        raise InvalidInference(f"invalid value for '{name}' parameter, expected at most {MAX_KEY} characters.")
    if name == KEY and not text:
        raise InvalidInference(f"invalid value for '{name}' parameter, expected a key of 1 to {MAX_KEY} characters.")
    if name == "headrace_currency" and not (len(text) == 3 and text.isascii() and text.isalpha()):
        raise InvalidInference(f"invalid value for '{name}' parameter, expected an ISO 4217 code of three letters.")
    return text
