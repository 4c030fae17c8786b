"""The collector's configuration hangs together, and what it keeps of real families it keeps whole.

The program itself is on no registry: its rules are evaluated here, as its documents define them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helm.chart import merged
from tests.helm.conftest import Rendered
from tests.helm.release import Release
from tests.records import Telling, Told, batch_of, rider

from headrace.core.records import BatchRecord
from headrace.telemetry import keep
from headrace.telemetry.catalogue import Catalogue, Page

Config = Mapping[str, Any]

ONE: Final = {"telemetry": {"collector": {"enabled": True, "exporters": {"otlp/store": {"endpoint": "store:4317"}}}}}
THREE: Final = merged(ONE, {"telemetry": {"collector": {"replicas": 3}}})
CASES: Final = {"one": ONE, "three": THREE}


def config(release: Release) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(release.one("ConfigMap", "-collector")["data"]["config.yaml"])
    return tree


def pipelines(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = config["service"]["pipelines"]
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_part_is_declared_and_used(rendered: Rendered, case: str) -> None:
    found = config(rendered(CASES[case]))

    for kind in ("receivers", "processors", "exporters"):
        assert {name for one in pipelines(found).values() for name in one[kind]} == found[kind].keys()
    assert found["service"]["extensions"] == list(found["extensions"])


@pytest.mark.parametrize("case", CASES)
def test_memory_is_looked_at_first_and_batches_are_made_last(rendered: Rendered, case: str) -> None:
    for pipeline in pipelines(config(rendered(CASES[case]))).values():
        assert pipeline["processors"][0] == "memory_limiter"
        assert "batch" not in pipeline["processors"][:-1]


def test_one_collector_decides_by_itself(rendered: Rendered) -> None:
    release = rendered(ONE)

    assert pipelines(config(release)).keys() == {"traces"}
    assert [port["name"] for port in release.pods_of("collector")[0].ports] == ["otlp", "metrics", "health"]


def test_of_several_one_gets_all_spans_of_a_trace(rendered: Rendered) -> None:
    release = rendered(THREE)
    found, peers = config(release), release.one("Service", "-collector-peers")
    first, second = pipelines(found)["traces/by-trace"], pipelines(found)["traces"]
    resolver = found["exporters"]["loadbalancing"]["resolver"]["dns"]
    (pod,) = release.pods_of("collector")

    assert first["receivers"] == ["otlp"]
    assert first["exporters"] == ["loadbalancing"]
    assert "tail_sampling" not in first["processors"]
    assert second["receivers"] == ["otlp/peers"]
    assert "tail_sampling" in second["processors"]
    assert "loadbalancing" not in second["exporters"]
    assert found["exporters"]["loadbalancing"]["routing_key"] == "traceID"
    assert resolver["hostname"] == f"{peers['metadata']['name']}.{release.namespace}.svc"
    assert peers["spec"]["clusterIP"] == "None"
    assert resolver["port"] == str(pod.port("peers")) == str(peers["spec"]["ports"][0]["port"])


@pytest.mark.parametrize("case", CASES)
def test_it_listens_where_the_pod_says_and_gateways_send(rendered: Rendered, case: str) -> None:
    release = rendered(CASES[case])
    found, (pod,) = config(release), release.pods_of("collector")
    told = {
        "otlp": found["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"],
        "health": found["extensions"]["health_check"]["endpoint"],
    }
    (reader,) = found["service"]["telemetry"]["metrics"]["readers"]
    service = release.one("Service", "-collector")
    address = f"http://{service['metadata']['name']}.{release.namespace}.svc:{service['spec']['ports'][0]['port']}"

    assert told == {name: f"0.0.0.0:{pod.port(name)}" for name in told}
    assert reader["pull"]["exporter"]["prometheus"]["port"] == pod.port("metrics")
    assert release.settings["telemetry"]["otlp_endpoint"] == address
    assert pod.spec["automountServiceAccountToken"] is False
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert pod.main[probe]["httpGet"]["port"] == "health"


def test_gateways_mark_what_it_calls_slow(rendered: Rendered) -> None:
    """A policy by latency would keep the request and not its batch: the gateway marks both."""
    slow = rendered(merged(ONE, {"telemetry": {"collector": {"slowMilliseconds": 80}}}))

    assert slow.settings["telemetry"]["slow_ms"] == 80
    assert "latency" not in str(config(slow))


def test_without_exporters_it_still_starts(rendered: Rendered) -> None:
    found = config(rendered({"telemetry": {"collector": {"enabled": True}}}))

    assert pipelines(found)["traces"]["exporters"] == ["debug"]


# What it keeps --------------------------------------------------------------------------------------------------------


def condition_holds(condition: str, span: Told) -> bool:
    """OTTL, as much as we use: attributes compared with words, joined by `and`. One that is not there equals none."""
    for part in condition.split(" and "):
        matched = re.fullmatch(r'attributes\["([^"]+)"\] (==|!=|<) "([^"]*)"', part)
        assert matched, part
        name, operator, word = matched.groups()
        value = span.attributes.get(name)
        holds = {"==": value == word, "!=": value != word, "<": value is not None and value < word}
        if not holds[operator]:
            return False
    return True


def policy_samples(policy: Mapping[str, Any], trace: Iterable[Told]) -> bool:
    match policy["type"]:
        case "string_attribute":
            asked = policy["string_attribute"]
            return any(span.attributes.get(asked["key"]) in asked["values"] for span in trace)
        case "status_code":
            assert policy["status_code"] == {"status_codes": ["ERROR"]}
            return any(span.blank.error for span in trace)
        case "ottl_condition":
            conditions = policy["ottl_condition"]["span"]
            return any(condition_holds(condition, span) for span in trace for condition in conditions)
    raise AssertionError(policy["type"])


def kept(found: Config, spans: Iterable[Told]) -> set[bytes]:
    """The traces that it keeps: those that any policy samples."""
    traces: dict[bytes, list[Told]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    policies = found["processors"]["tail_sampling"]["policies"]
    return {name for name, trace in traces.items() if any(policy_samples(policy, trace) for policy in policies)}


def family(number: int, rows: int, *, path: str = "primary") -> BatchRecord:
    """A batch of its own and its members, all of them answered at once by their first replica."""
    chance = random.Random(f"{path} {number}")
    members = [
        replace(rider(span_id=chance.getrandbits(63), path=path, request_id=""), trace_id=chance.randbytes(16))
        for _ in range(rows)
    ]
    record = batch_of(*members)
    record.trace_id, record.span_id, record.path = chance.randbytes(16), chance.getrandbits(64), path
    record.dispatches = record.dispatches[1:]
    return record


def told(record: BatchRecord, reasons: list[str] | None = None) -> list[Told]:
    telling = Telling()
    Catalogue(telling, (), 512).family(record, reasons or [""] * len(record.members), Page())
    return telling.spans


def sampling(rendered: Rendered, **shares: float) -> Config:
    return config(rendered(merged(ONE, {"telemetry": {"collector": shares}})))


def test_every_reason_to_keep_is_one_it_knows(rendered: Rendered) -> None:
    (policy,) = [
        policy
        for policy in config(rendered(ONE))["processors"]["tail_sampling"]["policies"]
        if policy["type"] == "string_attribute"
    ]

    assert set(policy["string_attribute"]["values"]) == set(keep.RANK) - {keep.NO}


@pytest.mark.parametrize("reason", [reason for reason in keep.RANK if reason])
def test_a_marked_request_is_kept_with_its_batch(rendered: Rendered, reason: str) -> None:
    record = family(1, 3)
    spans = told(record, ["", reason, ""])

    assert kept(sampling(rendered, keepPercentage=0, keepShadowPercentage=0), spans) == {
        record.trace_id,
        record.members[1].trace_id,
    }


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(numbers=st.sets(st.integers(0, 10_000), min_size=1, max_size=12), rows=st.integers(1, 5))
def test_an_ordinary_batch_is_kept_with_all_its_members_or_not_at_all(
    rendered: Rendered, numbers: set[int], rows: int
) -> None:
    found = sampling(rendered, keepPercentage=40, keepShadowPercentage=0)

    for number in numbers:
        record = family(number, rows)
        whole = {record.trace_id, *(member.trace_id for member in record.members)}
        assert kept(found, told(record)) in (set(), whole)


@pytest.mark.parametrize(("percentage", "least", "most"), [(0, 0, 0), (5, 0.02, 0.09), (50, 0.42, 0.58), (100, 1, 1)])
def test_of_ordinary_batches_it_keeps_the_share_asked_for(
    rendered: Rendered, percentage: float, least: float, most: float
) -> None:
    found = sampling(rendered, keepPercentage=percentage, keepShadowPercentage=0)
    batches = [family(number, 1) for number in range(400)]

    share = sum(bool(kept(found, told(record))) for record in batches) / len(batches)

    assert least <= share <= most


def test_shadows_have_a_share_of_their_own(rendered: Rendered) -> None:
    found = sampling(rendered, keepPercentage=0, keepShadowPercentage=100)
    copies, payments = family(1, 2, path="shadow"), family(2, 2)

    assert kept(found, told(copies)) == {copies.trace_id, *(member.trace_id for member in copies.members)}
    assert kept(found, told(payments)) == set()


def test_a_shadow_batch_that_failed_is_kept(rendered: Rendered) -> None:
    record = family(1, 2, path="shadow")
    record.dispatches[-1].error = "INTERNAL"

    assert record.trace_id in kept(sampling(rendered, keepPercentage=0, keepShadowPercentage=0), told(record))
