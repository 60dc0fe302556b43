"""Terms as products of factors, with parameters inside."""

from __future__ import annotations

import numpy as np
import torch

from sciml_discover.library import InnerOptions, Library, LibraryOptions, build_library


def hill() -> Library:
    options = LibraryOptions(
        polynomial_degree=1,
        constant=False,
        templates=("input**n/(K**n + input**n)",),
        inner={"K": InnerOptions(start=1.0), "n": InnerOptions(start=2.0)},
    )
    return build_library(("x",), options)


def everything(library: Library, x: float, inner: np.ndarray) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Return the last term at a point, its slope, and its derivatives by its parameters, told in two ways."""
    points, values = torch.tensor([[[x]]], dtype=torch.float64), torch.as_tensor(inner)[None]
    table = library.factors.at(points, values, slopes=True)
    one = torch.ones(1, 1, dtype=torch.float64)
    value, slope, _ = table.sum_of_terms(torch.tensor([[len(library) - 1]]), one)
    own = library.factors.by_inner(points, torch.arange(len(inner))[None], values)
    more = torch.as_tensor(library.tangent_inner(inner))[None]
    tangents = library.tangents.at(points, more).terms(
        torch.arange(len(library), len(library) + len(inner))[None]
    )
    return value.item(), slope.item(), own[0, 0].numpy(), tangents[0, 0].numpy()


def test_a_term_with_a_fitted_exponent_has_derivatives_where_its_input_is_zero() -> None:
    value, slope, own, tangents = everything(hill(), 0.0, np.array([1.3, 2.2]))
    assert (value, slope) == (0.0, 0.0)
    np.testing.assert_array_equal(own, [0.0, 0.0])
    np.testing.assert_array_equal(tangents, [0.0, 0.0])


def test_derivatives_of_a_term_with_a_fitted_exponent_are_those_of_finite_differences() -> None:
    library, at, step = hill(), np.array([1.3, 2.2]), 1e-6
    _, slope, own, tangents = everything(library, 0.7, at)

    def value(x: float, inner: np.ndarray) -> float:
        return everything(library, x, inner)[0]

    np.testing.assert_allclose(slope, (value(0.7 + step, at) - value(0.7 - step, at)) / (2 * step), rtol=1e-7)
    by_inner = [
        (value(0.7, at + step * unit) - value(0.7, at - step * unit)) / (2 * step) for unit in np.eye(2)
    ]
    np.testing.assert_allclose(own, by_inner, rtol=1e-7)
    np.testing.assert_allclose(tangents, by_inner, rtol=1e-7)
