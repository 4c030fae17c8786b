"""Leases, digests and what followers hear of."""

from __future__ import annotations

import pytest

from headrace.control.discovery import Directory
from headrace.errors import Conflict, InvalidInference, NotPermitted
from headrace.testing.clock import FakeClock
from headrace.v1 import control_pb2


def entry(replica_id: str = "a", digest: str = "d", **changes: object) -> control_pb2.Registration:
    spec = control_pb2.ModelSpec(name="m", version="1", digest=digest)
    values = {"endpoint": "h:1", "state": control_pb2.REPLICA_STATE_READY, **changes}
    return control_pb2.Registration(replica_id=replica_id, spec=spec, **values)


def ids(directory: Directory) -> list[str]:
    return [replica.replica_id for replica in directory.snapshot("e").replicas]


def test_a_lease_ends_by_itself_and_a_renewal_keeps_it() -> None:
    clock = FakeClock()
    directory = Directory(clock, lease_s=3)
    directory.register(entry("a"))
    directory.register(entry("b"))
    clock.advance(2)
    directory.register(entry("a"))
    clock.advance(2)

    assert directory.expire() is True
    assert ids(directory) == ["a"]
    assert directory.expire() is False


def test_followers_hear_of_states_and_not_of_loads() -> None:
    directory = Directory(FakeClock(), lease_s=3)

    assert directory.register(entry(state=control_pb2.REPLICA_STATE_WARMING)) is True
    version = directory.version
    assert directory.register(entry(state=control_pb2.REPLICA_STATE_WARMING, load=control_pb2.Load(queued=3))) is False
    assert directory.version == version
    assert directory.snapshot("e").replicas[0].load.queued == 3
    assert directory.register(entry()) is True
    assert directory.version == version + 1


def test_a_goodbye_is_heard_at_once() -> None:
    directory = Directory(FakeClock(), lease_s=3)
    directory.register(entry())

    assert directory.register(entry(state=control_pb2.REPLICA_STATE_GONE)) is True
    assert ids(directory) == []
    assert directory.register(entry(state=control_pb2.REPLICA_STATE_GONE)) is False


def test_a_version_is_immutable_while_a_replica_of_it_lives() -> None:
    clock = FakeClock()
    directory = Directory(clock, lease_s=3)
    directory.register(entry("a", digest="one"))

    with pytest.raises(Conflict, match="is registered with digest one, not two"):
        directory.register(entry("b", digest="two"))
    clock.advance(4)
    directory.expire()

    assert directory.register(entry("b", digest="two")) is True


def test_a_replica_is_the_callers_who_registered_it_as_long_as_its_lease_runs() -> None:
    clock = FakeClock()
    directory = Directory(clock, lease_s=3)
    directory.register(entry(), "own")

    for state in (control_pb2.REPLICA_STATE_READY, control_pb2.REPLICA_STATE_GONE):
        with pytest.raises(NotPermitted, match="replica 'a' is registered by another caller"):
            directory.register(entry(state=state), "stranger")
    assert directory.register(entry(), "own") is False
    assert ids(directory) == ["a"]

    clock.advance(4)  # nobody has looked yet whose lease is over
    assert directory.register(entry(endpoint="elsewhere:1"), "stranger") is True


@pytest.mark.parametrize("field", ["endpoint", "spec.name", "spec.version", "spec.digest"])
def test_a_replica_is_where_and_what_it_was_when_it_registered(field: str) -> None:
    directory = Directory(FakeClock(), lease_s=3)
    directory.register(entry(), "own")
    another = entry()
    setattr(another.spec if "." in field else another, field.rpartition(".")[2], "7" if "version" in field else "h:7")

    with pytest.raises(Conflict, match=f"replica 'a' is registered with {field}"):
        directory.register(another, "own")
    assert directory.snapshot("e").replicas[0] == entry()


def test_a_policy_is_published_once_and_an_older_one_never() -> None:
    directory = Directory(FakeClock(), lease_s=3)
    policy = control_pb2.TrafficPolicy(model="m", primary_version="2", revision=5)

    assert directory.set_policy(policy) is True
    assert directory.set_policy(policy) is False
    assert directory.set_policy(control_pb2.TrafficPolicy(model="m", primary_version="1", revision=4)) is False
    assert list(directory.snapshot("e").policies) == [policy]


def test_a_version_is_ready_when_any_replica_of_it_is() -> None:
    directory = Directory(FakeClock(), lease_s=3)
    directory.register(entry("a", state=control_pb2.REPLICA_STATE_READY))
    directory.register(entry("b", state=control_pb2.REPLICA_STATE_WARMING))
    later = entry("c", state=control_pb2.REPLICA_STATE_WARMING)
    later.spec.version = "2"
    directory.register(later)

    assert {name: version.ready for name, version in directory.versions("m").items()} == {"1": True, "2": False}
    assert directory.versions("another") == {}


@pytest.mark.parametrize("version", ["latest", "", "0", "01", "-1", "1 ", "1\n", "٣", "²", "9" * 19, "9" * 5000])
def test_a_version_that_is_not_an_integer_with_one_spelling_is_refused(version: str) -> None:
    odd = entry()
    odd.spec.version = version

    with pytest.raises(InvalidInference, match=r"^spec.version: '.*' of 'm' is not an integer"):
        Directory(FakeClock(), lease_s=3).register(odd)


@pytest.mark.parametrize(
    "endpoint", ["", "nonsense", "h", "h:", ":1", "h:x", "h:0", "h:65536", "h:1\n", "a b:1", "h:1,h:2", "unix:/x:1"]
)
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    directory = Directory(FakeClock(), lease_s=3)

    with pytest.raises(InvalidInference, match=r"^endpoint: .* is not HOST:PORT"):
        directory.register(entry(endpoint=endpoint))
    assert ids(directory) == []


@pytest.mark.parametrize("endpoint", ["h:1", "10.0.0.7:65535", "replica-0.ns.svc:80", "[::1]:9", "fd00::7:9000"])
def test_names_and_addresses_of_both_kinds_are_endpoints(endpoint: str) -> None:
    directory = Directory(FakeClock(), lease_s=3)

    assert directory.register(entry(endpoint=endpoint)) is True


def test_what_a_replica_says_of_itself_is_bounded() -> None:
    directory = Directory(FakeClock(), lease_s=3)
    named, large = entry(), entry()
    named.spec.name = "m" * 257
    large.spec.inputs.add(labels=["x" * 1000] * 100)

    for wrong, field in (
        (entry(""), "replica_id"),
        (entry("r" * 257), "replica_id"),
        (entry("a\nb"), "replica_id"),
        (named, "spec.name"),
        (large, "spec"),
        (entry(host="h" * 257), "host"),
        (entry(device="d" * 257), "device"),
    ):
        with pytest.raises(InvalidInference, match=f"^{field}: "):
            directory.register(wrong)
    assert ids(directory) == []


@pytest.mark.parametrize(
    ("datatype", "longest", "sentence"),
    [
        ("FP31", 0, "datatype: 'FP31' is not one of BOOL, "),
        ("", 0, "datatype: '' is not one of BOOL, "),
        ("BYTES", 0, "max_bytes: 0 is not from 1 to 65536, for BYTES only$"),
        ("BYTES", 65_537, "max_bytes: 65537 is not from 1 to 65536, for BYTES only$"),
        ("FP32", 1, "max_bytes: 1 is not from 1 to 65536, for BYTES only$"),
    ],
)
def test_a_tensor_that_no_gateway_could_decode_is_refused(datatype: str, longest: int, sentence: str) -> None:
    directory = Directory(FakeClock(), lease_s=3)
    for field in ("inputs", "outputs", "extras"):
        odd = entry()
        getattr(odd.spec, field).add(name="x", datatype=datatype, dims=[1], max_bytes=longest)

        with pytest.raises(InvalidInference, match=rf"^spec\.{field}\.\d\.{sentence}"):
            directory.register(odd)
    assert ids(directory) == []
