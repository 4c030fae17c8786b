"""A later cluster of a service takes over from the one before, and nobody is left without a replica by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.control.discovery import Directory
from headrace.control.handover import standing_by
from headrace.errors import InvalidInference
from headrace.testing.clock import FakeClock
from headrace.v1 import control_pb2

READY, WARMING, DRAINING = (
    control_pb2.REPLICA_STATE_READY,
    control_pb2.REPLICA_STATE_WARMING,
    control_pb2.REPLICA_STATE_DRAINING,
)
BEGAN_US = {"blue": 100, "green": 200, "red": 300}


def entry(replica_id: str, cluster: str, state: int = READY, **changes: object) -> control_pb2.Registration:
    values = {"service": "pay", "started_us": BEGAN_US.get(cluster, 0), "version": "1", **changes}
    spec = control_pb2.ModelSpec(name="m", version=values.pop("version"), digest="d")
    return control_pb2.Registration(
        replica_id=replica_id, endpoint="h:1", spec=spec, state=state, cluster=cluster, **values
    )


def directory(*entries: control_pb2.Registration) -> Directory:
    found = Directory(FakeClock(), lease_s=3)
    for one in entries:
        found.register(one)
    return found


def shown(found: Directory) -> dict[str, int]:
    return {one.replica_id: one.state for one in found.snapshot("e").replicas}


def ids(entries: Iterable[control_pb2.Registration], who: str = "") -> frozenset[str]:
    return standing_by((one, who) for one in entries)


registrations = st.lists(
    st.builds(
        entry,
        replica_id=st.uuids().map(str),
        cluster=st.sampled_from(["", *BEGAN_US]),
        state=st.sampled_from([READY, READY, WARMING, DRAINING]),
        service=st.sampled_from(["", "pay", "ship"]),
        started_us=st.integers(0, 3),
        version=st.sampled_from(["1", "2"]),
    ),
    max_size=16,
)


def test_the_earlier_cluster_stands_by_once_the_later_is_there_at_full_strength() -> None:
    found = directory(entry("b1", "blue"), entry("b2", "blue"), entry("g1", "green"), entry("g2", "green", WARMING))
    assert shown(found) == {"b1": READY, "b2": READY, "g1": READY, "g2": WARMING}
    version = found.version

    assert found.register(entry("g2", "green")) is True

    assert shown(found) == {"b1": DRAINING, "b2": DRAINING, "g1": READY, "g2": READY}
    assert found.version == version + 1
    assert [one.replica_id for one in found.snapshot("e").replicas if one.standby] == ["b1", "b2"]
    assert {one.state for one in found.registrations()} == {READY}
    assert found.versions("m")["1"].ready


def test_a_renewal_of_one_that_stands_by_is_no_change_and_its_load_is_shown() -> None:
    found = directory(entry("b1", "blue"), entry("g1", "green"))

    assert found.register(entry("b1", "blue", load=control_pb2.Load(queued=3))) is False

    (blue, _) = found.snapshot("e").replicas
    assert (blue.state, blue.load.queued) == (DRAINING, 3)


@pytest.mark.parametrize("how", ["drains", "says goodbye", "is silent"])
def test_when_the_later_cluster_loses_a_replica_the_earlier_is_back(how: str) -> None:
    clock = FakeClock()
    found = Directory(clock, lease_s=3)
    for one in (entry("b1", "blue"), entry("g1", "green")):
        found.register(one)
    assert shown(found)["b1"] == DRAINING
    version = found.version

    if how == "is silent":
        clock.advance(2)
        found.register(entry("b1", "blue"))
        clock.advance(2)
        assert found.expire() is True
    else:
        state = DRAINING if how == "drains" else control_pb2.REPLICA_STATE_GONE
        assert found.register(entry("g1", "green", state)) is True

    assert shown(found)["b1"] == READY
    assert found.version == version + 1


def test_each_version_is_handed_over_by_itself() -> None:
    found = directory(entry("b1", "blue"), entry("b2", "blue", version="2"), entry("g2", "green", version="2"))

    assert shown(found) == {"b1": READY, "b2": DRAINING, "g2": READY}


def test_a_third_cluster_that_warms_up_does_not_call_the_first_one_back() -> None:
    found = directory(entry("b1", "blue"), entry("g1", "green"), entry("r1", "red", WARMING))
    assert shown(found) == {"b1": DRAINING, "g1": READY, "r1": WARMING}

    found.register(entry("r1", "red"))

    assert shown(found) == {"b1": DRAINING, "g1": DRAINING, "r1": READY}


def test_a_replica_that_was_replaced_lately_does_not_make_its_cluster_the_later_one() -> None:
    """All replicas of a cluster say when their cluster began, however late they came themselves."""
    found = directory(entry("g1", "green"), entry("b2", "blue"))

    assert shown(found) == {"g1": READY, "b2": DRAINING}


def test_nobody_takes_over_from_another_callers_replicas() -> None:
    found = Directory(FakeClock(), lease_s=3)
    found.register(entry("b1", "blue"), "ours")
    found.register(entry("g1", "green"), "a stranger")

    assert shown(found) == {"b1": READY, "g1": READY}


@pytest.mark.parametrize("without", ["service", "cluster"])
def test_replicas_without_a_service_or_a_cluster_stand_by_themselves(without: str) -> None:
    entries = [entry("b1", "blue"), entry("g1", "green")]
    for one in entries:
        one.ClearField(without)

    assert shown(directory(*entries)) == {"b1": READY, "g1": READY}


def test_the_name_of_a_service_is_bounded() -> None:
    with pytest.raises(InvalidInference, match=r"^service: "):
        directory(entry("b1", "blue", service="s" * 257))


@given(registrations)
def test_no_version_has_fewer_ready_replicas_left_than_its_strongest_cluster(
    entries: list[control_pb2.Registration],
) -> None:
    gone = ids(entries)
    ready = [one for one in entries if one.state == READY]
    clusters = Counter((one.spec.version, one.service, one.cluster) for one in ready)
    left = Counter((one.spec.version, one.service) for one in ready if one.replica_id not in gone)

    assert all(left[version, service] >= count for (version, service, _), count in clusters.items())
    assert gone <= {one.replica_id for one in ready}


@given(registrations, st.randoms(use_true_random=False))
def test_control_started_anew_decides_the_same_whoever_comes_back_first(
    entries: list[control_pb2.Registration], order: object
) -> None:
    before = shown(directory(*entries))
    order.shuffle(entries)  # type: ignore[attr-defined]

    assert shown(directory(*entries)) == before


@given(registrations)
def test_services_side_by_side_do_not_know_of_each_other(entries: list[control_pb2.Registration]) -> None:
    alone = [ids(one for one in entries if one.service == service) for service in ("", "pay", "ship")]

    assert ids(entries) == frozenset().union(*alone)
    assert alone[0] == frozenset()


@given(registrations, st.sampled_from([READY, WARMING, DRAINING, control_pb2.REPLICA_STATE_GONE]), st.data())
def test_followers_hear_of_every_change_of_who_stands_by(
    entries: list[control_pb2.Registration], state: int, data: st.DataObject
) -> None:
    found = directory(*entries)
    before, version = shown(found), found.version
    if not entries:
        return
    one = data.draw(st.sampled_from(entries))
    changed = control_pb2.Registration()
    changed.CopyFrom(one)
    changed.state = state  # type: ignore[assignment]

    told = found.register(changed)

    assert told is (found.version > version)
    assert told or shown(found) == before
