"""Libraries: which terms, their values and their slopes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciml_discover.errors import InputError
from sciml_discover.library import LibraryOptions, build_library


def test_terms_come_by_degree_without_doubles() -> None:
    options = LibraryOptions(polynomial_degree=2, functions=("sin", "abs"), extra=("x*y", "x/(1 + y)"))
    library = build_library(("x", "y"), options)
    assert library.texts == (
        "1", "x", "y", "x**2", "x*y", "y**2", "sin(x)", "sin(y)", "Abs(x)", "Abs(y)", "x/(y + 1)",
    )  # fmt: skip
    assert len(library) == 11


@pytest.mark.parametrize(("inputs", "degree", "count"), [(1, 8, 9), (2, 3, 10), (3, 3, 20), (2, 0, 1)])
def test_number_of_monomials(inputs: int, degree: int, count: int) -> None:
    assert len(build_library(tuple("xyz"[:inputs]), LibraryOptions(polynomial_degree=degree))) == count


def test_no_constant() -> None:
    assert build_library(("x",), LibraryOptions(polynomial_degree=1, constant=False)).texts == ("x",)


def test_values_and_slopes() -> None:
    options = LibraryOptions(
        polynomial_degree=3,
        functions=("sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "abs"),
        extra=("x/(1+t)",),
    )
    library = build_library(("x", "t"), options)
    points = torch.as_tensor(np.random.default_rng(0).uniform(0.2, 1.2, (5, 4, 2)))
    value, slope = library.linearize(points)
    torch.testing.assert_close(value, library.evaluate(points))
    index = {text: number for number, text in enumerate(library.texts)}
    x, t = points[..., 0], points[..., 1]
    torch.testing.assert_close(value[..., index["t*x**2"]], t * x**2)
    torch.testing.assert_close(value[..., index["log(t)"]], torch.log(t))
    torch.testing.assert_close(value[..., 0], torch.ones_like(x))
    flat = points.reshape(-1, 2)
    by = torch.autograd.functional.jacobian(lambda at: library.evaluate(at).sum(0), flat)
    torch.testing.assert_close(slope.reshape(20, -1, 2), by.movedim(1, 0))
    np.testing.assert_allclose(library.matrix(flat.numpy()), value.reshape(20, -1).numpy())


def test_an_extra_term_is_for_the_holes_that_have_its_inputs() -> None:
    options = LibraryOptions(polynomial_degree=1, constant=False, extra=("x*y", "sin(x)/(1+x)"))
    assert build_library(("x",), options).texts == ("x", "sin(x)/(x + 1)")
    assert build_library(("x", "y"), options).texts == ("x", "y", "x*y", "sin(x)/(x + 1)")
    with pytest.raises(InputError, match=r"regress\.library"):
        build_library(("x",), LibraryOptions(extra=("x*",)))
