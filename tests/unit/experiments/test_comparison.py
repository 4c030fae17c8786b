from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp, spearmanr
from tests.pairs import columns, counts, jittered

from headrace.core.octaves import BUCKETS, NEVER, bucket
from headrace.experiments import agreement, latencies
from headrace.experiments.comparison import Comparison
from headrace.v1 import experiments_pb2 as pb

ALPHA = 0.05
THRESHOLDS = (50.0, 75.0)

values = st.one_of(st.integers(0, 99).map(float), st.floats(0, 1), st.sampled_from([nan, inf, 1e300, -1e300]))
row = st.tuples(
    values,
    values,
    st.sampled_from([0, 0, 0, 1, 2, 3, 4]),
    st.sampled_from([0, 0, 0, 1, 2, 3, 4]),
    st.integers(0, 2**32 - 1),
    st.floats(-1e6, 1e6) | st.just(nan),
    st.sampled_from(["EUR", "USD", "", "no code"]),
    st.integers(0, 2**60),
)
rows = st.lists(row, max_size=30)


def message(of: Sequence[Any]) -> pb.PairColumns:
    names = (
        "incumbent",
        "challenger",
        "incumbent_error",
        "challenger_error",
        "challenger_us",
        "amount",
        "currency",
        "at_us",
    )
    return pb.PairColumns(**dict(zip(names, zip(*of, strict=True), strict=True)) if of else {})


def counted(*messages: pb.PairColumns, thresholds: Sequence[float] = THRESHOLDS) -> Comparison:
    comparison = Comparison(thresholds)
    for each in messages:
        comparison.add(each, counts(len(each.incumbent)))
    return comparison


def same(one: Comparison, other: Comparison) -> bool:
    """All that is counted is equal; sums of deltas, but for rounding."""
    one_state, other_state = json.loads(one.dump()), json.loads(other.dump())
    one_flips, other_flips = one_state.pop("flips"), other_state.pop("flips")
    close = all(
        one_flips[name][:2] + one_flips[name][4:] == of[:2] + of[4:]
        and np.allclose(one_flips[name][2:4], of[2:4], rtol=1e-9, atol=10)
        for name, of in other_flips.items()
    )
    return one_state == other_state and one_flips.keys() == other_flips.keys() and close


@given(st.lists(rows, min_size=1, max_size=4))
def test_comparisons_merged_are_the_comparison_of_all(parts: list[list[Any]]) -> None:
    merged = counted(message(parts[0]))
    for part in parts[1:]:
        merged.merge(counted(message(part)))

    assert same(merged, counted(message([each for part in parts for each in part])))


@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_pairs_changes_nothing(of: list[Any], random: Any) -> None:
    shuffled = random.sample(of, len(of))

    assert same(counted(message(of)), counted(message(shuffled)))


@given(st.lists(rows, max_size=3))
def test_what_is_dumped_is_loaded_as_it_was(parts: list[list[Any]]) -> None:
    comparison = counted(*map(message, parts))
    comparison.add(pb.PairColumns(batches=[pb.BatchTime(tokens=7, compute_us=9)]), counts(3, load=2))
    loaded = Comparison.load(comparison.dump())

    assert loaded.dump() == comparison.dump()
    assert loaded.figures(ALPHA) == comparison.figures(ALPHA)
    assert loaded.thresholds == THRESHOLDS


@given(rows)
def test_flips_and_money_add_up_and_nothing_is_ever_no_number(of: list[Any]) -> None:
    figures = counted(message(of)).figures(ALPHA)
    whole = [r for r in of if not r[2] and not r[3] and np.isfinite(r[0]) and np.isfinite(r[1])]

    for flips, threshold in zip(figures.flips, THRESHOLDS, strict=True):
        assert flips.threshold == threshold
        assert flips.to_block == sum(r[0] < threshold <= r[1] for r in whole)
        assert flips.to_allow == sum(r[1] < threshold <= r[0] for r in whole)
        assert (flips.rate.events, flips.rate.trials) == (flips.to_block + flips.to_allow, len(whole))
        known = [round(r[5], 3) for r in whole if np.isfinite(r[5])]
        assert sum(money.total for money in flips.money) == pytest.approx(sum(known), abs=0.01)
        flipped = [round(r[5], 3) for r in whole if np.isfinite(r[5]) and r[0] < threshold <= r[1]]
        assert sum(money.to_block for money in flips.money) == pytest.approx(sum(flipped), abs=0.01)
    assert sum(segment.pairs for segment in figures.segments) == len(whole)
    assert all(np.isfinite([segment.mean_delta, segment.mean_absolute_delta]).all() for segment in figures.segments)
    assert sum(figures.delta_histogram.counts) == len(whole)


def test_a_pair_with_an_error_counts_for_the_rate_of_errors_alone() -> None:
    """A value beside an error is nobody's, and what is no number without an error is garbage."""
    sides = columns([80, 80, nan, 80], [10, 10, 10, inf], challenger_error=[0, pb.PAIR_ERROR_TIMEOUT, 0, 0])
    figures = counted(sides).figures(ALPHA)

    assert figures.pairs == 4
    assert (figures.incumbent_errors.events, figures.incumbent_errors.trials) == (1, 4)
    assert (figures.challenger_errors.events, figures.challenger_timeouts.events) == (2, 1)
    assert (figures.flips[0].to_allow, figures.flips[0].rate.trials) == (1, 1)


def test_requests_of_callers_are_counted_by_the_version_that_was_asked_chosen_or_not() -> None:
    comparison, other = Comparison(THRESHOLDS), Comparison(THRESHOLDS)
    told = pb.SampleCounts(
        incumbent_requests=900, incumbent_failures=2, challenger_requests=100, challenger_failures=30
    )
    comparison.add(pb.PairColumns(), told)
    other.add(columns([1], [1]), told)
    comparison.merge(Comparison.load(other.dump()))
    figures = comparison.figures(ALPHA)

    assert (figures.incumbent_failures.events, figures.incumbent_failures.trials) == (4, 1_800)
    assert (figures.challenger_failures.events, figures.challenger_failures.trials) == (60, 200)
    assert figures.challenger_failures.interval.lower > 0.05
    assert (figures.sampled, figures.pairs) == (0, 1)


def test_sums_that_are_older_than_a_count_are_loaded_without_it() -> None:
    state = json.loads(counted(columns([1], [1])).dump())
    del state["requests"], state["latencies"]["incumbent"]
    figures = Comparison.load(json.dumps(state)).figures(ALPHA)

    assert (figures.pairs, figures.incumbent_failures.trials, figures.challenger_failures.trials) == (1, 0, 0)


def test_flips_are_told_with_their_direction_and_the_money_of_each_currency() -> None:
    sides = columns(
        [80, 10, 10, 80], [10, 80, 10, 80], amount=[12.5, 100, 7, nan], currency=["EUR", "USD", "EUR", "EUR"]
    )
    flips = counted(sides, thresholds=[75]).figures(ALPHA).flips[0]

    assert (flips.to_block, flips.to_allow) == (1, 1)
    assert list(flips.money) == [
        pb.FlippedMoney(currency="EUR", to_allow=12.5, total=19.5),
        pb.FlippedMoney(currency="USD", to_block=100, total=100),
    ]


def test_the_currency_that_flips_most_comes_first() -> None:
    sides = columns([10, 10, 10, 10], [10, 80, 12, 80], currency=["EUR", "EUR", "USD", "GBP"])
    segments = counted(sides).figures(ALPHA).segments

    assert [segment.value for segment in segments] == ["GBP", "EUR", "USD"]
    assert (segments[2].mean_delta, segments[1].mean_absolute_delta) == (2, 35)


def test_currencies_without_end_take_no_room_without_end() -> None:
    names = [f"{a}{b}{c}" for a in "ABCDEFGHIJ" for b in "ABCDEFGHIJ" for c in "ABCDEFGHIJ"]
    comparison = counted(columns([1.0] * 1000, [1.0] * 1000, currency=names))
    segments = comparison.figures(ALPHA).segments

    assert len(segments) == 201
    assert {segment.value: segment.pairs for segment in segments}["other"] == 800
    assert len(comparison.dump()) < 100_000


def test_sampled_is_pairs_drops_and_what_is_under_way() -> None:
    comparison = Comparison(THRESHOLDS)
    comparison.add(columns([1, 2], [1, 2]), counts(10, load=3, buffer=1))
    comparison.add(columns([], []), counts(5, **{f"cause{i}": 0 for i in range(50)}, load=1))
    figures = comparison.figures(ALPHA)

    assert (figures.sampled, figures.pairs, figures.pending) == (15, 2, 8)
    assert (figures.drops["load"], figures.drops["buffer"]) == (4, 1)
    assert len(figures.drops) <= 17


@pytest.mark.parametrize(
    "field",
    [
        "challenger",
        "incumbent_error",
        "challenger_error",
        "incumbent_us",
        "challenger_us",
        "canary",
        "amount",
        "at_us",
        "entity",
        "incumbent_p",
        "challenger_p",
    ],
)
def test_a_field_of_another_length_is_named_and_nothing_is_counted(field: str) -> None:
    comparison = Comparison(THRESHOLDS)
    before = comparison.dump()

    with pytest.raises(ValueError, match=rf"pairs\.{field}: 3 entries for 2 pairs"):
        comparison.add(pb.PairColumns(**{"incumbent": [1, 2], "challenger": [1, 2]} | {field: [1, 1, 1]}), counts(2))
    assert comparison.dump() == before


def test_texts_ids_and_unknown_errors_are_looked_at_as_well() -> None:
    comparison = Comparison(THRESHOLDS)
    for field, value in {
        "currency": ["EUR"],
        "event_id": ["a"],
        "trace_ids": b"short",
        "challenger_error": [9, 0],
    }.items():
        with pytest.raises(ValueError, match=rf"pairs\.{field}"):
            comparison.add(columns([1, 2], [1, 2], **{field: value}), counts())
    with pytest.raises(ValueError, match=r"pairs\.challenger: 0 entries"):
        comparison.add(pb.PairColumns(incumbent=[1]), counts())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format":0}', '{"format":1}'])
def test_what_is_no_dump_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Comparison.load(text)


def test_other_thresholds_do_not_merge_and_none_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="thresholds"):
        Comparison([1.0]).merge(Comparison([2.0]))
    for thresholds in ([], [nan]):
        with pytest.raises(ValueError, match="thresholds"):
            Comparison(thresholds)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_quantiles_ks_and_ranks_are_those_of_the_values_themselves(scale: float) -> None:
    """Scores as well as probabilities. KS is exact, a quantile to one per cent."""
    rng = np.random.default_rng(1)
    incumbent, challenger = (side * scale for side in jittered(rng, 4_000, 6.0))
    trace_ids = rng.bytes(16 * 4_000)
    figures = counted(columns(incumbent, challenger, trace_ids=trace_ids)).figures(ALPHA)
    expected = np.quantile(challenger - incumbent, [q.rank for q in figures.delta_quantiles], method="inverted_cdf")

    assert [q.value for q in figures.delta_quantiles] == pytest.approx(expected, rel=0.01, abs=1e-6)
    assert figures.ks == pytest.approx(ks_2samp(incumbent, challenger).statistic, abs=1e-9)
    assert figures.rank_agreement == pytest.approx(spearmanr(incumbent, challenger).statistic, abs=0.03)


def test_psi_is_silent_below_2_000_pairs_small_for_jitter_and_large_for_another_distribution() -> None:
    rng = np.random.default_rng(2)
    incumbent, challenger = jittered(rng, 3_000)

    assert not counted(columns(incumbent[:1_999], challenger[:1_999])).figures(ALPHA).HasField("psi")
    assert counted(columns(incumbent, challenger)).figures(ALPHA).psi < 0.01
    assert counted(columns(incumbent, np.minimum(incumbent + 10, 99))).figures(ALPHA).psi > 0.25


def test_values_that_are_all_equal_have_no_psi_to_speak_of_and_no_ranks() -> None:
    figures = counted(columns([0.0] * 2_000, [0.0] * 2_000)).figures(ALPHA)

    assert (figures.psi, figures.ks) == (0, 0)
    assert not figures.HasField("rank_agreement")


def test_too_few_pairs_are_not_ranked() -> None:
    few = agreement.LEAST_RANKED - 1

    assert not counted(columns(range(few), range(few))).figures(ALPHA).HasField("rank_agreement")


def answers(incumbent: Sequence[int] = (), challenger: Sequence[int] = (), never: tuple[int, int] = (0, 0)) -> Any:
    """What callers got of either side, in microseconds, and how often nothing in time."""
    sides = (
        Counter(map(bucket, us)) + Counter({NEVER: n}) for us, n in zip((incumbent, challenger), never, strict=True)
    )
    return pb.SampleCounts(**dict(zip(("incumbent_took", "challenger_took"), sides, strict=True)))


def heard(*told: pb.SampleCounts) -> pb.Figures:
    comparison = Comparison(THRESHOLDS)
    for each in told:
        comparison.add(pb.PairColumns(), each)
    return Comparison.load(comparison.dump()).figures(ALPHA)


BEFORE = answers(range(1_000, 10_000, 9_000 // latencies.LEAST))


def test_answers_are_late_by_what_the_incumbent_took_before_them() -> None:
    """Whether or not they are compared; and the threshold does not follow the answers it judges."""
    figures = heard(BEFORE, answers((), (9_000, 12_000, 5_000), never=(0, 1)), answers((), (9_000_000,)))

    assert (figures.canary_late.events, figures.canary_late.trials) == (3, 5)
    assert figures.pairs == 0


def test_the_incumbents_answers_beside_the_canarys_are_judged_by_the_same_threshold() -> None:
    """In a slow hour both are late. What it answered while there was no canary is not asked."""
    figures = heard(BEFORE, BEFORE, answers((12_000, 13_000, 5_000), (12_000,), never=(1, 0)))

    assert (figures.canary_late.events, figures.canary_late.trials) == (1, 1)
    assert (figures.incumbent_late.events, figures.incumbent_late.trials) == (3, 4)


def test_no_answer_is_late_before_enough_of_the_incumbents_are_known() -> None:
    few = answers([1_000] * (latencies.LEAST - 1), never=(latencies.LEAST, 0))
    figures = heard(few, answers((), [9_000_000] * 5))

    assert figures.canary_late.trials == 0
    assert (figures.canary_late.interval.lower, figures.canary_late.interval.upper) == (0, 1)


def test_latencies_are_told_by_side_to_a_few_per_cent() -> None:
    n = 10_000
    pairs = columns([1.0] * n, [1.0] * n, incumbent_us=np.linspace(1_000, 10_000, n).astype(int))
    figures = counted(pairs).figures(ALPHA)
    canary = heard(answers((), [2_000] * 1_000, never=(0, 2_000))).canary_latency

    assert canary.count == 1_000
    assert canary.p50_ms == pytest.approx(2, rel=0.03)
    assert figures.incumbent_latency.p50_ms == pytest.approx(5.5, rel=0.05)
    assert counted().figures(ALPHA).challenger_latency == pb.Latency()


def test_an_answer_in_none_of_the_buckets_is_refused_and_nothing_is_counted() -> None:
    comparison = Comparison(THRESHOLDS)

    with pytest.raises(ValueError, match="took: 513 entries at most"):
        comparison.add(pb.PairColumns(), pb.SampleCounts(sampled=1, incumbent_took={BUCKETS: 1}))
    assert comparison.dump() == Comparison(THRESHOLDS).dump()


def batches(rng: np.random.Generator, n: int, slower: float) -> list[pb.BatchTime]:
    """The challenger's batches are larger as well; one in fifty is held up."""
    found = []
    for challenger in (False, True):
        tokens = rng.integers(200, 2_000 + 2_000 * challenger, n)
        us = (500 + 2.0 * tokens) * (slower if challenger else 1) * rng.lognormal(0, 0.1, n)
        us *= np.where(rng.random(n) < 0.02, 30, 1)
        found += [
            pb.BatchTime(tokens=t, compute_us=int(u), challenger=challenger) for t, u in zip(tokens, us, strict=True)
        ]
    return found


@pytest.mark.parametrize("slower", [1.0, 1.3])
def test_batches_are_compared_at_equal_tokens_and_a_pause_is_not_slowness(slower: float) -> None:
    comparison = Comparison(THRESHOLDS)
    comparison.add(pb.PairColumns(batches=batches(np.random.default_rng(3), 2_000, slower)), counts())

    assert comparison.figures(ALPHA).batch_time_ratio == pytest.approx(slower, rel=0.02)


def test_batches_that_are_never_equal_say_nothing() -> None:
    comparison = Comparison(THRESHOLDS)
    apart = [pb.BatchTime(tokens=10 + 990 * (i % 2), compute_us=100, challenger=bool(i % 2)) for i in range(1_000)]
    comparison.add(pb.PairColumns(batches=[*apart, pb.BatchTime()]), counts())

    assert not comparison.figures(ALPHA).HasField("batch_time_ratio")


def test_a_hundred_thousand_probabilities_stay_below_a_hundred_kilobytes() -> None:
    rng = np.random.default_rng(4)
    comparison = Comparison(THRESHOLDS)
    for _ in range(10):
        incumbent = rng.beta(0.3, 20, 10_000)
        sides = columns(incumbent, incumbent * rng.lognormal(0, 1, 10_000), trace_ids=rng.bytes(160_000))
        comparison.add(sides, counts(10_000))

    assert len(comparison.dump()) < 100_000
