"""Whatever values the schema allows: the chart refuses them in a sentence, or every law and every schema holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tests.helm import chart, drawing, schemas
from tests.helm.cases import CASES
from tests.helm.chart import KUBE_VERSIONS, Refusal, at, merged
from tests.helm.invariants import LAWS
from tests.helm.invariants.laws import ADVICE

pytestmark = pytest.mark.usefixtures("crds", "helm_4")
FEW, MANY, PARTS = 24, 500, 10
PHASES = [Phase.generate]  # a render takes half a second: a failure is told as drawn, not smaller and minutes later
RELEASES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?(\.[a-z0-9]+)?", fullmatch=True).filter(
    lambda name: len(name) <= 53
)


def holds(values: Mapping[str, Any], *, which: str = "helm-4", kube_version: str = "1.33", name: str = "risk") -> bool:
    """Check everything. False: the chart refused, on purpose and saying why."""
    found = chart.render(values, which=which, kube_version=kube_version, name=name)
    if isinstance(found, Refusal):
        assert found.deliberate, f"{found.said}\n{json.dumps(values)}"
        return False
    wrong = [said for one in found.objects for said in schemas.complaints(one, kube_version)]
    for title, law in LAWS.items():
        if title not in ADVICE:
            try:
                law(found)
            except AssertionError as broken:
                wrong.append(f"{title}: {broken}")
    assert wrong == [], f"{wrong}\n{json.dumps(values)}"
    return True


def rendered_share(examples: int, which: str, part: int = 0) -> float:
    """Of so many draws, others in each part, how many rendered."""
    outcomes: list[bool] = []

    @seed(part)
    @settings(
        max_examples=examples, phases=PHASES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(drawing.values(chart.schema(), CASES), st.sampled_from(KUBE_VERSIONS))
    def draw(values: Mapping[str, Any], kube_version: str) -> None:
        outcomes.append(holds(values, which=which, kube_version=kube_version))

    draw()
    return sum(outcomes) / len(outcomes)


@pytest.mark.slow
def test_values_that_the_schema_allows_render_whole_or_are_refused_in_a_sentence() -> None:
    assert rendered_share(FEW, "helm-4") > 0.2


@pytest.mark.slow
@pytest.mark.chart
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(1, PARTS + 1))  # none so long that its stack is dumped while it is traced
def test_the_same_of_many_more_and_of_both_helms(which: str, part: int) -> None:
    examples = MANY // PARTS
    assert rendered_share(examples if which == "helm-4" else examples // 5, which, part) > 0.2


@pytest.mark.chart
@pytest.mark.parametrize("case", ["everything-hpa", "everything-keda", "uri"])
@pytest.mark.parametrize(
    ("path", "text"),
    [pytest.param(*found, id=".".join(found[0])) for found in drawing.numerals(chart.schema()).items()],
)
def test_text_that_yaml_reads_as_something_else_stays_text(path: tuple[str, ...], text: str, case: str) -> None:
    holds(merged(CASES[case], at(path, text)))


@pytest.mark.slow
@settings(max_examples=FEW, phases=PHASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=RELEASES, case=st.sampled_from(sorted(CASES)))
def test_any_name_that_helm_takes_makes_names_that_kubernetes_takes(name: str, case: str) -> None:
    holds(CASES[case], name=name)
