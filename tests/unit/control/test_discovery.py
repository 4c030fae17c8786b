"""Leases, versions, goodbyes and refusals, with time in the test's hands."""

from __future__ import annotations

import pytest

from headrace.control.discovery import FAREWELL_S, Directory, InvalidRegistration
from headrace.errors import Conflict, status_of
from headrace.testing.clock import FakeClock
from headrace.v1 import control_pb2

READY = control_pb2.REPLICA_STATE_READY
GONE = control_pb2.REPLICA_STATE_GONE
LEASE_S = 3.0


def replica(
    replica_id: str = "a",
    state: control_pb2.ReplicaState = READY,
    digest: str = "sha256:1",
    endpoint: str = "127.0.0.1:1",
    queued: int = 0,
) -> control_pb2.Registration:
    return control_pb2.Registration(
        replica_id=replica_id,
        endpoint=endpoint,
        spec=control_pb2.ModelSpec(name="m", version="1", digest=digest),
        state=state,
        load=control_pb2.Load(queued=queued),
    )


def directory() -> tuple[Directory, FakeClock]:
    clock = FakeClock()
    return Directory(clock, LEASE_S), clock


def states(book: Directory) -> dict[str, control_pb2.ReplicaState]:
    return {entry.replica_id: entry.state for entry in book.replicas()}


def test_a_registration_is_listed_and_raises_the_version() -> None:
    book, _ = directory()

    assert book.register(replica()) is True
    assert book.version == 1
    assert states(book) == {"a": READY}


def test_an_identical_renewal_changes_nothing_but_the_lease() -> None:
    book, clock = directory()
    book.register(replica())
    clock.advance(2)

    assert book.register(replica()) is False
    assert book.version == 1
    assert book.next_expiry_s() == clock.now() + LEASE_S


def test_load_alone_leaves_the_version_and_is_listed_all_the_same() -> None:
    book, _ = directory()
    book.register(replica(queued=1))

    assert book.register(replica(queued=7)) is False
    assert book.version == 1
    assert [entry.load.queued for entry in book.replicas()] == [7]


@pytest.mark.parametrize(
    "changed",
    [
        replica(state=control_pb2.REPLICA_STATE_DRAINING),
        replica(endpoint="127.0.0.1:2"),
        replica(digest="sha256:2"),
    ],
    ids=["state", "endpoint", "spec"],
)
def test_a_registration_of_the_same_id_replaces_the_earlier_one(changed: control_pb2.Registration) -> None:
    book, _ = directory()
    book.register(replica())

    assert book.register(changed) is True
    assert book.version == 2
    assert book.replicas() == (changed,)


def test_an_entry_lives_until_its_lease_ends_and_no_longer() -> None:
    book, clock = directory()
    book.register(replica("a"))
    clock.advance(1)
    book.register(replica("b"))

    clock.advance(1.9)
    assert book.expire() == ()
    clock.advance(0.1)
    assert [lost.replica_id for lost in book.expire()] == ["a"]
    assert states(book) == {"b": READY}
    assert book.version == 3


def test_a_goodbye_is_listed_as_gone_and_then_forgotten() -> None:
    """A gateway keeps a replica that is merely absent, so a goodbye has to be seen."""
    book, clock = directory()
    book.register(replica())

    assert book.register(replica(state=GONE)) is True
    assert states(book) == {"a": GONE}
    clock.advance(FAREWELL_S)
    assert book.expire() == ()
    assert states(book) == {}
    assert book.version == 3


def test_a_goodbye_of_nobody_and_a_second_goodbye_change_nothing() -> None:
    book, _ = directory()

    assert book.register(replica(state=GONE)) is False
    book.register(replica())
    book.register(replica(state=GONE))
    assert book.register(replica(state=GONE)) is False
    assert book.version == 2


def test_another_digest_of_a_living_version_is_refused_as_already_existing() -> None:
    book, _ = directory()
    book.register(replica("a", digest="sha256:1"))

    with pytest.raises(Conflict, match="immutable") as refusal:
        book.register(replica("b", digest="sha256:2"))
    assert status_of(refusal.value) == "ALREADY_EXISTS"
    assert states(book) == {"a": READY}


def test_another_digest_is_accepted_once_nobody_holds_the_version() -> None:
    expired, clock = directory()
    expired.register(replica("a", digest="sha256:1"))
    clock.advance(LEASE_S)
    expired.expire()
    parted, _ = directory()
    parted.register(replica("a", digest="sha256:1"))
    parted.register(replica("a", state=GONE))

    assert expired.register(replica("b", digest="sha256:2")) is True
    assert parted.register(replica("b", digest="sha256:2")) is True


def test_every_lease_begins_anew_when_control_stood_still() -> None:
    book, clock = directory()
    book.register(replica())
    clock.advance(10)
    book.forgive()

    assert book.expire() == ()
    clock.advance(LEASE_S)
    assert [lost.replica_id for lost in book.expire()] == ["a"]


@pytest.mark.parametrize(
    ("spoilt", "what"),
    [
        (control_pb2.Registration(), "replica_id, endpoint, state, spec.name, spec.version, spec.digest"),
        (replica(endpoint=""), "endpoint"),
        (replica(state=control_pb2.REPLICA_STATE_UNSPECIFIED), "state"),
    ],
    ids=["empty", "endpoint", "state"],
)
def test_an_incomplete_registration_is_refused_by_name(spoilt: control_pb2.Registration, what: str) -> None:
    book, _ = directory()

    with pytest.raises(InvalidRegistration, match=f"needs {what}"):
        book.register(spoilt)


@pytest.mark.parametrize("version", ["latest", "01", "1.0", "-1"])
def test_a_version_that_gateways_cannot_order_is_refused(version: str) -> None:
    book, _ = directory()
    spoilt = replica()
    spoilt.spec.version = version

    with pytest.raises(InvalidRegistration, match=r"spec\.version"):
        book.register(spoilt)
