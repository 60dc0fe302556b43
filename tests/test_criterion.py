"""The criterion: closed forms at its limits."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy import stats

from sciml_discover.criterion import Criterion, misfit_p_value
from sciml_discover.noise import Noise

COUNTS = np.array([40, 60])


def criterion(
    estimated: bool = False, pooled: bool = False, freedom: float = np.inf, n_common: int = 3
) -> Criterion:
    noise = Noise(("x", "y"), (False, False), np.ones(2), estimated, pooled, np.full(2, freedom))
    return Criterion(COUNTS, n_common, 12, noise)


def test_given_noise_is_chi_square_with_its_penalties() -> None:
    expected = 80.0 + 5 * np.log(100) + 2 * np.log(comb(12, 2)) + 2 * 2 * np.log(100)
    misfit, complexity = np.array([[30.0, 50.0]]), np.array([2])
    assert criterion()(misfit, complexity)[0] == pytest.approx(expected)
    # A parameter inside a term is one more number, and no other choice.
    assert criterion()(misfit, complexity, 1)[0] == pytest.approx(expected + np.log(100))


def test_an_estimate_with_many_degrees_of_freedom_is_a_given_level() -> None:
    misfit, complexity = np.array([[30.0, 50.0], [45.0, 44.0]]), np.array([2, 1])
    for pooled in (False, True):
        values = criterion(True, pooled, 1e9)(misfit, complexity)
        np.testing.assert_allclose(values, criterion()(misfit, complexity), rtol=1e-6)


def test_an_estimate_with_few_is_the_profile_likelihood() -> None:
    one, two = criterion(True, freedom=1e-6)(np.array([[30.0, 50.0], [60.0, 50.0]]), np.array([2, 2]))
    assert two - one == pytest.approx(40 * np.log(2.0), rel=1e-4)


def test_pooled_levels_count_both_observables_together() -> None:
    pooled = criterion(True, True, 20.0)
    one, two = pooled(np.array([[30.0, 50.0], [50.0, 30.0]]), np.array([2, 2]))
    assert one == pytest.approx(two)
    each = criterion(True, False, 20.0)(np.array([[30.0, 50.0], [50.0, 30.0]]), np.array([2, 2]))
    assert each[0] != pytest.approx(each[1])


def test_more_terms_cost_more_and_a_failed_fit_is_infinitely_bad() -> None:
    for item in (criterion(), criterion(True, freedom=15.0), criterion(True, True, 15.0)):
        values = item(np.tile([30.0, 50.0], (12, 1)), np.arange(1, 13))
        assert (np.diff(values) > 0).all()
        assert item(np.array([[np.inf, np.inf]]), np.array([1]))[0] == np.inf


def test_more_numbers_than_values_are_never_chosen() -> None:
    noise = Noise(("x",), (False,), np.ones(1), True, False, np.array([2.0]))
    item = Criterion(np.array([10]), 8, 12, noise)
    values = item(np.zeros((3, 1)), np.array([1, 2, 5]))
    assert np.isfinite(values[0])
    assert np.isinf(values[2])


def test_an_exact_fit_is_not_infinitely_good() -> None:
    for item in (criterion(), criterion(True, freedom=1e-6)):
        exact, tiny = item(np.array([[0.0, 0.0], [1e-9, 1e-9]]), np.array([1, 1]))
        assert np.isfinite(exact)
        assert exact == tiny


def test_noise_with_a_law_weighs_both_estimates() -> None:
    misfit = np.array([160.0, 60.0])
    np.testing.assert_array_equal(criterion().noise_with_law(misfit), [1.0, 1.0])
    np.testing.assert_allclose(criterion(True, freedom=1e-9).noise_with_law(misfit), [2.0, 1.0])
    np.testing.assert_allclose(criterion(True, freedom=1e9).noise_with_law(misfit), [1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(criterion(True, True, 20.0).noise_with_law(misfit), np.sqrt(240 / 120))


def estimated(*freedom: float, pooled: bool = False) -> Noise:
    names = ("a", "b")[: len(freedom)]
    return Noise(names, (False,) * len(names), np.ones(len(names)), True, pooled, np.array(freedom))


def test_the_misfit_of_one_observable_is_an_f_ratio() -> None:
    p_value, test = misfit_p_value(np.array([60.0]), np.array([32]), 30, estimated(12.0))
    assert p_value == pytest.approx(stats.f.sf(2.0, 30, 12.0))
    assert test == "F test against noise estimated with 12 degrees of freedom"


def test_an_observable_with_few_values_does_not_hide_the_misfit_of_another() -> None:
    counts, noise = np.array([1000, 5]), estimated(900.0, 2.0)
    wrong = misfit_p_value(np.array([3000.0, 5.0]), counts, 1000, noise)[0]
    assert wrong < 1e-6
    # And where its own noise is hardly known, its own misfit says little.
    assert misfit_p_value(np.array([1000.0, 15.0]), counts, 1000, noise)[0] > 0.1


@pytest.mark.parametrize("freedom", [(40.0, 6.0), (40.0, 40.0), (5.0, 150.0)])
def test_true_laws_are_rejected_as_often_as_they_should(freedom: tuple[float, float]) -> None:
    rng, counts, noise = np.random.default_rng(3), np.array([60, 60]), estimated(*freedom)
    known = np.array(freedom)
    misfits = rng.chisquare(60, (4000, 2)) / (rng.chisquare(known, (4000, 2)) / known)
    p_values = np.array([misfit_p_value(one, counts, 120, noise)[0] for one in misfits])
    assert 0.008 < np.mean(p_values < 0.02) < 0.03


def test_a_given_noise_and_a_pooled_one_are_one_test_for_all() -> None:
    misfit, counts = np.array([80.0, 50.0]), np.array([60, 60])
    given = Noise(("a", "b"), (False, False), np.ones(2), False, False, np.array([np.inf, np.inf]))
    assert misfit_p_value(misfit, counts, 110, given)[0] == pytest.approx(stats.chi2.sf(130.0, 110))
    pooled = misfit_p_value(misfit, counts, 110, estimated(9.0, 9.0, pooled=True))
    assert pooled[0] == pytest.approx(stats.f.sf(130.0 / 110, 110, 9.0))
    assert pooled[1].endswith("with 9 degrees of freedom")
