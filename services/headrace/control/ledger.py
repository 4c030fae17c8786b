"""The ledger: a SQLite file that knows every experiment, every move and who answered when. Nobody else sees sqlite3.

Used from one thread. A process that is killed loses nothing that was committed; a power cut may lose the last pairs,
never a move: moves are synced one by one (`durable`). What the tables hold is in `schema`; pairs are in `evidence`.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from headrace.control.schema import MIGRATIONS, VERSION
from headrace.errors import NotServing, StartupError
from headrace.telemetry.histogram import HistogramFamily
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb

log = logging.getLogger(__name__)

MEMORY: Final = ":memory:"
"""A ledger that ends with its process."""
BUSY_S: Final = 1.0
"""How long somebody else's transaction, a backup say, is waited for."""
WAL_BYTES: Final = 16 << 20
CACHE_KIB: Final = 32 << 10
"""A full sample lies in it, with its index by payment, whose pages are written at random."""
COMMIT_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
Some = TypeVar("Some", bound=Message)


class Traffic(NamedTuple):
    """Who answers for a model: as it was set, and as its experiments make it."""

    base: control_pb2.TrafficPolicy
    policy: control_pb2.TrafficPolicy


class Ledger:
    """An open ledger. `max_bytes`: bound of the file, 0 = the disk's.

    Raises: StartupError when it can't be opened: without it nobody knows who is in charge, and gateways that go on with
    what they know are better off.
    """

    def __init__(self, path: Path | str, max_bytes: int = 0) -> None:
        self.path = str(path)
        self.commits = HistogramFamily(
            "headrace_ledger_commit_duration_seconds", "Commit; durable: synced to the disk.", ("durable",), COMMIT_S
        )
        self.failures = 0
        """Statements and commits that the file refused."""
        self.failing = False
        """It refused the last one."""
        self._lock: io.TextIOBase | None = None
        try:
            if self.path != MEMORY:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self._lock = self._locked()
            self._db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
            self._db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            self._migrate()
            if max_bytes:
                page = self._db.execute("PRAGMA page_size").fetchone()[0]
                self._db.execute(f"PRAGMA max_page_count={max_bytes // page}")
        except (sqlite3.Error, OSError) as error:
            self._unlock()
            raise StartupError(f"control.ledger: {self.path}: {error}") from error
        except StartupError:
            self._unlock()
            raise

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it."""
        self._db.close()
        self._unlock()

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """All of it or nothing. `durable`: synced to the disk before it returns.

        Raises: NotServing when the disk is full, the file locked or damaged; nothing was written then.
        """
        with self._translated():
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            with self._translated():
                begun = time.perf_counter()
                self._db.execute("COMMIT")
                self.commits.labels(str(durable).lower()).observe(time.perf_counter() - begun)
        except BaseException:
            if self._db.in_transaction:  # SQLite has ended it by itself after some errors
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            raise
        self._recovered()

    def write_nothing(self) -> None:
        """Write the file as it is: whether that is possible. Raises: NotServing."""
        with self.transaction(durable=True):
            self.execute(f"PRAGMA user_version={VERSION}")

    def execute(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run one statement; how many rows it changed. Raises: NotServing."""
        with self._translated():
            return self._db.execute(sql, values).rowcount

    def execute_each(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row. Raises: NotServing."""
        with self._translated():
            self._db.executemany(sql, rows)

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query finds. Raises: NotServing."""
        with self._translated():
            return self._db.execute(sql, values).fetchall()

    # Experiments and their moves ------------------------------------------------------------------------------------

    def experiments(self) -> list[pb.Experiment]:
        """All of them with their moves, the oldest first."""
        found = [
            _message(pb.Experiment(), body)
            for (body,) in self.rows("SELECT body FROM experiments ORDER BY created_us, id")
        ]
        for experiment in found:
            experiment.moves.extend(self._moves(experiment.id))
        return found

    def put_experiment(self, experiment: pb.Experiment, now_us: int) -> None:
        """Enter an experiment, or what has become of it; its moves are entered by themselves."""
        bare = pb.Experiment()
        bare.CopyFrom(experiment)
        bare.ClearField("moves")
        self.execute(
            "INSERT INTO experiments (id, created_us, body) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (experiment.id, now_us, _text(bare)),
        )

    def add_move(self, experiment_id: str, number: int, move: pb.Move) -> None:
        """Enter a move, counted from 0."""
        self.execute(
            "INSERT INTO moves VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                experiment_id,
                number,
                move.at.ToMicroseconds(),
                move.who,
                move.why,
                pb.Stage.Name(move.from_stage),
                pb.Stage.Name(move.to_stage),
                move.canary_share,
                _text(move.figures) if move.HasField("figures") else None,
            ),
        )

    def _moves(self, experiment_id: str) -> Iterator[pb.Move]:
        found = self.rows(
            "SELECT at_us, who, why, from_stage, to_stage, canary_share, figures FROM moves"
            " WHERE experiment = ? ORDER BY number",
            (experiment_id,),
        )
        for at_us, who, why, from_stage, to_stage, share, figures in found:
            move = pb.Move(who=who, why=why, from_stage=from_stage, to_stage=to_stage, canary_share=share)
            move.at.FromMicroseconds(at_us)
            if figures is not None:
                move.figures.CopyFrom(_message(pb.Report(), figures))
            yield move

    # Who answers ----------------------------------------------------------------------------------------------------

    def traffic(self) -> dict[str, Traffic]:
        """What is in force, by model."""
        latest = self.rows("SELECT model, base, policy, MAX(revision) FROM traffic GROUP BY model")
        empty = control_pb2.TrafficPolicy
        return {model: Traffic(_message(empty(), base), _message(empty(), policy)) for model, base, policy, _ in latest}

    def add_traffic(self, traffic: Traffic, now_us: int, who: str, why: str) -> None:
        """Enter a change; the policy's revision must be higher than any before."""
        base, policy = traffic
        self.execute(
            "INSERT INTO traffic VALUES (?, ?, ?, ?, ?, ?, ?)",
            (policy.model, policy.revision, now_us, who, why, _text(base), _text(policy)),
        )

    def declared(self) -> dict[str, control_pb2.TrafficPolicy]:
        """What the settings said of each model when they were read last."""
        found = self.rows("SELECT model, base FROM declared")
        return {model: _message(control_pb2.TrafficPolicy(), base) for model, base in found}

    def put_declared(self, base: control_pb2.TrafficPolicy) -> None:
        self.execute("INSERT OR REPLACE INTO declared VALUES (?, ?)", (base.model, _text(base)))

    # The file -------------------------------------------------------------------------------------------------------

    def _locked(self) -> io.TextIOBase:
        """Two controls with one ledger would overwrite each other's sums. SQLite's own locks are on the file itself."""
        lock = Path(self.path + ".lock").open("w")  # noqa: SIM115  it is held as long as the ledger
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StartupError(f"control.ledger: {self.path} is kept by another control") from None
        return lock

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise StartupError(
                f"control.ledger: {self.path} has schema {version}, this headrace knows {VERSION} at most: "
                "it was written by a newer one"
            )
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={number}; COMMIT;")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if not self.failing:
                log.error("the ledger %s can't be used: %s", self.path, error)  # noqa: TRY400  its line says it all
            self.failing = True
            self.failures += 1
            raise NotServing(f"the ledger can't be used now: {error}") from error

    def _recovered(self) -> None:
        if self.failing:
            log.warning("the ledger %s can be used again", self.path)
        self.failing = False


def _text(message: Message) -> str:
    return json_format.MessageToJson(message, indent=None, preserving_proto_field_name=True)


def _message(empty: Some, text: str) -> Some:
    """A field that only a newer headrace knew is left out."""
    return json_format.Parse(text, empty, ignore_unknown_fields=True)
