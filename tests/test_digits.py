"""Digits that the errors leave, and simple numbers that the data cannot tell from fitted ones."""

from __future__ import annotations

import numpy as np
import pytest

from sciml_discover.digits import NEGLIGIBLE, round_to_error, round_together, snap, snap_together


@pytest.mark.parametrize(
    ("number", "stderr", "expected"),
    [
        (0.899398722, 0.00061, 0.8994),
        (0.899398722, 0.3, 0.9),
        (27.46, 4.0, 27.0),
        (1234.5678, 30.0, 1230.0),
        (-0.01234567891, None, -0.012345679),
        (-0.01234567891, 0.0, -0.012345679),
        (0.0, 0.1, 0.0),
        (3.0, 1e-9, 3.0),
    ],
)
def test_digits_follow_the_error(number: float, stderr: float | None, expected: float) -> None:
    assert round_to_error(number, stderr) == expected


def test_rounding_never_moves_a_number_by_more_than_its_error_or_two_digits() -> None:
    rng = np.random.default_rng(0)
    for number, stderr in zip(
        rng.standard_normal(200) * 10.0 ** rng.integers(-6, 6, 200),
        10.0 ** rng.uniform(-8, 2, 200),
        strict=True,
    ):
        moved = abs(round_to_error(number, stderr) - number)
        assert moved <= max(stderr, 0.05 * abs(number)) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("number", "stderr", "expected"),
    [
        (0.4998, 0.001, "1/2"),
        (-2.0001, 0.001, "-2"),
        (0.3331, 0.001, "1/3"),
        (1.02, 0.5, None),  # the data do not choose
        (0.9, 0.001, None),
        (0.0001, 0.001, None),  # zero is not a coefficient
        (1.0, None, None),
        (1.0, 0.0, None),
    ],
)
def test_snapping(number: float, stderr: float | None, expected: str | None) -> None:
    assert snap(number, stderr) == expected


def rise(moved: np.ndarray, covariance: np.ndarray) -> float:
    return float(moved @ np.linalg.solve(covariance, moved))


def test_numbers_whose_errors_hang_together_keep_the_digits_that_the_fit_needs() -> None:
    values, stderr = np.array([1.23456789, -2.3456789, 0.0345678]), 0.01
    for correlation in (0.0, 0.9, 0.999, 0.999999):
        covariance = stderr**2 * ((1.0 - correlation) * np.eye(3) + correlation)
        shown = round_together(values.tolist(), [stderr] * 3, covariance)
        assert rise(shown - values, covariance) <= 3 * NEGLIGIBLE
        alone = [round_to_error(value, stderr) for value in values]
        assert (shown == alone) == (rise(alone - values, covariance) <= 3 * NEGLIGIBLE)
    assert len(str(shown[0])) > len(str(alone[0]))


def test_a_number_that_nothing_determines_does_not_lengthen_the_others() -> None:
    covariance = np.diag([1e-4, np.inf])
    assert round_together([1.2345678, 0.0123456], [0.01, None], covariance) == [1.23, 0.0123456]


def test_numbers_of_which_only_the_sum_is_known_keep_it() -> None:
    covariance = np.full((2, 2), np.inf)
    assert round_together([1000.37, -999.84], [None, None], covariance) == [1000.37, -999.84]


def test_numbers_are_snapped_together_only_if_the_fit_does_not_suffer() -> None:
    values, errors = [0.3334, 1.9993, 0.9007], [1e-3, 1e-3, 0.02]
    apart = np.diag(np.square(errors))
    assert snap_together(values, errors, apart) == ["1/3", "2", None]
    # Along the one direction that is known well, the two together would miss by many errors.
    together = apart.copy()
    together[0, 1] = together[1, 0] = 0.9999 * errors[0] * errors[1]
    assert snap_together(values, errors, together) == ["1/3", None, None]
    # The nearest come first.
    assert snap_together([0.3336, 1.9999, 0.9007], errors, together) == [None, "2", None]


def test_the_result_does_not_depend_on_the_sizes_of_the_numbers() -> None:
    rng = np.random.default_rng(3)
    root = rng.standard_normal((4, 4))
    covariance = 1e-4 * root @ root.T
    values, sizes = rng.standard_normal(4), 10.0 ** np.array([-6, 0, 3, 9])
    errors = np.sqrt(np.diag(covariance))
    plain = round_together(values.tolist(), errors.tolist(), covariance)
    scaled = round_together(
        (values * sizes).tolist(), (errors * sizes).tolist(), covariance * np.outer(sizes, sizes)
    )
    np.testing.assert_allclose(scaled, plain * sizes, rtol=1e-12)
