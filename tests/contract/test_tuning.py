"""TraceSetting and LogSettings over a real socket: what may be changed, by whom, and what it does."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc.aio as triton
from grpc import aio
from tests.sink import Sink
from tests.streaming import Opened, Run, echo, error_of, with_gateway
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.gateway.server import Gateway
from headrace.telemetry import logging as logs
from headrace.telemetry.request_log import hashed
from headrace.testing.gateway import settings

INVALID, UNIMPLEMENTED = "INVALID_ARGUMENT", "UNIMPLEMENTED"
AT_FIRST = {
    "trace_level": ["TIMESTAMPS"],
    "trace_rate": ["1"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_file": [""],
    "trace_mode": ["opentelemetry"],
}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Levels are the whole process's."""
    loggers = logging.getLogger(), logging.getLogger("headrace")
    levels, shown = [logger.level for logger in loggers], logs.CHOSEN.shown
    yield
    logs.CHOSEN.shown = shown
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for handler in loggers[0].handlers:
        handler.removeFilter(logs.CHOSEN)


def traces(model: str = "", **changes: Any) -> service_pb2.TraceSettingRequest:
    message = service_pb2.TraceSettingRequest(model_name=model)
    for name, values in changes.items():
        message.settings[name].value.extend(values)
    return message


def log_settings(**changes: Any) -> service_pb2.LogSettingsRequest:
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    message = service_pb2.LogSettingsRequest()
    for name, wanted in changes.items():
        setattr(message.settings[name], kinds[type(wanted)], wanted)
    return message


async def traced(it: Opened, message: service_pb2.TraceSettingRequest) -> dict[str, list[str]]:
    answer = await it.stub.TraceSetting(message)
    return {name: list(setting.value) for name, setting in answer.settings.items()}


async def logged(it: Opened, message: service_pb2.LogSettingsRequest) -> dict[str, Any]:
    answer = await it.stub.LogSettings(message)
    return {name: getattr(s, s.WhichOneof("parameter_choice")) for name, s in answer.settings.items()}


@pytest.mark.parametrize("model", ["", "echo"])
def test_trace_settings_are_told_to_anybody(run: Run, tmp_path: Path, model: str) -> None:
    assert with_gateway(run, tmp_path, lambda it: traced(it, traces(model))) == AT_FIRST


def test_the_rate_is_one_in_so_many_and_an_empty_value_brings_back_what_was_configured(
    run: Run, tmp_path: Path
) -> None:
    async def body(it: Opened) -> Any:
        changes: list[dict[str, list[str]]] = [
            {},
            {"trace_rate": ["1000"]},
            {"trace_rate": ["0"]},
            {"trace_rate": []},
            {"trace_level": ["OFF"]},
            {"trace_level": []},
        ]
        seen = [await traced(it, traces(**change)) for change in changes]
        return [(one["trace_level"][0], one["trace_rate"][0]) for one in seen]

    seen = with_gateway(run, tmp_path, body, telemetry__sampling=0.25)

    at_first = ("TIMESTAMPS", "4")
    assert seen == [at_first, ("TIMESTAMPS", "1000"), ("TIMESTAMPS", "0"), at_first, ("OFF", "4"), at_first]


def test_off_records_no_trace_and_timestamps_records_them_again(run: Run, tmp_path: Path) -> None:
    sink = Sink()

    async def body(it: Opened) -> None:
        for place, level in enumerate(("TIMESTAMPS", "OFF", "TIMESTAMPS")):
            await traced(it, traces(trace_level=[level]))
            for _ in range(5):
                await it.stub.ModelInfer(echo(request_id=str(place)))

    with_gateway(run, tmp_path, body, telemetry__otlp_endpoint=sink.endpoint)

    spans = [span for _, span in sink.spans() if span.name.endswith("/ModelInfer")]
    ids = [a.value.string_value for span in spans for a in span.attributes if a.key == "headrace.request.id_hash"]
    assert len(spans) == 10
    assert Counter(ids) == {hashed("0"): 5, hashed("2"): 5}


def test_a_gateway_that_was_to_record_nothing_can_be_told_to(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        return await traced(it, traces()), await traced(it, traces(trace_level=["TIMESTAMPS"]))

    before, after = with_gateway(run, tmp_path, body, telemetry__enabled=False)

    assert (before["trace_level"], after["trace_level"]) == (["OFF"], ["TIMESTAMPS"])


TRACE_REFUSALS: list[tuple[service_pb2.TraceSettingRequest, str, str]] = [
    (traces(trace_file=["x"]), UNIMPLEMENTED, "trace file location can not be updated through network protocol"),
    (traces(trace_file=[]), UNIMPLEMENTED, "trace file location can not be updated through network protocol"),
    (traces("nobody"), INVALID, "Request for unknown model : nobody"),
    (traces("nobody", trace_rate=["1"]), INVALID, "Request for unknown model : nobody"),
    (traces("echo", trace_rate=["1"]), UNIMPLEMENTED, "traces are chosen before their model is known"),
    (traces(trace_rate=["one"]), INVALID, "Unable to parse 'trace_rate', got: one"),
    (traces(trace_rate=["-1"]), INVALID, "value is out of range [ 0, 4294967295 ], got: -1"),
    (traces(trace_rate=["1", "2"]), INVALID, "expect only 1 value for 'trace_rate'"),
    (traces(trace_level=["OFF", "TIMESTAMPS"]), INVALID, "Expect only one trace level 'OFF' is specified"),
    (traces(trace_level=["TENSORS"]), UNIMPLEMENTED, "trace level 'TENSORS' is not offered"),
    (traces(trace_level=["MAX"]), INVALID, "unknown trace level 'MAX'"),
    (traces(trace_count=["5"]), UNIMPLEMENTED, "'trace_count' has one value here: -1"),
    (traces(log_frequency=["5"]), UNIMPLEMENTED, "'log_frequency' has one value here: 0"),
    (traces(colour=["red"]), INVALID, "unknown trace setting 'colour'"),
]


def test_what_tracing_has_not_is_refused_and_changes_nothing(run: Run, tmp_path: Path) -> None:
    for message, _, _ in TRACE_REFUSALS:
        if message.settings and "trace_rate" not in message.settings:  # with a change that must not be made either
            message.settings["trace_rate"].value.append("77")

    async def body(it: Opened) -> Any:
        errors = [await error_of(it.stub.TraceSetting(message)) for message, _, _ in TRACE_REFUSALS]
        return errors, await traced(it, traces())

    errors, after = with_gateway(run, tmp_path, body)

    for error, (_, code, sentence) in zip(errors, TRACE_REFUSALS, strict=True):
        assert error.code().name == code
        assert sentence in error.details()
    assert after == AT_FIRST


def test_log_settings_are_told_and_changed_one_by_one(run: Run, tmp_path: Path) -> None:
    logging.getLogger().setLevel(logging.INFO)

    async def body(it: Opened) -> Any:
        return [
            await logged(it, log_settings()),
            await logged(it, log_settings(log_info=False, log_verbose_level=3)),
            await logged(it, log_settings(log_warning=False, log_format="ISO8601")),
        ]

    first, second, third = with_gateway(run, tmp_path, body)

    every = {"log_file": "", "log_format": "ISO8601"}
    flags = {"log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0}
    assert first == {**every, **flags}
    assert second == {**every, **flags, "log_info": False, "log_verbose_level": 1}
    assert third == {**second, "log_warning": False}


def test_lines_follow_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = logging.getLogger().handlers[:]
    try:
        logs.configure("INFO")
        for wanted in (
            logs.Shown(info=True, warning=True, error=True, verbose=0),
            logs.Shown(info=False, warning=True, error=False, verbose=1),
            logs.Shown(info=False, warning=False, error=False, verbose=0),
        ):
            logs.show(wanted)
            for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
                logging.getLogger("headrace.somewhere").log(level, "a line")
                logging.getLogger("hpack.hpack").debug("authorization: Bearer secret")
    finally:
        logging.getLogger().handlers[:] = handlers

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines] == ["INFO", "WARNING", "ERROR", "DEBUG", "WARNING"]


LOG_REFUSALS: list[tuple[service_pb2.LogSettingsRequest, str, str]] = [
    (log_settings(log_file="x"), UNIMPLEMENTED, "log file location can not be updated through network protocol"),
    (log_settings(log_info="yes"), INVALID, "expect boolean for 'log_info'"),
    (log_settings(log_warning=1), INVALID, "expect boolean for 'log_warning'"),
    (log_settings(log_error="no"), INVALID, "expect boolean for 'log_error'"),
    (log_settings(log_verbose_level=True), INVALID, "expect int32 for 'log_verbose_level'"),
    (log_settings(log_format=True), INVALID, "expect string for 'log_format'"),
    (log_settings(log_format="plain"), INVALID, "invalid argument for log_format, got: plain"),
    (log_settings(log_format="default"), UNIMPLEMENTED, "log_format 'default' is not offered"),
    (log_settings(colour="red"), INVALID, "unknown log setting 'colour'"),
]


def test_what_logging_has_not_is_refused_and_changes_nothing(run: Run, tmp_path: Path) -> None:
    for message, _, _ in LOG_REFUSALS:
        if "log_error" not in message.settings:  # with a change that must not be made either
            message.settings["log_error"].bool_param = False

    async def body(it: Opened) -> Any:
        before = await logged(it, log_settings())
        errors = [await error_of(it.stub.LogSettings(message)) for message, _, _ in LOG_REFUSALS]
        return before, errors, await logged(it, log_settings())

    before, errors, after = with_gateway(run, tmp_path, body)

    for error, (_, code, sentence) in zip(errors, LOG_REFUSALS, strict=True):
        assert error.code().name == code
        assert sentence in error.details()
    assert after == before


@pytest.mark.parametrize("may", [[], ["infer"], ["admin"]])
def test_reading_is_open_and_changing_is_an_admins(run: Run, tmp_path: Path, may: list[str]) -> None:
    token = "t" * 32
    known = {"name": "somebody", "token_sha256": hashlib.sha256(token.encode()).hexdigest(), "may": may or ["read"]}
    metadata = (("authorization", f"Bearer {token}"),) if may else ()

    async def main() -> Any:
        async with (
            Gateway(settings(tmp_path, access={"mode": "closed", "callers": [known]}), "127.0.0.1:1") as gateway,
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            reading = [stub.TraceSetting(traces()), stub.LogSettings(log_settings())]
            changes = [traces(trace_rate=["2"]), log_settings(log_info=True)]
            calls = [stub.TraceSetting, stub.LogSettings]
            read = [await call for call in reading]
            codes = [call(change, metadata=metadata) for call, change in zip(calls, changes, strict=True)]
            return read, [await call.code() for call in codes]

    read, codes = run(main())

    expected = {"admin": grpc.StatusCode.OK, "infer": grpc.StatusCode.PERMISSION_DENIED}
    assert all(answer.settings for answer in read)
    assert codes == [expected.get("".join(may), grpc.StatusCode.UNAUTHENTICATED)] * 2


def test_tritonclient_reads_and_changes_both(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        async with triton.InferenceServerClient(f"127.0.0.1:{it.gateway.port}") as client:
            traced = await client.update_trace_settings(settings={"trace_rate": "10"}, as_json=True)
            logged = await client.update_log_settings({"log_verbose_level": 1}, as_json=True)
            extensions = (await client.get_server_metadata()).extensions
            return traced, logged, await client.get_trace_settings(as_json=True), set(extensions)

    traced, logged, again, extensions = with_gateway(run, tmp_path, body)

    assert traced == again
    assert traced["settings"]["trace_rate"] == {"value": ["10"]}
    assert logged["settings"]["log_verbose_level"] == {"uint32_param": 1}
    assert {"trace", "logging"} <= extensions
