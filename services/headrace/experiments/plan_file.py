"""What an experiment is created from: options at a prompt, or the same fields in a YAML file, and a profile of gates.

Knows the fields and their types; what their values may be is control's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from google.protobuf import json_format
from pydantic import BaseModel, ConfigDict, ValidationError

from headrace.errors import Refused
from headrace.experiments.limits import DEMO
from headrace.experiments.profiles import Profile
from headrace.v1 import experiments_pb2 as pb

PROFILES: Final[Mapping[Profile, Mapping[str, float]]] = {
    Profile.DEFAULT: {},
    Profile.DEMO: {field.name: value for field, value in DEMO.ListFields()},
}
"""Limits by name, where they are not control's defaults."""
PLAN: Final = (
    "share",
    "noise_share",
    "timeout_ms",
    "max_in_flight_rows",
    "output",
    "thresholds",
    "canary_shares",
    "automatic",
    "label_delay_s",
)
"""Fields that are the plan's; the others are the request's own."""


class Wish(BaseModel):
    """An experiment as somebody asks for it. What is None has control's default."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    model: str
    challenger: str
    incumbent: str = ""
    id: str = ""
    share: float | None = None
    noise_share: float | None = None
    timeout_ms: int | None = None
    max_in_flight_rows: int | None = None
    output: str | None = None
    thresholds: tuple[float, ...] | None = None
    canary_shares: tuple[float, ...] | None = None
    automatic: bool | None = None
    label_delay_s: float | None = None
    profile: Profile = Profile.DEFAULT
    gates: dict[str, float] = {}
    """Limits by their names in `Gates`; they win over the profile's."""
    start: bool = False
    why: str = ""


def request(path: Path | None, options: Mapping[str, Any]) -> pb.CreateExperimentRequest:
    """What a file and the options beside it ask for; an option wins. Raises: Refused, one line that names the key."""
    tree = {**(_read(path) if path else {}), **{key: value for key, value in options.items() if value is not None}}
    try:
        wish = Wish.model_validate(tree)
    except ValidationError as error:
        raise Refused(_one_line(error, path)) from error
    plan = {name: value for name in PLAN if (value := getattr(wish, name)) is not None}
    made = pb.CreateExperimentRequest(
        **wish.model_dump(include={"id", "model", "incumbent", "challenger", "start", "why"})
    )
    limits = {**PROFILES[wish.profile], **wish.gates}
    try:
        json_format.ParseDict({**plan, **({"gates": limits} if limits else {})}, made.plan)
    except json_format.ParseError as error:
        raise Refused(f"{path or 'options'}: {_complaint(error)}") from error
    return made


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(tree, dict):
        raise Refused(f"{path}: expected a mapping of fields, got {type(tree).__name__}")
    return tree


def _one_line(error: ValidationError, path: Path | None) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    what = "there is no such field" if first["type"] == "extra_forbidden" else first["msg"]
    return f"{path or 'options'}: {where}: {what}"


def _complaint(error: json_format.ParseError) -> str:
    """The parser's sentence, without the list of all fields that follows it."""
    return " ".join(str(error).partition("Available Fields")[0].split())
