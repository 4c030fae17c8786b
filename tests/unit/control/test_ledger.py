"""The ledger: whole after whatever happens to its process, its disk or its schema."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import experiments

from headrace.control import evidence, labels
from headrace.control.discovery import Version, Versions
from headrace.control.ledger import Ledger
from headrace.control.schema import VERSION
from headrace.control.timeline import Timeline
from headrace.control.traffic import Reason
from headrace.control.trials import Trials
from headrace.errors import InvalidInference, NotPassed, NotServing, Overloaded, StartupError, UnknownExperiment
from headrace.testing.clock import FakeClock
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb

VERSIONS = {version: Version(experiments.spec(version), ready=True) for version in ("1", "2", "3")}
LIMIT = 400_000


class Book:
    """A ledger and the experiments in it, at a time that stands still."""

    def __init__(self, path: Path | str, *, max_bytes: int = 0, sample_rows: int = 1000) -> None:
        self.clock = FakeClock(experiments.NOW_US / 1e6)
        self.ledger = Ledger(path, max_bytes)
        wall_us = lambda: self.clock.now_ns() // 1000  # noqa: E731
        self.trials = Trials(self.ledger, wall_us, (75,), np.random.default_rng(0), sample_rows)

    def begin(self, name: str = "e", **plan: object) -> pb.Experiment:
        asked = pb.CreateExperimentRequest(
            id=name, model="m", incumbent="1", challenger="2", plan=pb.Plan(**plan), start=True, why="new"
        )
        return self.trials.begin(asked, "ann", VERSIONS)

    def roll_back(self, why: str, versions: Versions = VERSIONS, *, force: bool = False) -> pb.Experiment:
        return self.trials.roll_back(pb.RollbackRequest(id="e", why=why, force=force), "ann", versions)

    def record(self, *messages: pb.RecordPairsRequest) -> None:
        for error in self.trials.record(messages):
            if error is not None:
                raise error

    def figures(self, name: str = "e") -> pb.Figures:
        return self.trials.report(name).figures


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    found = Book(tmp_path / "ledger.db")
    found.begin()
    yield found
    found.ledger.close()


@pytest.fixture
def again(book: Book, tmp_path: Path) -> Iterator[Callable[[], Book]]:
    """The same ledger, read by another control."""
    opened: list[Book] = []

    def reopen() -> Book:
        book.ledger.close()
        opened.append(Book(tmp_path / "ledger.db"))
        return opened[-1]

    yield reopen
    for found in opened:
        found.ledger.close()


def test_everything_is_there_again_after_a_restart(book: Book, again: Callable[[], Book]) -> None:
    book.record(experiments.message(1, 200, flips=3, errors=2, lost=5))
    book.trials.record_outcomes([pb.Outcome(event_id="1-50", fraud=True)])
    before = book.trials.report("e")
    policies = book.trials.policies()

    after = again()

    assert after.trials.report("e") == before
    assert after.trials.policies() == policies
    assert after.trials.find("e").moves == book.trials.find("e").moves
    after.clock.advance(31 * 86_400)
    assert after.trials.matured("e").fraud.sum() == 1
    assert (before.figures.pairs, before.figures.sampled, before.noise.pairs) == (200, 205, 20)


def test_a_message_that_comes_twice_is_counted_once(book: Book, again: Callable[[], Book]) -> None:
    first, second = experiments.message(1), experiments.message(2)
    book.record(first, first)
    book.record(first)
    assert book.figures().pairs == 100

    after = again()
    after.record(first, second, second)

    assert after.figures().pairs == 200
    assert after.figures().pending == 0


def test_a_jump_ahead_is_taken_and_whoever_is_behind_hears_of_it(book: Book, again: Callable[[], Book]) -> None:
    """A ledger may have lost its end; a number that was left behind is another sender's."""
    book.record(experiments.message(1), experiments.message(500))
    assert book.figures().pairs == 200

    after = again()
    with pytest.raises(InvalidInference, match="sequence: 501 is expected, or the last once more; got 2"):
        after.record(experiments.message(2))
    after.record(experiments.message(500), experiments.message(501))

    assert after.figures().pairs == 300


def test_a_caller_has_so_many_gateways_and_no_more(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MAX_GATEWAYS", 2)
    for name in ("own a", "own b", "other a"):
        book.record(experiments.message(1, gateway=name))

    with pytest.raises(Overloaded, match="2 gateways of this caller are remembered"):
        book.record(experiments.message(1, gateway="own c"))
    book.record(experiments.message(2, gateway="own b"), experiments.message(1, gateway="other b"))

    assert book.figures().pairs == 500


def test_pairs_that_are_wrong_are_refused_by_name_and_disturb_nobody(book: Book) -> None:
    def broken(change: Callable[[pb.RecordPairsRequest], object]) -> pb.RecordPairsRequest:
        found = experiments.message(1, gateway="h")
        change(found)
        return found

    wrong = {
        "gateway_id": lambda m: m.ClearField("gateway_id"),
        "sequence": lambda m: m.ClearField("sequence"),
        "pairs.at_us: 99 entries for 100 pairs": lambda m: m.pairs.at_us.pop(),
        "pairs.at_us: more than a day ahead": lambda m: m.pairs.at_us.__setitem__(0, 2**64 - 1),
        "pairs.amount: 101 entries": lambda m: m.pairs.amount.append(1),
        "pairs.trace_ids: 1600|pairs.trace_ids: 1 ": lambda m: setattr(m.pairs, "trace_ids", b"1"),
        "pairs.challenger_error": lambda m: m.pairs.challenger_error.__setitem__(0, 9),
        "pairs.currency: 'EURO'": lambda m: m.pairs.currency.__setitem__(0, "EURO"),
        "pairs.event_id: 256": lambda m: m.pairs.event_id.__setitem__(0, "x" * 257),
        "noise.entity: 11 entries": lambda m: m.noise.entity.append(1),
        "counts.drops: 'gateway'": lambda m: m.counts.drops.__setitem__("gateway", 1),
        "noise_counts: more than": lambda m: setattr(m.noise_counts, "sampled", 2**63),
        "counts.challenger_took: 513 entries": lambda m: m.counts.challenger_took.__setitem__(513, 1),
        "counts.drops: 16 causes": lambda m: [m.counts.drops.__setitem__(str(i), 1) for i in range(17)],
    }
    messages = [broken(change) for change in wrong.values()]

    errors = book.trials.record([experiments.message(1), *messages, experiments.message(1, experiment="f")])

    assert errors[0] is None
    for error, sentence in zip(errors[1:-1], wrong, strict=True):
        with pytest.raises(InvalidInference, match=sentence):
            raise error
    assert isinstance(errors[-1], UnknownExperiment)
    assert (book.figures().pairs, book.figures().sampled) == (100, 100)


RECORDING = """
import sys
from tests import experiments
from tests.unit.control.test_ledger import Book

book = Book(sys.argv[1])
book.begin()
for sequence in range(1, 10_000):
    book.record(experiments.message(sequence, 50, lost=1), experiments.message(sequence, 50, gateway="h"))
    print(sequence, flush=True)
"""


@pytest.mark.parametrize("after", [1, 17, 40])
def test_a_control_that_is_killed_while_it_records_loses_nothing_it_acknowledged(
    tmp_path: Path, root: Path, after: int
) -> None:
    path = tmp_path / "ledger.db"
    child = subprocess.Popen([sys.executable, "-c", RECORDING, str(path)], stdout=subprocess.PIPE, text=True, cwd=root)
    acknowledged = [int(next(child.stdout)) for _ in range(after)]
    child.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in child.stdout if line.endswith("\n")]
    child.wait()

    found = Book(path)
    rows = found.ledger.rows("SELECT sequence FROM gateways")
    ((kept,),) = found.ledger.rows("SELECT COUNT(*) FROM pairs")
    figures = found.figures()
    found.ledger.close()

    assert rows[0] == rows[1]  # both were in each transaction
    (counted,) = rows[0]
    assert counted in (acknowledged[-1], acknowledged[-1] + 1)  # the last one may have died before it could say so
    assert (figures.pairs, figures.sampled, dict(figures.drops)) == (100 * counted, 101 * counted, {"load": counted})
    assert figures.pending == 0
    assert kept == 100 * counted if counted <= 10 else 400 < kept <= 1000


def test_a_ledger_of_the_first_schema_is_taken_over_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    old = Book(path)
    old.begin()
    old.record(experiments.message(1, 100, flips=2))
    old.ledger.close()
    with sqlite3.connect(path) as db:
        db.executescript("DROP TABLE failures; PRAGMA user_version=1;")
    found = Book(path)
    found.record(experiments.message(2, 100, errors=2))
    report = found.trials.report("e")
    found.ledger.close()

    assert (report.figures.pairs, len(report.worst) > 0, len(report.failures)) == (200, True, 2)


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Book(path).ledger.close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={VERSION + 1}")

    with pytest.raises(
        StartupError, match=rf"control.ledger: .* has schema {VERSION + 1}, this headrace knows {VERSION}"
    ):
        Ledger(path)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)


def test_what_is_no_ledger_or_anothers_is_said_before_anything_starts(tmp_path: Path) -> None:
    garbage, folder, own = tmp_path / "garbage.db", tmp_path / "folder", tmp_path / "own.db"
    garbage.write_bytes(b"payments" * 4096)
    folder.mkdir()
    ledger = Ledger(own)

    with pytest.raises(StartupError, match=r"garbage\.db: file is not a database"):
        Ledger(garbage)
    with pytest.raises(StartupError, match="unable to open database file"):
        Ledger(folder)
    with pytest.raises(StartupError, match=r"own\.db is kept by another control"):
        Ledger(own)
    ledger.close()
    Ledger(own).close()


def fill(book: Book) -> int:
    """Record until the disk is full; how many messages were counted."""
    for sequence in range(1, 10_000):
        try:
            book.record(experiments.message(sequence, 200))
        except NotServing:
            break
    with pytest.raises(NotServing, match="the ledger can't be used now: database or disk is full"):
        book.record(experiments.message(sequence, 200))
    return sequence - 1


def test_a_full_disk_refuses_pairs_whole_and_they_are_counted_later(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    book = Book(path, max_bytes=LIMIT, sample_rows=100_000)
    book.begin()
    counted = fill(book)
    assert counted > 0
    assert book.figures().pairs == 200 * counted
    book.ledger.close()

    roomy = Book(path)
    roomy.record(experiments.message(counted + 1, 200))

    assert roomy.figures().pairs == 200 * (counted + 1)
    assert roomy.figures().pending == 0
    roomy.ledger.close()


def test_a_rollback_is_in_force_though_the_disk_is_full_and_written_when_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    book = Book(path, max_bytes=LIMIT, sample_rows=100_000)
    book.begin()
    book.trials.promote(pb.PromoteRequest(id="e", force=True), "ann", VERSIONS)
    fill(book)
    while True:  # to the last page
        try:
            with book.ledger.transaction():
                book.ledger.execute("INSERT INTO declared VALUES (hex(randomblob(8)), hex(randomblob(200)))")
        except NotServing:
            break

    with pytest.raises(NotServing, match=r"'e' is rolled back, and forgotten if control restarts now: .* disk is full"):
        book.roll_back("it is slow")
    assert book.trials.find("e").stage == pb.STAGE_ROLLED_BACK
    assert book.trials.policy("m").primary_version == "1"
    assert not book.trials.policy("m").HasField("canary")
    book.ledger.execute("DELETE FROM pairs")
    book.ledger.execute("DELETE FROM declared")
    book.trials.catch_up()
    book.ledger.close()

    again = Book(path)
    assert again.trials.find("e").moves[-1].why == "it is slow"
    assert again.trials.policy("m") == book.trials.policy("m")
    again.ledger.close()


WITHOUT_INCUMBENT = {"1": Version(experiments.spec("1"), ready=False), "2": VERSIONS["2"]}


def test_a_rollback_to_a_version_that_is_not_ready_is_refused_unless_it_is_forced(book: Book) -> None:
    book.trials.promote(pb.PromoteRequest(id="e", force=True), "ann", VERSIONS)

    for versions in (WITHOUT_INCUMBENT, {"2": VERSIONS["2"]}):
        with pytest.raises(NotPassed, match="version 1 of 'm' is not ready, nobody would answer; `force`"):
            book.roll_back("it is slow", versions)
    assert book.trials.find("e").stage == pb.STAGE_CANARY

    assert book.roll_back("it is slow", WITHOUT_INCUMBENT, force=True).moves[-1].why == "forced: it is slow"


def test_a_shadow_is_given_up_whoever_is_ready(book: Book) -> None:
    assert book.roll_back("enough", {}).stage == pb.STAGE_ROLLED_BACK


def test_a_breached_guardrail_waits_for_an_incumbent_that_can_answer_and_says_so_once(
    book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    book.trials.promote(pb.PromoteRequest(id="e", force=True), "ann", VERSIONS)
    book.record(experiments.message(1, 2000, canary=1000, errors=300))

    for _ in range(3):
        assert book.trials.look("e", WITHOUT_INCUMBENT) is None
    told = [record.levelname for record in caplog.records if "has to be rolled back" in record.message]
    back = book.trials.look("e", VERSIONS)  # nothing was told since

    assert told == ["ERROR"]
    assert (back.stage, back.moves[-1].who) == (pb.STAGE_ROLLED_BACK, "headrace")


def test_an_experiment_that_starts_at_once_is_entered_whole_or_not_at_all() -> None:
    """A draft left behind by a start that failed would have its id, and refuse the next try."""
    book = Book(":memory:")
    book.ledger.execute("CREATE TRIGGER full BEFORE INSERT ON traffic BEGIN SELECT RAISE(ABORT, 'disk is full'); END")

    with pytest.raises(NotServing, match="disk is full"):
        book.begin()
    assert not book.trials.all()
    assert not book.ledger.experiments()
    book.ledger.execute("DROP TRIGGER full")
    begun = book.begin()

    assert [move.to_stage for move in begun.moves] == [pb.STAGE_DRAFT, pb.STAGE_SHADOW]
    assert book.ledger.experiments() == [begun]


def test_the_sample_is_uniform_and_bounded() -> None:
    """Of 40,000 pairs 1,000 at most are kept; each tenth of them in time has its share, within four deviations."""
    book = Book(":memory:")
    book.begin()
    for sequence in range(1, 41):
        book.record(experiments.message(sequence, 1000))

    kept = [int(event_id.split("-")[0]) for (event_id,) in book.ledger.rows("SELECT event_id FROM pairs")]
    tenths = np.bincount((np.array(kept) - 1) // 4, minlength=10)

    assert 500 * 0.8 < len(kept) <= 1000
    mean = len(kept) / 10
    assert np.all(np.abs(tenths - mean) < 4 * np.sqrt(mean * 0.9))


def test_the_worst_are_those_that_flip_then_those_that_differ_most(book: Book) -> None:
    close = experiments.columns(3)
    close.incumbent[:] = [10, 20, 74]
    close.challenger[:] = [60, 21, 75]
    book.record(pb.RecordPairsRequest(experiment_id="e", gateway_id="g", sequence=1, pairs=close))
    book.record(experiments.message(2, 200))

    worst = book.trials.report("e").worst

    assert [(one.incumbent, one.challenger, one.flips) for one in worst] == [
        (74, 75, True), (10, 60, False), (20, 21, False),
    ]  # fmt: skip
    assert worst[0].trace_id == close.trace_ids[32:].hex()
    assert worst[0].amount == close.amount[2]
    assert worst[0].at.ToMicroseconds() == close.at_us[2]


def test_the_worst_are_fifty_at_most(book: Book, again: Callable[[], Book]) -> None:
    book.record(experiments.message(1, 100, flips=70))
    book.record(experiments.message(2, 100, flips=70))

    assert len(again().trials.report("e").worst) == 50


def test_the_newest_failures_of_each_kind_are_kept_a_request_once(book: Book, again: Callable[[], Book]) -> None:
    lost, many = experiments.columns(3, errors=1), experiments.columns(400, errors=300, at_us=experiments.NOW_US + 1000)
    lost.challenger_error[0], lost.incumbent_error[:] = pb.PAIR_ERROR_LOST, [pb.PAIR_ERROR_TIMEOUT, 0, 0]
    many.trace_ids = many.trace_ids[: 16 * 299] + many.trace_ids[16 * 298 : 16 * 299] + many.trace_ids[16 * 300 :]
    many.canary[290] = True
    for sequence, pairs in enumerate((lost, many), 1):
        book.record(pb.RecordPairsRequest(experiment_id="e", gateway_id="g", sequence=sequence, pairs=pairs))

    found = book.trials.report("e").failures

    newest = [many.trace_ids[16 * i : 16 * i + 16].hex() for i in (299, 297, 296, 295, 294, 290)]
    assert [one.trace_id for one in found] == [*newest, lost.trace_ids[:16].hex()]
    assert [one.error for one in found] == [pb.PAIR_ERROR_FAILED] * 6 + [pb.PAIR_ERROR_LOST]
    assert [(one.canary, one.both) for one in found] == [(False, False)] * 5 + [(True, False), (False, True)]
    assert found[-1].at.ToMicroseconds() == lost.at_us[0]
    assert list(again().trials.report("e").failures) == list(found)


def test_rows_of_a_gateway_that_fell_silent_are_lost_until_it_speaks_again(book: Book) -> None:
    told = experiments.message(1)
    told.counts.sampled += 30
    book.record(told)
    assert book.figures().pending == 30

    book.clock.advance(61)
    assert (book.figures().pending, dict(book.figures().drops)) == (0, {"gateway": 30})
    assert dict(book.figures().drops) == {"gateway": 30}  # however often it is asked

    late = experiments.message(2, 30)
    late.counts.sampled = 0
    book.record(late)
    assert (book.figures().pending, dict(book.figures().drops), book.figures().pairs) == (0, {}, 130)


def test_nobody_is_silent_before_control_has_listened_for_a_while(book: Book, again: Callable[[], Book]) -> None:
    told = experiments.message(1)
    told.counts.sampled += 30
    book.record(told)

    after = again()
    after.clock.advance(50)
    assert after.figures().pending == 30
    after.clock.advance(20)
    assert after.figures().pending == 0


def test_a_gateway_that_is_gone_for_good_is_counted_once_and_forgotten(book: Book, again: Callable[[], Book]) -> None:
    told = experiments.message(1)
    told.counts.sampled += 30
    book.record(told)
    book.clock.advance(8 * 86_400)

    book.figures()
    book.trials.keep_house()
    book.trials.keep_house()

    assert (book.figures().pending, dict(book.figures().drops)) == (0, {"gateway": 30})
    after = again()
    assert dict(after.figures().drops) == {"gateway": 30}
    assert after.ledger.rows("SELECT * FROM gateways") == []


def test_outcomes_find_their_pairs_before_and_after_them(book: Book) -> None:
    early = [pb.Outcome(event_id="2-7", fraud=True), pb.Outcome(event_id="nobody's", fraud=True)]
    assert book.trials.record_outcomes(early) == 0
    book.record(experiments.message(1), experiments.message(2))
    assert book.trials.record_outcomes([pb.Outcome(event_id="1-3", fraud=True), pb.Outcome(event_id="2-7")]) == 2

    book.clock.advance(31 * 86_400)
    matured = book.trials.matured("e")

    assert len(matured.fraud) == 200  # silence means no fraud by then
    assert matured.fraud.sum() == 1  # the latest word on 2-7 counts
    assert matured.entity.dtype == np.uint64


def test_an_outcome_that_is_early_waits_for_the_others_of_its_time(book: Book) -> None:
    """Fraud is known before its absence is: taken as they come, labels would be nothing but fraud."""
    book.record(experiments.message(1))
    book.trials.record_outcomes([pb.Outcome(event_id=f"1-{i}", fraud=True) for i in range(60)])
    assert book.trials.matured("e") is None

    book.clock.advance(29 * 86_400)
    book.record(experiments.message(2, at_us=experiments.NOW_US + 29 * 86_400_000_000))
    book.trials.record_outcomes([pb.Outcome(event_id="2-7", fraud=True)])
    assert book.trials.matured("e") is None

    book.clock.advance(2 * 86_400)
    fraud = book.trials.matured("e").fraud
    assert (len(fraud), fraud.sum()) == (100, 60)


def test_without_any_outcome_silence_says_nothing(book: Book) -> None:
    book.record(experiments.message(1))
    book.clock.advance(31 * 86_400)

    assert book.trials.matured("e") is None


def test_wrong_outcomes_are_refused_by_name() -> None:
    good = pb.Outcome(event_id="1-1", fraud=True)

    late = pb.Outcome(event_id="1-2")
    late.at.seconds = 1 << 60

    with pytest.raises(InvalidInference, match=r"outcomes\[1\].event_id"):
        labels.check([good, pb.Outcome(fraud=True)])
    with pytest.raises(InvalidInference, match=r"outcomes\[1\].at"):
        labels.check([good, late])
    with pytest.raises(InvalidInference, match="outcomes: 10001, 10000 at most"):
        labels.check([good] * 10_001)
    labels.check([good] * 10_000)


@given(st.lists(st.integers(0, 9), max_size=30))
def test_the_oldest_outcomes_make_room_at_once(told: list[int]) -> None:
    book = Book(":memory:")
    heard: dict[str, None] = {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "MAX_KEPT", 5)
        for name in map(str, told):
            book.clock.advance(1)
            book.trials.record_outcomes([pb.Outcome(event_id=name)])
            heard.pop(name, None)
            heard[name] = None
            assert [key for (key,) in book.ledger.rows("SELECT event_id FROM outcomes ORDER BY heard_us")] == list(
                heard
            )[-5:]
    book.ledger.close()


def test_the_latest_word_on_a_payment_counts_in_whatever_piece_it_comes() -> None:
    told = [pb.Outcome(event_id=str(i % 700), fraud=i >= 700) for i in range(1400)]

    pieces = list(labels.chunks(told))

    assert [len(piece) for piece in pieces] == [labels.CHUNK, 700 - labels.CHUNK]
    assert all(outcome.fraud for piece in pieces for outcome in piece)


def test_old_outcomes_and_pairs_are_forgotten(book: Book) -> None:
    book.record(experiments.message(1))
    book.trials.record_outcomes([pb.Outcome(event_id="1-1", fraud=True)])
    book.clock.advance(181 * 86_400)

    book.trials.keep_house()

    assert book.ledger.rows("SELECT (SELECT COUNT(*) FROM pairs), (SELECT COUNT(*) FROM outcomes)") == [(0, 0)]
    assert book.figures().pairs == 100


def test_pairs_that_are_forgotten_make_no_others_go() -> None:
    book = Book(":memory:", sample_rows=100)
    book.begin()
    book.record(experiments.message(1, 100))
    book.clock.advance(181 * 86_400)

    book.trials.keep_house()
    book.record(experiments.message(2, 100, at_us=experiments.NOW_US + 181 * 86_400_000_000))

    assert book.ledger.rows("SELECT COUNT(*) FROM pairs") == [(100,)]


def test_the_timeline_has_a_point_in_ten_seconds_and_is_thinned(book: Book) -> None:
    for i in range(8):
        book.clock.advance(5)
        book.record(experiments.message(i + 1, 100, flips=1))
        book.trials.look("e", VERSIONS)
    assert [point.flips.trials for point in book.trials.report("e").timeline] == [100, 300, 500, 700]
    line = Timeline(book.ledger, "e")
    for i in range(3000):
        line.mark(pb.Figures(), pb.STAGE_SHADOW, experiments.NOW_US + (60 + 10 * i) * 1_000_000, moved=i == 1)

    points = book.trials.report("e").timeline

    assert 720 <= len(points) < 1440
    assert experiments.NOW_US + 70_000_000 in {point.at.ToMicroseconds() for point in points}  # a move stays
    moments = [point.at.ToMicroseconds() for point in points]
    assert moments == sorted(moments)
    assert points[-1].stage == pb.STAGE_SHADOW


def declared(primary: str) -> list[control_pb2.TrafficPolicy]:
    return [control_pb2.TrafficPolicy(model="m", primary_version=primary)]


def test_the_settings_are_the_start_and_win_again_when_they_change(book: Book, again: Callable[[], Book]) -> None:
    book.roll_back("enough")
    book.trials.declare(declared("1"))
    first = book.trials.policy("m").revision
    book.trials.set_traffic(declared("2")[0], Reason("ann", "better"))
    assert book.trials.policy("m").revision > first

    after = again()
    after.trials.declare(declared("1"))
    assert after.trials.policy("m").primary_version == "2"
    after.trials.declare(declared("3"))

    assert after.trials.policy("m").primary_version == "3"
    assert after.trials.policy("m").revision > book.trials.policy("m").revision


def test_an_experiment_on_its_way_wins_against_the_settings(book: Book, caplog: pytest.LogCaptureFixture) -> None:
    book.trials.declare(declared("3"))

    assert book.trials.policy("m").primary_version == "1"
    assert "models.m: who answers is decided by experiment 'e', not by the settings" in caplog.text


def test_settings_that_are_edited_during_an_experiment_are_taken_after_it(
    book: Book, again: Callable[[], Book]
) -> None:
    book.trials.declare(declared("3"))
    book.roll_back("enough")
    assert book.trials.policy("m").primary_version == "1"

    after = again()
    after.trials.declare(declared("3"))

    assert after.trials.policy("m").primary_version == "3"


def test_a_challenger_in_charge_without_a_replica_is_taken_back(book: Book) -> None:
    """Gateways can't tell of requests that had nowhere to go; a replica that is replaced in time changes nothing."""
    alone = {name: version for name, version in VERSIONS.items() if name != "2"}
    force = pb.PromoteRequest(id="e", force=True, to_stage=pb.STAGE_PRIMARY)
    book.trials.promote(force, "ann", VERSIONS)

    book.trials.look("e", alone)
    book.clock.advance(9)
    book.trials.look("e", alone)
    book.trials.look("e", VERSIONS)
    book.clock.advance(9)
    book.trials.look("e", alone)
    assert book.trials.find("e").stage == pb.STAGE_PRIMARY
    book.clock.advance(11)
    book.trials.look("e", {})
    assert book.trials.find("e").stage == pb.STAGE_PRIMARY  # nobody would answer after it
    book.trials.look("e", alone)

    moved = book.trials.find("e")
    assert moved.stage == pb.STAGE_ROLLED_BACK
    assert (moved.moves[-1].who, moved.moves[-1].why) == ("headrace", "version 2 has had no replica for 10 s")


def test_a_challenger_that_is_gone_is_taken_back_even_where_nothing_can_be_measured(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> pb.Report:
        raise OSError("the disk is gone")

    alone = {name: version for name, version in VERSIONS.items() if name != "2"}
    book.trials.promote(pb.PromoteRequest(id="e", force=True, to_stage=pb.STAGE_PRIMARY), "ann", VERSIONS)
    book.trials.look("e", alone)
    monkeypatch.setattr(book.trials, "_report", unreadable)
    book.clock.advance(11)
    book.trials.look("e", alone)

    assert book.trials.find("e").stage == pb.STAGE_ROLLED_BACK
    assert not book.trials.find("e").moves[-1].HasField("figures")
