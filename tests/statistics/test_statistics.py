from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrastive.statistics import Interval, bootstrap_interval, holm, paired_difference, resampling


def test_intervals_cover_the_true_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.beta(0.5, 0.5, 100), resamples=400) for _ in range(300)]
    covered = np.mean([interval.low <= 0.5 <= interval.high for interval in intervals])
    assert 0.91 < covered < 0.98
    narrow = bootstrap_interval(rng.beta(0.5, 0.5, 100), confidence=0.5)
    wide = bootstrap_interval(rng.beta(0.5, 0.5, 100), confidence=0.99)
    assert narrow.high - narrow.low < wide.high - wide.low


def test_interval_has_the_width_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(size=2000)
    interval = bootstrap_interval(values)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(2000), rel=0.05)


def test_results_are_a_function_of_the_seed_and_not_of_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_interval(values, resamples=500), paired_difference(values, 0.8 * values[::-1], resamples=500)
    assert bootstrap_interval(values, resamples=500, seed=1) != whole[0]
    other = paired_difference(values, 0.8 * values[::-1], resamples=500, seed=1)
    assert (other.low, other.high) != (whole[1].low, whole[1].high)
    assert other.p_value != whole[1].p_value
    monkeypatch.setattr(resampling, "_CHUNK", 120)
    assert (
        bootstrap_interval(values, resamples=500),
        paired_difference(values, 0.8 * values[::-1], resamples=500),
    ) == whole


@given(st.floats(-1e6, 1e6), st.integers(1, 9))
def test_equal_values_have_no_width(value: float, count: int) -> None:
    assert bootstrap_interval([value] * count, resamples=10) == Interval(value, value, value)


def test_false_positives_are_as_rare_as_alpha_says() -> None:
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(500):
        quality = rng.random(40)
        first, second = (np.clip(quality + 0.2 * rng.standard_normal(40), 0, 1) for _ in range(2))
        p_values.append(paired_difference(first, second, resamples=400).p_value)
    assert 0.025 < np.mean(np.array(p_values) <= 0.05) < 0.08
    assert 0.42 < np.mean(np.array(p_values) <= 0.5) < 0.58


def test_a_planted_difference_is_found() -> None:
    rng = np.random.default_rng(0)
    quality = rng.random(200)
    better = quality + 0.05 + 0.1 * rng.standard_normal(200)
    found = paired_difference(better, quality)
    assert found.p_value == pytest.approx(1 / 10_001)
    assert 0 < found.low < found.mean < found.high
    assert found.mean == pytest.approx(0.05, abs=0.02)
    assert paired_difference(quality, better).mean == -found.mean


@pytest.mark.parametrize("tenths", [[3, 1, -2, 4, 1], [-3, -3, 1, 3], [1, 2, 0, 0, 6]])
def test_p_value_equals_that_of_all_swaps(tenths: list[int]) -> None:
    signs = np.array(np.meshgrid(*[[1, -1]] * len(tenths))).reshape(len(tenths), -1).T
    exact = np.mean(np.abs(signs @ np.array(tenths)) >= abs(sum(tenths)))
    found = paired_difference(np.array(tenths) / 10, np.zeros(len(tenths)))
    assert found.p_value == pytest.approx(exact, abs=0.015)


def test_identical_systems_do_not_differ() -> None:
    found = paired_difference([0.1, 0.5, 1.0], [0.1, 0.5, 1.0])
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_holm_adjusts_in_the_order_given() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0]]])
def test_values_that_are_not_numbers_a_query_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected a finite value for each of at least one query"):
        bootstrap_interval(values)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 0 < confidence < 1 .* got 95"):
        bootstrap_interval([0.1, 0.2], confidence=95)
    with pytest.raises(ValueError, match="expected values of the same queries, got 2 and 3"):
        paired_difference([0.1, 0.2], [0.1, 0.2, 0.3])
