"""TraceSetting and LogSettings: which traces a gateway records and which lines it logs, changed while it serves.

Called by the servicer. Reading is open; changing is an admin's, ends with this process, and reaches no other gateway.
What Triton has and this server has not is refused, never taken in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tritonclient.grpc import service_pb2

from headrace.access import Admitted, assert_may, assert_sees
from headrace.errors import InvalidInference, Unsupported
from headrace.gateway.models import Models
from headrace.gateway.observer import Observer
from headrace.telemetry import logging as logs
from headrace.telemetry.context import Sampling

ADMIN: Final = "admin"
NO_TRACES: Final = Sampling(0.0, by_caller=False)
MAX_RATE: Final = 2**32 - 1
ONE_VALUE_EACH: Final = {"trace_count": "-1", "log_frequency": "0"}
"""Settings of Triton's with the only value they have here: traces have no end, and leave as soon as they are there."""
FILE_IS_FIXED: Final = "file location can not be updated through network protocol"
LOG_FLAGS: Final = ("log_info", "log_warning", "log_error")


class Tuning:
    """The two RPCs of one gateway."""

    def __init__(self, models: Models, observer: Observer) -> None:
        self._models = models
        self._observer = observer
        self._configured = observer.sampling
        self._wanted = observer.sampling if observer.sampling != NO_TRACES else Sampling()
        """What is recorded whenever something is."""

    def trace(self, request: Any, rpc: Admitted) -> Any:
        """Raises: InvalidInference, Unsupported, Unauthenticated, NotPermitted."""
        if request.model_name:
            assert_sees(rpc, request.model_name)
            self._check_known(request.model_name)
        if request.settings:
            assert_may(rpc, ADMIN)
            self._change_traces(request)
        told = {
            "trace_level": "TIMESTAMPS" if self._observer.sampling != NO_TRACES else "OFF",
            "trace_rate": str(round(1 / self._wanted.share) if self._wanted.share else 0),
            "trace_file": "",
            "trace_mode": "opentelemetry",
            **ONE_VALUE_EACH,
        }
        response = service_pb2.TraceSettingResponse()
        for name, value in told.items():
            response.settings[name].value.append(value)
        return response

    def _check_known(self, name: str) -> None:
        if not any(model.name == name and model.ready_versions() for model in self._models):
            raise InvalidInference(f"Request for unknown model : {name}")

    def _change_traces(self, request: Any) -> None:
        """All of it, or nothing."""
        settings = {name: list(setting.value) for name, setting in request.settings.items()}
        if "trace_file" in settings:
            raise Unsupported(f"trace {FILE_IS_FIXED}")
        if request.model_name:
            raise Unsupported("traces are chosen before their model is known: leave model_name out")
        for name, only in ONE_VALUE_EACH.items():
            if settings.pop(name, []) not in ([], [only]):
                raise Unsupported(f"'{name}' has one value here: {only}")
        levels, rates = settings.pop("trace_level", None), settings.pop("trace_rate", None)
        if settings:
            raise InvalidInference(f"unknown trace setting '{min(settings)}'")
        recording = self._observer.sampling != NO_TRACES
        if levels is not None:
            recording = _recording(levels) if levels else self._configured != NO_TRACES
        if rates is not None:
            share = _share(rates) if rates else self._configured.share
            self._wanted = self._wanted._replace(share=share)
        self._observer.sampling = self._wanted if recording else NO_TRACES

    def logs(self, request: Any, rpc: Admitted) -> Any:
        """Raises: InvalidInference, Unsupported, Unauthenticated, NotPermitted."""
        if request.settings:
            assert_may(rpc, ADMIN)
            logs.show(_changed(logs.shown(), request.settings))
        shown = logs.shown()
        response = service_pb2.LogSettingsResponse()
        response.settings["log_file"].string_param = ""
        for flag in LOG_FLAGS:
            response.settings[flag].bool_param = getattr(shown, flag.removeprefix("log_"))
        response.settings["log_verbose_level"].uint32_param = shown.verbose
        response.settings["log_format"].string_param = "ISO8601"
        return response


def _recording(levels: Sequence[str]) -> bool:
    if "OFF" in levels and len(levels) > 1:
        raise InvalidInference("Expect only one trace level 'OFF' is specified")
    if "TENSORS" in levels:
        raise Unsupported("trace level 'TENSORS' is not offered: what a model was asked is never recorded")
    if unknown := set(levels) - {"OFF", "TIMESTAMPS"}:
        raise InvalidInference(f"unknown trace level '{min(unknown)}'")
    return "OFF" not in levels


def _share(rates: Sequence[str]) -> float:
    """Of the traces that begin here, one in so many; 0 = none. Callers' own flags count as they did."""
    if len(rates) > 1:
        raise InvalidInference("expect only 1 value for 'trace_rate'")
    try:
        rate = int(rates[0])
    except ValueError:
        raise InvalidInference(f"Unable to parse 'trace_rate', got: {rates[0]}") from None
    if not 0 <= rate <= MAX_RATE:
        raise InvalidInference(
            f"Unable to parse 'trace_rate', value is out of range [ 0, {MAX_RATE} ], got: {rates[0]}"
        )
    return 1 / rate if rate else 0.0


def _changed(shown: logs.Shown, settings: Mapping[str, Any]) -> logs.Shown:
    """What is shown with these settings. Raises: InvalidInference, Unsupported."""
    for name, setting in settings.items():
        kind = setting.WhichOneof("parameter_choice")
        if name == "log_file":
            raise Unsupported(f"log {FILE_IS_FIXED}")
        if name in LOG_FLAGS:
            if kind != "bool_param":
                raise InvalidInference(f"expect boolean for '{name}'")
            shown = shown._replace(**{name.removeprefix("log_"): setting.bool_param})
        elif name == "log_verbose_level":
            if kind != "uint32_param":
                raise InvalidInference(f"expect int32 for '{name}'")
            shown = shown._replace(verbose=min(1, setting.uint32_param))
        elif name == "log_format":
            _check_format(kind, setting)
        else:
            raise InvalidInference(f"unknown log setting '{name}'")
    return shown


def _check_format(kind: str | None, setting: Any) -> None:
    if kind != "string_param":
        raise InvalidInference("expect string for 'log_format'")
    if setting.string_param == "default":
        raise Unsupported("log_format 'default' is not offered: lines are JSON, with times as ISO 8601 writes them")
    if setting.string_param != "ISO8601":
        raise InvalidInference(f"invalid argument for log_format, got: {setting.string_param}")
