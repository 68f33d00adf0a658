"""Statistics over seeds and queries: calibration by simulation, and each number against plain loops."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from contrastive.statistics import (
    Comparison,
    against_baseline,
    benjamini_hochberg,
    bootstrap_interval,
    cohen_d,
    compare,
    hierarchical_bootstrap,
    holm,
    paired_difference,
    paired_t_test,
    randomisation_test,
    resampling,
)
from contrastive.statistics.crossed import student_quantile

Scores = NDArray[np.float64]


def simulated(
    rng: np.random.Generator,
    *,
    seeds: tuple[int, int] = (3, 3),
    queries: int = 50,
    seed_effect: float = 0.01,
    taste: float = 0.05,
    planted: float = 0.0,
    cluster_size: int = 1,
) -> tuple[Scores, Scores]:
    """Return two systems, equal but for what is planted: hard and easy queries, seeds, tastes of systems, noise."""
    clusters = queries // cluster_size

    def of_queries(deviation: float) -> Scores:
        return np.repeat(rng.normal(0, deviation, clusters), cluster_size)

    hardness = of_queries(0.3)

    def system(count: int, mean: float) -> Scores:
        fixed = mean + hardness + of_queries(taste)
        return fixed + rng.normal(0, seed_effect, (count, 1)) + rng.normal(0, 0.1, (count, queries))

    return system(seeds[0], 0.5 + planted), system(seeds[1], 0.5)


SETTINGS = {
    "one seed, which is fixed": {"seeds": (1, 1), "seed_effect": 0.0},
    "seeds that do not matter": {"seed_effect": 0.0},
    "seeds that matter": {},
    "seeds that matter more": {"seed_effect": 0.03},
    "seeds that matter most": {"seed_effect": 0.1},
    "two seeds": {"seeds": (2, 2), "seed_effect": 0.03},
    "more seeds of one": {"seeds": (5, 3)},
    "clusters": {"cluster_size": 5, "queries": 200},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_equal_systems_are_seldom_told_apart_and_intervals_hold_the_truth(setting: dict[str, object]) -> None:
    rng, runs = np.random.default_rng(1), 700
    size = setting.get("cluster_size", 1)
    clusters = [query // size for query in range(setting.get("queries", 50))] if size > 1 else None
    found, covered = [], 0
    for number in range(runs):
        first, second = simulated(rng, **setting)
        found.append(compare(first, second, clusters=clusters, resamples=400, seed=number))
        interval = hierarchical_bootstrap(first, clusters=clusters, resamples=400, seed=number)
        covered += interval.low <= 0.5 <= interval.high
    error = 2 * sqrt(0.05 * 0.95 / runs)  # binomial
    assert np.mean([comparison.randomisation_p <= 0.05 for comparison in found]) <= 0.05 + error
    assert np.mean([comparison.t_test.p_value <= 0.05 for comparison in found]) <= 0.05 + error
    assert 0.95 - error <= np.mean([comparison.low <= 0 <= comparison.high for comparison in found]) <= 0.99
    assert 0.92 <= covered / runs <= 0.98


def test_swaps_that_take_seeds_for_fixed_would_tell_equal_systems_apart() -> None:
    rng = np.random.default_rng(0)
    pairs = [simulated(rng, seed_effect=0.1) for _ in range(200)]
    fixed = [randomisation_test(first.mean(0), second.mean(0), resamples=400) for first, second in pairs]
    assert np.mean(np.array(fixed) <= 0.05) > 0.5


def test_queries_of_one_cluster_taken_for_independent_would_tell_equal_systems_apart() -> None:
    rng = np.random.default_rng(0)
    pairs = [simulated(rng, cluster_size=5, queries=200, taste=0.2) for _ in range(200)]
    fixed = [randomisation_test(first, second, resamples=400) for first, second in pairs]
    assert np.mean(np.array(fixed) <= 0.05) > 0.2


def test_a_planted_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    found = [compare(*simulated(rng, planted=0.1), resamples=400) for _ in range(100)]
    assert np.mean([comparison.randomisation_p <= 0.05 for comparison in found]) > 0.9
    assert np.mean([comparison.t_test.p_value <= 0.05 for comparison in found]) > 0.9
    assert np.mean([comparison.low <= 0.1 <= comparison.high for comparison in found]) > 0.89
    assert np.mean([comparison.mean for comparison in found]) == pytest.approx(0.1, abs=0.01)
    assert np.mean([comparison.effect_size for comparison in found]) > 0.8


def test_direction_is_first_minus_second() -> None:
    first, second = simulated(np.random.default_rng(0), planted=0.2)
    forth, back = compare(first, second), compare(second, first)
    assert 0 < forth.low < forth.mean < forth.high
    assert forth.effect_size > 0
    assert forth.t_test.statistic > 0
    assert (back.mean, back.effect_size) == (-forth.mean, -forth.effect_size)
    assert back.t_test.statistic == -forth.t_test.statistic
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=0.01)
    assert back.randomisation_p == forth.randomisation_p < 0.01


def test_one_seed_gives_the_textbook_tests() -> None:
    first, second = simulated(np.random.default_rng(0), seeds=(1, 1), planted=0.03)
    expected = stats.ttest_rel(first[0], second[0])
    found = paired_t_test(first, second)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert randomisation_test(first, second) == paired_difference(first[0], second[0]).p_value
    differences = first[0] - second[0]
    assert cohen_d(first, second) == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert paired_t_test(first[0], second[0]) == found


@pytest.mark.parametrize("count", [2, 40])
def test_one_seed_gives_the_interval_over_queries(count: int) -> None:
    first, second = np.random.default_rng(0).random((2, count))
    plain = bootstrap_interval(first, resamples=500)
    assert plain == hierarchical_bootstrap(first, resamples=500) == hierarchical_bootstrap(first[None], resamples=500)
    short, full = paired_difference(first, second, resamples=500), compare(first, second, resamples=500)
    assert (short.mean, short.low, short.high, short.p_value) == (full.mean, full.low, full.high, full.randomisation_p)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 50, 20_001])
@pytest.mark.parametrize("probability", [0.55, 0.8, 0.975, 0.9995])
def test_quantiles_without_scipy_are_those_of_scipy(degrees: int, probability: float) -> None:
    assert student_quantile([(1.0, degrees)], probability) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)


def test_t_test_over_seeds_equals_the_variance_components_in_loops() -> None:
    first, second = simulated(np.random.default_rng(1), seeds=(4, 3), queries=6, seed_effect=0.3)
    parts = []
    for scores in (first, second):
        seeds, queries = scores.shape
        mean = scores.mean()
        over_seeds = queries * sum((scores[s].mean() - mean) ** 2 for s in range(seeds)) / (seeds - 1)
        rest = sum(
            (scores[s, q] - scores[s].mean() - scores[:, q].mean() + mean) ** 2
            for s in range(seeds)
            for q in range(queries)
        ) / ((seeds - 1) * (queries - 1))
        parts.append((max(0, over_seeds - rest) / queries / seeds, seeds - 1))
    differences = [first[:, q].mean() - second[:, q].mean() for q in range(6)]
    parts.append((np.var(differences, ddof=1) / 6, 5))
    total = sum(variance for variance, _ in parts)
    held_against = stats.t.ppf(0.9, [count for _, count in parts]) @ [variance / total for variance, _ in parts]
    found = paired_t_test(first, second)
    assert all(variance > 0 for variance, _ in parts)
    assert found.standard_error == pytest.approx(sqrt(total))
    assert found.statistic == pytest.approx(np.mean(differences) / sqrt(total))
    shift = held_against * sqrt(total) - np.mean(differences)
    assert paired_t_test(first + shift, second).p_value == pytest.approx(0.2)


def test_p_value_of_swapped_clusters_equals_that_of_all_swaps() -> None:
    clusters = ["a", "b", "a", "c", "b", "d"]
    differences = [0.3, 0.1, 0.1, -0.2, 0.2, 0.1]
    sums = [0.4, 0.3, -0.2, 0.1]
    swapped = [abs(sum(s * d for s, d in zip(signs, sums, strict=True))) for signs in product([1, -1], repeat=4)]
    exact = np.mean([value >= 0.6 - 1e-9 for value in swapped])
    assert randomisation_test(differences, [0] * 6, clusters=clusters) == pytest.approx(exact, abs=0.015)
    assert cohen_d(differences, [0] * 6, clusters=clusters) == pytest.approx(np.mean(sums) / np.std(sums, ddof=1))


def test_interval_has_the_variance_of_the_resampled_seeds_and_clusters() -> None:
    first, _ = simulated(np.random.default_rng(3), seeds=(8, 1), seed_effect=0.1, queries=40)
    interval = hierarchical_bootstrap(first, confidence=0.68269, resamples=40_000)
    means, queries = first.mean(1), first.mean(0)
    residuals = first - means[:, None] - queries + first.mean()
    noise = (residuals**2).sum() / (7 * 39)
    variance = (means.var(ddof=1) - noise / 40) / 8 + queries.var(ddof=1) / 40
    assert (interval.high - interval.low) / 2 == pytest.approx(sqrt(variance), rel=0.12)


def test_interval_of_two_clusters_is_that_of_their_three_resamples() -> None:
    """Means 0 and 1 of clusters of 1 and 3 queries: a resample has mean 0, 0.75 or 1, against 0.75."""
    widened = sqrt(2) * stats.t.ppf(0.975, 1) / stats.norm.ppf(0.975)
    interval = hierarchical_bootstrap([0, 1, 1, 1], clusters="abbb")
    assert (interval.low, interval.high) == pytest.approx((0.75 - 0.75 * widened, 0.75 + 0.25 * widened))


def test_interval_leans_the_way_the_seeds_do() -> None:
    one_is_bad, all_are_good = np.full((8, 6), 0.5), np.full((8, 6), 0.5)
    one_is_bad[0] = 0.1
    below, above = compare(one_is_bad, all_are_good), compare(all_are_good, one_is_bad)
    assert below.mean - below.low > 1.5 * (below.high - below.mean) > 0
    assert above.high - above.mean > 1.5 * (above.mean - above.low) > 0


def test_both_tests_agree_where_scores_are_normal() -> None:
    rng = np.random.default_rng(0)
    found = [compare(*simulated(rng, queries=14, planted=0.07, seed_effect=0.03)) for _ in range(60)]
    ratios = [c.randomisation_p / c.t_test.p_value for c in found if 0.01 < c.t_test.p_value < 0.1]
    assert len(ratios) > 10
    assert np.median(ratios) == pytest.approx(1, abs=0.1)


def test_clusters_may_have_any_size_and_order() -> None:
    scores = np.random.default_rng(0).random((3, 6))
    interval = hierarchical_bootstrap(scores, clusters=["x", "y", "x", "x", "y", "z"])
    assert interval.mean == pytest.approx(scores.mean())
    assert interval == hierarchical_bootstrap(scores, clusters=[7, 3, 7, 7, 3, 1])
    alone = hierarchical_bootstrap(scores)
    assert alone == hierarchical_bootstrap(scores, clusters=range(6))
    assert alone != interval


def test_results_are_a_function_of_the_seed_and_not_of_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = simulated(np.random.default_rng(0))
    whole = compare(first, second, resamples=500)
    other = compare(first, second, resamples=500, seed=1)
    assert (other.low, other.randomisation_p) != (whole.low, whole.randomisation_p)
    monkeypatch.setattr(resampling, "_CHUNK", 120)
    assert compare(first, second, resamples=500) == whole


def test_equal_systems_do_not_differ_and_a_constant_difference_has_no_width() -> None:
    same = compare(
        [[0.1, 0.2, 0.4], [0.2, 0.3, 0.5], [0.3, 0.4, 0.6]], [[0.3, 0.4, 0.6], [0.1, 0.2, 0.4], [0.2, 0.3, 0.5]]
    )
    assert (same.mean, same.randomisation_p, same.effect_size) == (0, 1, 0)
    assert (same.t_test.statistic, same.t_test.p_value) == (0, 1)
    more = compare([0.3, 0.6, 0.8], [0.2, 0.5, 0.7])
    assert (more.low, more.high) == pytest.approx((0.1, 0.1))
    assert (more.effect_size, more.t_test.statistic, more.t_test.p_value) == (np.inf, np.inf, 0)


def holm_by_hand(p_values: list[float]) -> list[float]:
    """Return for each p-value the smallest alpha at which stepping down rejects it."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, index in enumerate(order):
        largest = max(largest, (len(p_values) - step) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def benjamini_hochberg_by_hand(p_values: list[float]) -> list[float]:
    """Return for each p-value the smallest alpha at which stepping up rejects it."""
    adjusted = []
    for value in p_values:
        larger = [other for other in p_values if other >= value]
        adjusted.append(min([1.0] + [q * len(p_values) / sum(p <= q for p in p_values) for q in larger]))
    return adjusted


@given(st.lists(st.integers(1, 1000).map(lambda thousandths: thousandths / 1000), max_size=8))
def test_adjustments_equal_their_definitions(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(holm_by_hand(p_values))
    assert benjamini_hochberg(p_values) == pytest.approx(benjamini_hochberg_by_hand(p_values))


def test_adjustments_of_the_example_of_benjamini_and_hochberg() -> None:
    """The 15 p-values of the paper's example: at 0.05 theirs rejects four, and Bonferroni's steps three."""
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p_values += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    assert sum(p <= 0.05 for p in benjamini_hochberg(p_values)) == 4
    assert sum(p <= 0.05 for p in holm(p_values)) == 3


def test_every_system_is_compared_with_the_baseline_and_adjusted_together() -> None:
    rng = np.random.default_rng(0)
    base, good = simulated(rng, planted=-0.1)
    found = against_baseline({"good": good, "base": base, "one seed": base[:1]}, "base", resamples=500)
    assert list(found) == ["good", "one seed"]
    assert found["good"].comparison == compare(good, base, resamples=500)
    assert found["one seed"].comparison.num_seeds == (1, 3)
    p_values = [adjusted.comparison.randomisation_p for adjusted in found.values()]
    assert [adjusted.holm_p for adjusted in found.values()] == holm(p_values)
    assert [adjusted.screening_p for adjusted in found.values()] == benjamini_hochberg(p_values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hierarchical_bootstrap([[[0.5]]]), r"expected finite scores \[seeds, queries\].* got \(1, 1, 1\)"),
        (lambda: hierarchical_bootstrap([0.5, float("nan")]), "expected finite scores"),
        (lambda: hierarchical_bootstrap([0.5]), "expected at least 2 queries or clusters of queries, got 1"),
        (lambda: compare([1, 2, 3], [1, 2]), "expected values of the same queries, got 3 and 2"),
        (lambda: compare([1, 2], [1, 2], clusters=[0]), "expected a cluster for each of 2 queries, got 1"),
        (lambda: cohen_d([1, 2], [1, 2], clusters=[0, 0]), "expected at least 2 queries or clusters"),
        (lambda: hierarchical_bootstrap([1, 2], confidence=95), "expected 0 < confidence < 1 .* got 95"),
        (lambda: randomisation_test([1, 2], [1, 2], resamples=0), "expected resamples of at least 1, got 0"),
        (lambda: against_baseline({"a": [1, 2]}, "b"), "expected the baseline to be one of a, got 'b'"),
        (lambda: holm([0.5, 1.5]), "expected p-values from 0 to 1"),
        (lambda: benjamini_hochberg([float("nan")]), "expected p-values from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_results_cannot_be_changed() -> None:
    found = compare([1, 2], [2, 2], resamples=10)
    assert isinstance(found, Comparison)
    with pytest.raises(AttributeError):
        found.mean = 0


def test_losses_and_plain_intervals_do_without_scipy() -> None:
    script = (
        "import sys; sys.modules['scipy'] = None; import contrastive.losses;"
        "assert 'contrastive.statistics' not in sys.modules;"
        "from contrastive.statistics import bootstrap_interval, paired_difference;"
        "bootstrap_interval([0.1, 0.2]); paired_difference([0.1, 0.2], [0.2, 0.2]);"
        "from contrastive.statistics import hierarchical_bootstrap; hierarchical_bootstrap([[0.1, 0.2], [0.3, 0.2]])"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
