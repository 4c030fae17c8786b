"""Who a call is from and what it may do, without a socket: modes, certificates, tokens, permissions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.access import Access, assert_may, name_of
from headrace.config import AccessSettings, Caller, Permission
from headrace.errors import HeadraceError, NotPermitted, Unauthenticated

HERE, THERE = "ipv4:127.0.0.1:5000", "ipv4:10.0.0.7:5000"
PERMISSIONS = get_args(Permission)
TOKEN = "k7Q2c-9vTzXo3"  # noqa: S105  it opens nothing


@dataclass
class Client:
    """One connection."""

    remembered: dict[Any, Any] = field(default_factory=dict)


@dataclass
class Call:
    """What Access asks of a call."""

    where: str = THERE
    names: dict[str, list[bytes]] = field(default_factory=dict)
    token: str = ""
    encrypted: bool = True
    connection: Client = field(default_factory=Client)
    looked: int = 0

    def peer(self) -> str:
        return self.where

    def auth_context(self) -> dict[str, list[bytes]]:
        self.looked += 1
        return {**self.names, **({"transport_security_type": [b"ssl"]} if self.encrypted else {})}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", "x"), *([("authorization", self.token)] if self.token else []))


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def access(*callers: Caller, mode: Any = "auto") -> Access:
    return Access(AccessSettings(mode=mode, callers=callers))


def outcome(asked: Access, call: Call, permission: str = "infer") -> str:
    try:
        return asked.require(call, permission).name
    except HeadraceError as error:
        return type(error).__name__


BEARER = Caller(name="bearer", token_sha256=digest(TOKEN), may=("infer",))
SHOWING = Caller(name="showing", certificate="spiffe://pay.example/*", may=("infer", "read"))
CERTIFIED = {"peer_uri": [b"spiffe://pay.example/checkout"], "x509_common_name": [b"somebody"]}


@pytest.mark.parametrize("permission", PERMISSIONS)
def test_whoever_is_on_this_machine_may_do_everything_unless_it_is_closed(permission: str) -> None:
    for where in (HERE, "ipv4:127.8.9.1:1", "ipv6:[::1]:5000", "ipv6:[::ffff:127.0.0.1]:80"):
        assert outcome(access(), Call(where), permission) == "local"
        assert outcome(access(BEARER, mode="closed"), Call(where), permission) == "Unauthenticated"
        assert outcome(access(mode="open"), Call(where), permission) == "anonymous"


@pytest.mark.parametrize("where", [THERE, "ipv6:[2001:db8::1]:5", "ipv6:[::ffff:10.0.0.1]:80", "unix:", "", "ipv4:x:1"])
def test_nobody_else_may_do_anything_unless_known_or_it_is_open(where: str) -> None:
    for permission in PERMISSIONS:
        assert outcome(access(), Call(where), permission) == "Unauthenticated"
        assert outcome(access(mode="open"), Call(where), permission) == "anonymous"


@pytest.mark.parametrize("mode", ["auto", "closed"])
@pytest.mark.parametrize("given_", PERMISSIONS)
@pytest.mark.parametrize("asked", PERMISSIONS)
def test_a_caller_may_do_what_is_written_and_readers_may_read(mode: str, given_: Any, asked: str) -> None:
    caller = Caller(name="a", token_sha256=digest(TOKEN), may=(given_,))
    implied = {given_, "read"} if given_ in ("gateway", "replica", "admin") else {given_}

    found = outcome(access(caller, mode=mode), Call(token=f"Bearer {TOKEN}"), asked)

    assert found == ("a" if asked in implied else "NotPermitted")


@pytest.mark.parametrize(
    ("pattern", "names", "known"),
    [
        ("spiffe://pay.example/*", CERTIFIED, True),
        ("spiffe://pay.example/checkout", CERTIFIED, True),
        ("spiffe://pay.example/check", CERTIFIED, False),
        ("SPIFFE://pay.example/checkout", CERTIFIED, False),
        ("somebody", CERTIFIED, False),
        ("somebody", {"x509_common_name": [b"somebody"]}, False),
        ("cn:somebody", CERTIFIED, True),
        ("cn:some*", {"x509_common_name": [b"somebody"]}, True),
        ("cn:somebody", {"peer_dns": [b"somebody"], "peer_uri": [b"cn:somebody"]}, False),
        ("spiffe://pay.example/*", {"x509_common_name": [b"spiffe://pay.example/checkout"]}, False),
        ("spiffe://pay.example/*", {"peer_dns": [b"spiffe://pay.example/checkout"]}, False),
        ("*", CERTIFIED, False),
        ("*.example", {"peer_uri": [b"spiffe://pay.example"]}, False),
        ("a?.pay.example", {"peer_dns": [b"ab.pay.example"]}, False),
        ("a?.pay.example", {"peer_dns": [b"a?.pay.example"]}, True),
        ("[ab].pay.example", {"peer_dns": [b"a.pay.example"]}, False),
        ("a.pay.example", {"peer_dns": [b"a-pay.example"]}, False),
        ("*.pay.example", {"peer_dns": [b"a.other", b"b.pay.example"]}, True),
        ("10.*", {"peer_ip": [b"10.0.0.1"], "x509_common_name": [b"x"]}, False),
        ("*", {}, False),
    ],
)
def test_a_certificate_is_known_by_its_names(pattern: str, names: dict[str, list[bytes]], known: bool) -> None:  # noqa: FBT001
    caller = Caller(name="a", certificate=pattern, may=("infer",))

    assert outcome(access(caller), Call(names=names)) == ("a" if known else "Unauthenticated")


def test_a_token_counts_before_the_certificate_of_its_connection_and_alone() -> None:
    asked = access(SHOWING, BEARER)
    connection = Client()

    def by(token: str) -> str:
        return outcome(asked, Call(names=CERTIFIED, token=token, connection=connection))

    assert [by(""), by(f"Bearer {TOKEN}"), by(""), by("Bearer wrong-token"), by(f"bearer {TOKEN}")] == [
        "showing",
        "bearer",
        "showing",
        "Unauthenticated",
        "bearer",
    ]


def test_a_token_in_plain_text_is_only_taken_from_this_machine() -> None:
    asked = access(BEARER, mode="closed")
    bearing = f"Bearer {TOKEN}"

    assert outcome(asked, Call(HERE, token=bearing, encrypted=False)) == "bearer"
    assert outcome(asked, Call(THERE, token=bearing, encrypted=False)) == "Unauthenticated"
    assert outcome(asked, Call(THERE, token=bearing)) == "bearer"


def test_old_and_new_token_are_one_caller_while_they_change() -> None:
    asked = access(BEARER, BEARER.model_copy(update={"token_sha256": digest("another-token")}))

    assert {outcome(asked, Call(token=f"Bearer {token}")) for token in (TOKEN, "another-token")} == {"bearer"}


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_no_other_token_is_known(token: str) -> None:
    asked = access(BEARER, SHOWING)

    assert outcome(asked, Call(token=f"Bearer {token}")) == ("bearer" if token == TOKEN else "Unauthenticated")
    assert outcome(asked, Call(token=token or "x")) == "Unauthenticated"


def test_a_connection_is_looked_at_once_and_remembers_nothing_of_strangers() -> None:
    asked, connection = access(SHOWING, BEARER), Client()
    calls = [Call(names=CERTIFIED, connection=connection) for _ in range(3)]
    for call in calls:
        asked.require(call, "infer")
    for number in range(100):
        outcome(asked, Call(token=f"Bearer guess-{number}", connection=connection))
        outcome(asked, Call(token=f"Basic {number}", connection=connection))

    assert [call.looked for call in calls] == [1, 0, 0]
    assert len(connection.remembered) == 2  # itself, and that nothing holds for all its calls


def test_what_strangers_are_told_is_the_same_whoever_is_known() -> None:
    def told(asked: Access, call: Call) -> str:
        with pytest.raises(Unauthenticated) as caught:
            asked.require(call, "admin")
        return str(caught.value)

    sentences = {
        told(callers, call)
        for callers in (access(), access(BEARER), access(BEARER, SHOWING))
        for call in (
            Call(),
            *(Call(token=word) for word in ("Bearer x-wrong", "Basic x")),
            Call(names={"peer_dns": [b"x"]}),
        )
    }

    assert len(sentences) == 1
    assert "bearer" not in sentences.pop().replace("bearer token", "")


@pytest.mark.parametrize(
    ("patterns", "model", "may"),
    [
        ((), "anything", True),
        (("fraud-tx",), "fraud-tx", True),
        (("fraud-tx",), "fraud-tx-2", False),
        (("fraud-tx",), "Fraud-tx", False),
        (("fraud-*",), "fraud-", True),
        (("fraud-*",), "a-fraud-tx", False),
        (("a", "*-gru"), "fraud-gru", True),
        (("fraud.tx",), "fraud-tx", False),
        (("fraud-[tg]*",), "fraud-tx", False),
        (("*",), "x\ny", True),
        (("fraud-tx",), "fraud-tx\n", False),
    ],
)
def test_a_caller_asks_the_models_that_are_written_for_it(patterns: tuple[str, ...], model: str, may: bool) -> None:  # noqa: FBT001
    caller = Caller(name="a", token_sha256=digest(TOKEN), may=("infer",), infer_models=patterns)
    identity = access(caller).require(Call(token=f"Bearer {TOKEN}"), "infer")

    assert identity.may_ask(model) == may
    if not may:
        with pytest.raises(NotPermitted, match="this caller may not ask the model"):
            identity.assert_may_ask(model)


def test_a_handler_can_ask_for_a_permission_that_its_method_does_not_need() -> None:
    @dataclass
    class Admitted:
        caller: Any

    admin = Caller(name="b", token_sha256=digest("b-token"), may=("admin",))
    asked = access(BEARER, admin)

    assert_may(Admitted(asked.identify(Call(token="Bearer b-token"))), "admin")  # noqa: S106
    with pytest.raises(NotPermitted, match="'admin'"):
        assert_may(Admitted(asked.identify(Call(token=f"Bearer {TOKEN}"))), "admin")
    with pytest.raises(Unauthenticated):
        assert_may(Admitted(None), "admin")
    assert [name_of(Admitted(asked.identify(Call(token="Bearer b-token")))), name_of(Admitted(None))] == ["b", ""]  # noqa: S106


def test_a_known_caller_is_told_which_permission_it_lacks() -> None:
    with pytest.raises(NotPermitted, match="'admin'"):
        access(BEARER).require(Call(token=f"Bearer {TOKEN}"), "admin")
