"""`headrace experiment` and `headrace traffic` against a service on a real port: what is asked and printed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from tests.reports import experiment, sample_report

from headrace import cli
from headrace.experiments.limits import DEMO
from headrace.v1 import control_pb2, experiments_pb2_grpc
from headrace.v1 import experiments_pb2 as pb

Headrace = Callable[..., tuple[int, str, str]]


class Control(experiments_pb2_grpc.ExperimentServiceServicer):
    """Answers from prepared messages, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.report = sample_report("failing")
        self.refuse: tuple[grpc.StatusCode, str] | None = None

    def _take(self, request: Any, context: grpc.ServicerContext) -> None:
        self.asked.append(request)
        if self.refuse:
            context.abort(*self.refuse)

    def CreateExperiment(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._take(request, context)
        made = pb.Experiment(id=request.id or "made", model=request.model, incumbent="1", challenger=request.challenger)
        made.stage = pb.STAGE_SHADOW if request.start else pb.STAGE_DRAFT
        return pb.CreateExperimentResponse(experiment=made)

    def GetReport(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._take(request, context)
        return pb.GetReportResponse(report=self.report)

    def GetExperiment(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._take(request, context)
        return pb.GetExperimentResponse(experiment=experiment(pb.STAGE_CANARY, share=0.05))

    def ListExperiments(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._take(request, context)
        return pb.ListExperimentsResponse(experiments=[sample_report("canary").experiment])

    def Promote(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._take(request, context)
        return pb.PromoteResponse(experiment=experiment(pb.STAGE_CANARY, share=0.01))

    def Rollback(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._take(request, context)
        return pb.RollbackResponse(experiment=experiment(pb.STAGE_ROLLED_BACK))

    def GetTraffic(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._take(request, context)
        return pb.GetTrafficResponse(policy=control_pb2.TrafficPolicy(model=request.model, primary_version="1"))

    def SetTraffic(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._take(request, context)
        policy = control_pb2.TrafficPolicy(model=request.model, primary_version=request.primary_version)
        policy.canary.CopyFrom(request.canary)
        return pb.SetTrafficResponse(policy=policy)


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def address(control: Control) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    experiments_pb2_grpc.add_ExperimentServiceServicer_to_server(control, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def headrace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str) -> Headrace:
    """Run a command in this process: its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "160")

    def command(*arguments: object, at: str = address) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", *map(str, arguments), "--control", at])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code: Any = ended.value.code
        return code or 0, *capsys.readouterr()

    return command


def test_options_become_a_request_and_what_is_not_said_stays_unset(headrace: Headrace, control: Control) -> None:
    code, stdout, stderr = headrace(
        *(
            "experiment",
            "create",
            "--model",
            "fraud-tx",
            "--challenger",
            "2",
            "--noise-share",
            "0",
            "--timeout-ms",
            "500",
        ),
        *("--threshold", "0.7", "--threshold", "0.9", "--canary-share", "0.1", "--canary-share", "1", "--automatic"),
        *("--profile", "demo", "--start", "--why", "retrained"),
    )

    assert (code, stdout, stderr) == (0, "made: shadow (fraud-tx, 1 → 2)\n", "")
    (asked,) = control.asked
    expected = pb.CreateExperimentRequest(model="fraud-tx", challenger="2", start=True, why="retrained")
    expected.plan.CopyFrom(
        pb.Plan(noise_share=0.0, timeout_ms=500, thresholds=[0.7, 0.9], canary_shares=[0.1, 1], automatic=True)
    )
    expected.plan.gates.CopyFrom(DEMO)
    assert asked == expected


def test_the_default_profile_leaves_every_limit_to_control(headrace: Headrace, control: Control) -> None:
    headrace("experiment", "create", "--model", "m", "--challenger", "2")

    (asked,) = control.asked
    assert asked == pb.CreateExperimentRequest(model="m", challenger="2")


def test_a_file_has_the_same_fields_and_an_option_wins(headrace: Headrace, control: Control, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "model: fraud-tx\nchallenger: 2\nid: third-try\nshare: 0.5\nthresholds: [0.7]\nprofile: demo\n"
        "gates: {max_flip_rate: 0.01, min_pairs: 900}\nwhy: from a file\n"
    )
    code, stdout, _ = headrace("experiment", "create", "--file", plan, "--why", "from a prompt", "--share", "0.25")

    assert (code, stdout) == (0, "third-try: draft (fraud-tx, 1 → 2)\n")
    (asked,) = control.asked
    assert (asked.challenger, asked.why, asked.plan.share) == ("2", "from a prompt", 0.25)
    expected = pb.Gates(max_flip_rate=0.01)
    expected.MergeFrom(DEMO)
    expected.min_pairs = 900
    assert asked.plan.gates == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: m\nchallenger: 2\nshadow: 1\n", "shadow: there is no such field"),
        ("model: m\n", "challenger: Field required"),
        ("model: m\nchallenger: 2\nshare: half\n", "share: Input should be a valid number"),
        ("model: m\nchallenger: 2\nprofile: fast\n", "profile: Input should be 'default' or 'demo'"),
        ("model: m\nchallenger: 2\ngates: {max_flips: 1}\n", 'named "max_flips"'),
        ("model: m\nchallenger: 2\ngates: {min_pairs: 0.5}\n", "min_pairs"),
        ("- model\n", "expected a mapping of fields, got list"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key_and_nothing_is_asked(
    headrace: Headrace, control: Control, tmp_path: Path, text: str, sentence: str
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(text)
    code, stdout, stderr = headrace("experiment", "create", "--file", plan)

    assert (code, stdout, control.asked) == (1, "", [])
    assert stderr.startswith(f"headrace: {plan}: ")
    assert stderr.count("\n") == 1
    assert sentence in stderr


def test_a_missing_file_or_option_is_one_line(headrace: Headrace, tmp_path: Path) -> None:
    nowhere = tmp_path / "no.yaml"

    assert headrace("experiment", "create", "--file", nowhere)[::2] == (
        1,
        f"headrace: {nowhere}: No such file or directory\n",
    )
    assert headrace("experiment", "create", "--model", "m")[::2] == (
        1,
        "headrace: options: challenger: Field required\n",
    )


def test_status_is_short_and_report_is_whole(headrace: Headrace, control: Control) -> None:
    code, short, _ = headrace("experiment", "status", "fraud-tx-1-2")
    _, whole, _ = headrace("experiment", "report", "fraud-tx-1-2")

    assert code == 0
    assert "✗ Version 2 may not go on" in short
    assert "JPY" in whole
    assert len(short.splitlines()) < 10 < len(whole.splitlines())
    assert control.asked == [pb.GetReportRequest(id="fraud-tx-1-2")] * 2


def test_json_is_the_message_a_program_can_parse(headrace: Headrace, control: Control) -> None:
    control.report = sample_report("canary")
    _, whole, _ = headrace("experiment", "report", "x", "--json")
    _, short, _ = headrace("experiment", "status", "x", "--json")
    _, found, _ = headrace("experiment", "list", "--json")

    assert json_format.Parse(whole, pb.Report()) == control.report
    brief = json.loads(short)
    assert set(brief) == {"experiment", "at", "gates", "verdict"}
    assert all("figures" not in move for move in brief["experiment"]["moves"])
    assert json.loads(found)["experiments"][0]["id"] == "fraud-tx-1-2"


def test_a_page_is_written_where_it_was_asked_for(headrace: Headrace, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    code, stdout, _ = headrace("experiment", "report", "fraud-tx-1-2", "--html", path)

    assert (code, stdout) == (0, f"{path}\n")
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert "Version 2 may not go on" in path.read_text("utf-8")

    missing = tmp_path / "none" / "report.html"
    assert headrace("experiment", "report", "x", "--html", missing)[::2] == (
        1,
        f"headrace: {missing}: No such file or directory\n",
    )


def test_watching_looks_again_until_it_is_interrupted(
    headrace: Headrace, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    code, stdout, stderr = headrace("experiment", "status", "x", "--watch", "7")

    assert (code, stderr, waits) == (0, "", [7, 7, 7])
    assert len(control.asked) == 3
    assert "may not go on" in stdout


def test_a_list_of_one_model_is_a_line_each(headrace: Headrace, control: Control) -> None:
    code, stdout, _ = headrace("experiment", "list", "--model", "fraud-tx")

    assert (code, len(stdout.splitlines())) == (0, 2)
    assert control.asked == [pb.ListExperimentsRequest(model="fraud-tx")]


def test_steps_are_asked_for_as_they_are_said(headrace: Headrace, control: Control) -> None:
    _, on, _ = headrace("experiment", "promote", "x", "--why", "a day of quiet", "--consent")
    headrace("experiment", "promote", "x", "--force", "--to", "primary")
    _, back, _ = headrace("experiment", "rollback", "x", "--why", "JPY")
    headrace("experiment", "rollback", "x", "--force")

    assert on == "fraud-tx-1-2: canary 1 % (fraud-tx, 1 → 2)\n"
    assert back == "fraud-tx-1-2: rolled back (fraud-tx, 1 → 2)\n"
    seen = {"from_stage": pb.STAGE_CANARY, "from_share": 0.05}
    assert control.asked == [
        pb.GetExperimentRequest(id="x"),
        pb.PromoteRequest(id="x", why="a day of quiet", consent=True, **seen),
        pb.GetExperimentRequest(id="x"),
        pb.PromoteRequest(id="x", force=True, to_stage=pb.STAGE_PRIMARY, **seen),
        pb.RollbackRequest(id="x", why="JPY"),
        pb.RollbackRequest(id="x", force=True),
    ]


def test_traffic_is_shown_and_set(headrace: Headrace, control: Control) -> None:
    _, shown, _ = headrace("traffic", "show", "fraud-tx")
    _, tree, _ = headrace("traffic", "show", "fraud-tx", "--json")
    options = ("--primary", "1", "--canary", "2", "--canary-share", "0.05", "--why", "by hand")
    _, became, _ = headrace("traffic", "set", "fraud-tx", *options)

    assert " ".join(shown.split()[-4:]) == "1 100 % fraud-tx"
    assert json.loads(tree) == {"model": "fraud-tx", "primary_version": "1"}
    assert "5 % of the entities" in became
    expected = pb.SetTrafficRequest(model="fraud-tx", primary_version="1", why="by hand")
    expected.canary.CopyFrom(control_pb2.Canary(version="2", share=0.05))
    assert control.asked[-1] == expected


def test_a_primary_that_is_not_said_stays_and_is_opened_by_an_empty_one(headrace: Headrace, control: Control) -> None:
    headrace("traffic", "set", "fraud-tx", "--canary", "2", "--canary-share", "0.05")
    headrace("traffic", "set", "fraud-tx", "--primary", "")

    looked, kept, opened = control.asked
    assert looked == pb.GetTrafficRequest(model="fraud-tx")
    assert (kept.primary_version, kept.canary.version) == ("1", "2")
    assert opened == pb.SetTrafficRequest(model="fraud-tx")


def test_half_a_canary_is_refused_before_anybody_is_asked(headrace: Headrace, control: Control) -> None:
    code, _, stderr = headrace("traffic", "set", "fraud-tx", "--canary", "2")

    assert (code, stderr, control.asked) == (1, "headrace: --canary and --canary-share belong together\n", [])


def test_what_control_refuses_is_its_sentence_on_one_line_and_exit_code_1(headrace: Headrace, control: Control) -> None:
    control.refuse = grpc.StatusCode.FAILED_PRECONDITION, "flips: 0.77 % is more than 0.50 %\nand a \x1b[31mcolour"
    code, stdout, stderr = headrace("experiment", "promote", "x")

    assert (code, stdout) == (1, "")
    assert stderr == "headrace: flips: 0.77 % is more than 0.50 % and a \ufffd[31mcolour\n"


def test_an_answer_that_is_late_says_that_its_step_may_be_taken(headrace: Headrace, control: Control) -> None:
    """Asked again it would be the next step: the experiment is read anew."""
    control.refuse = grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"
    code, _, stderr = headrace("experiment", "promote", "x")

    assert code == 1
    assert stderr.endswith("a move may be made all the same: look before asking again\n")
    assert stderr.count("\n") == 1


def test_nobody_at_the_address_is_one_line(headrace: Headrace, free_port: int) -> None:
    nobody = f"127.0.0.1:{free_port}"
    code, stdout, stderr = headrace("experiment", "list", at=nobody)

    assert (code, stdout) == (1, "")
    assert stderr.startswith(f"headrace: {nobody} does not answer (")
    assert stderr.count("\n") == 1


def test_help_needs_neither_grpc_nor_rich_tables() -> None:
    rooms = "grpc", "jinja2", "headrace.v1.experiments_pb2"
    loaded = f"import sys, headrace.cli; print([name for name in {rooms} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)

    assert found.stdout == "[]\n"
