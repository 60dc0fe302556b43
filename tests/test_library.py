"""Libraries: which terms, their values and their slopes."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
import torch

from sciml_discover.errors import InputError
from sciml_discover.expressions import symbol
from sciml_discover.library import InnerOptions, Library, LibraryOptions, LibraryTerm, build_library


def test_terms_come_by_degree_without_doubles() -> None:
    options = LibraryOptions(polynomial_degree=2, functions=("sin", "abs"), extra=("x*y", "x/(1 + y)"))
    library = build_library(("x", "y"), options)
    assert library.texts == (
        "1", "x", "y", "x**2", "x*y", "y**2", "sin(x)", "sin(y)", "abs(x)", "abs(y)", "x/(y + 1)",
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
    everything = torch.arange(len(library)).expand(5, -1)
    table = library.factors.at(points, slopes=True)
    value = table.terms(everything)
    slope = torch.stack(
        [
            table.sum_of_terms(torch.full((5, 1), number), torch.ones(5, 1, dtype=torch.float64))[1]
            for number in range(len(library))
        ],
        dim=2,
    )
    torch.testing.assert_close(value, library.factors.at(points).terms(everything))
    index = {text: number for number, text in enumerate(library.texts)}
    x, t = points[..., 0], points[..., 1]
    torch.testing.assert_close(value[..., index["t*x**2"]], t * x**2)
    torch.testing.assert_close(value[..., index["log(t)"]], torch.log(t))
    torch.testing.assert_close(value[..., index["x/(t + 1)"]], x / (1 + t))
    torch.testing.assert_close(value[..., 0], torch.ones_like(x))
    flat = points.reshape(-1, 2)
    by = torch.autograd.functional.jacobian(lambda at: library.evaluate(at).sum(0), flat)
    torch.testing.assert_close(slope.reshape(20, -1, 2), by.movedim(1, 0))
    np.testing.assert_allclose(library.matrix(flat.numpy()), value.reshape(20, -1).numpy())
    # Each member of a batch its own terms, in any order.
    chosen = torch.tensor([[3, 1], [0, 0], [7, 2], [5, 4], [1, 9]])
    coefficients = torch.as_tensor(np.random.default_rng(1).normal(size=(5, 2)))
    for own in (table, library.factors.only(np.arange(len(library)) < 10).at(points, slopes=True)):
        total, gradient, some = own.sum_of_terms(chosen, coefficients)
        for member in range(5):
            picked = value[member][:, chosen[member]]
            torch.testing.assert_close(some[member], picked)
            torch.testing.assert_close(total[member], picked @ coefficients[member])
            torch.testing.assert_close(
                gradient[member], coefficients[member] @ slope[member][:, chosen[member]]
            )


def test_an_extra_term_is_for_the_holes_that_have_its_inputs() -> None:
    options = LibraryOptions(polynomial_degree=1, constant=False, extra=("x*y", "sin(x)/(1+x)"))
    assert build_library(("x",), options).texts == ("x", "sin(x)/(x + 1)")
    assert build_library(("x", "y"), options).texts == ("x", "y", "x*y", "sin(x)/(x + 1)")
    with pytest.raises(InputError, match=r"regress\.library"):
        build_library(("x",), LibraryOptions(extra=("x*",)))


INNER = LibraryOptions(
    polynomial_degree=1,
    constant=False,
    templates=("input/(K + input)", "sin(input)*other", "input**n/(K**n + input**n)"),
    inner={"K": InnerOptions(), "n": InnerOptions(bounds=(1.0, 4.0))},
)


def test_templates_take_each_input() -> None:
    library = build_library(("x", "y"), INNER)
    assert library.texts == (
        "x", "y", "x/(K + x)", "y/(K + y)", "x*sin(x)", "y*sin(x)", "x*sin(y)", "y*sin(y)",
        "x**n/(K**n + x**n)", "y**n/(K**n + y**n)",
    )  # fmt: skip
    assert [item.name for item in library.inner] == ["K", "K", "K", "n", "K", "n"]
    assert library.owner.tolist() == [2, 3, 8, 8, 9, 9]


def test_inner_parameters_take_their_size_from_the_data() -> None:
    points = np.random.default_rng(0).uniform(0.0, 1.0, (500, 2)) * [200.0, 0.02]
    library = build_library(("x", "y"), INNER).for_data([points])
    large, small = library.inner[0], library.inner[1]
    assert large.start == pytest.approx(100.0, rel=0.2)
    assert small.start == pytest.approx(0.01, rel=0.2)
    # Whether a parameter is of the size of its input or of the inverse is not known.
    for item in (large, small):
        assert item.low is not None
        assert item.high is not None
        assert item.low < 1e-2 / 100 * 1.5
        assert item.high > 100 * 1e2 / 1.5
    starts = library.start_values(2)[:, 0]
    assert any(0.5 < start / 100.0 < 2.0 for start in starts)
    assert any(0.5 < start * 100.0 < 2.0 for start in starts)
    both = library.start_values(8)
    assert both.shape[1] == 2
    assert len(both) <= 36
    assert (both[:, 1] >= 1.0).all()
    assert (both[:, 1] <= 4.0).all()


def test_inner_parameters_as_told() -> None:
    options = INNER.model_copy(
        update={"inner": {"K": InnerOptions(start=3.0), "n": InnerOptions(start=2.0, bounds=(1, 3))}}
    )
    library = build_library(("x", "y"), options).for_data([np.ones((5, 2))])
    assert [item.start for item in library.inner] == [3.0, 3.0, 3.0, 2.0, 3.0, 2.0]
    assert (library.inner[3].low, library.inner[3].high) == (1, 3)
    np.testing.assert_allclose(
        float(library.with_numbers(8, [3.0, 2.0]).subs(symbol("x"), 1.5)), 1.5**2 / (3.0**2 + 1.5**2)
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"templates": ("input/(K + input)",)}, "the unknown name 'K'"),
        ({"templates": ("x*input",)}, "the unknown name 'x'"),
        ({"extra": ("x**n",)}, "exponent"),
    ],
)
def test_what_is_not_declared_is_refused(options: dict, says: str) -> None:
    if "extra" in options:
        assert "x**n" not in build_library(("x", "y"), LibraryOptions(**options)).texts
        options = {"extra": ("x**x",)}
    with pytest.raises(InputError, match=says):
        build_library(("x", "y"), LibraryOptions(**options))


@pytest.mark.parametrize(
    "inner",
    [
        {"K": {"bounds": (2, 1)}},
        {"K": {"start": 5, "bounds": (0, 1)}},
        {"K": {"start": 0}},
        {"sin": {}},
        {"a b": {}},
        {"input": {}},
    ],
)
def test_inner_parameters_without_sense_are_refused(inner: dict) -> None:
    with pytest.raises(pydantic.ValidationError):
        LibraryOptions(inner=inner)


def test_templates_that_are_no_terms_for_some_inputs_are_left_out_there() -> None:
    options = LibraryOptions(
        polynomial_degree=1,
        templates=("input/other", "1/(input - other)", "1/input**n"),
        inner={"n": InnerOptions()},
    )
    texts = build_library(("x", "y"), options).texts
    assert texts[3:] == ("x/y", "y/x", "1/(x - y)", "1/x**n", "1/y**n")


def test_multiples_of_a_term_are_left_out() -> None:
    options = LibraryOptions(
        polynomial_degree=2,
        extra=("2*x", "-x*y", "3", "x - 1.0*x", "x/(K + x)", "-2.5*x/(K + x)", "x/(K - x)", "x/(x - K)"),
        templates=("sin(input - other)", "(input - other)**2", "input - other", "(input - other)**0.5"),
        inner={"K": InnerOptions()},
    )
    assert build_library(("x", "y"), options).texts == (
        "1", "x", "y", "x**2", "x*y", "y**2", "0", "x/(K + x)", "x/(K - x)",
        "sin(x - y)", "(x - y)**2", "x - y", "sqrt(x - y)", "sqrt(-x + y)",
    )  # fmt: skip
    # Two differences, of which two have their minus signs in different places.
    both = LibraryOptions(polynomial_degree=0, extra=("(x - y)/(x + 2*y)", "2*(y - x)/(3*x + 6*y)"))
    assert build_library(("x", "y"), both).texts == ("1", "(x - y)/(x + 2*y)")


def test_a_term_is_found_however_it_is_written() -> None:
    options = LibraryOptions(
        polynomial_degree=2,
        templates=("input/(K + input)", "input**n", "input - other"),
        inner={"K": InnerOptions(), "n": InnerOptions()},
    )
    library = build_library(("x", "y"), options)
    for text, term in {
        "y*x": "x*y",
        "2*x": "x",
        "x/(x+K)": "x/(K + x)",
        "x / (K + x)": "x/(K + x)",
        "1*x**n": "x**n",
        "2*x - 2*y": "x - y",
    }.items():
        assert library.texts[library.position(text, "test")] == term
    # The sign of its coefficient would be another one, and somebody may have said which it has.
    for text in ("-x", "y - x", "x/(x - K)", "x/(M + x)"):
        with pytest.raises(InputError, match="a term of the library"):
            library.position(text, "test")


def test_exponents_start_where_exponents_are() -> None:
    options = LibraryOptions(polynomial_degree=1, templates=("input**n",), inner={"n": InnerOptions()})
    library = build_library(("x",), options).for_data([np.linspace(100.0, 300.0, 20)[:, None]])
    starts = library.start_values(2)
    assert ((starts >= 0.2) & (starts <= 5.0)).all()
    assert np.isfinite(library.matrix(np.array([[100.0], [300.0]]), starts[0])).all()


@pytest.mark.parametrize(
    ("bounds", "size", "some"),
    [
        ((-3.0, 3.0), 2.0, (-2.0, -0.4, -0.1, 0.0, 0.1, 0.4, 2.0)),
        ((-1.0, 3.0), 2.0, (-0.5, -0.4, 0.4, 0.5, 1.0, 2.0, 2.5)),
        ((0.0, 1000.0), 0.01, (0.002, 0.01, 0.05, 20.0, 100.0, 500.0)),
        ((-3.0, 0.0), 2.0, (-2.5, -2.0, -1.5, -0.5)),
        ((-4e-9, 4e-9), 2.0, (-2e-9, 2e-9)),
        ((-3e-9, 1e-9), 2.0, (-2e-9, -1e-9)),
        ((-3.0, -2.5), 10.0, (-2.75,)),
    ],
)
def test_a_parameter_that_may_be_negative_starts_at_sizes_of_the_data(
    bounds: tuple[float, float], size: float, some: tuple[float, ...]
) -> None:
    options = LibraryOptions(
        polynomial_degree=1, templates=("sin(K*input)",), inner={"K": InnerOptions(bounds=bounds)}
    )
    points = np.full((5, 1), size)
    library = build_library(("x",), options).for_data([points])
    starts = library.start_values(2)[:, 0]
    assert ((starts >= bounds[0]) & (starts <= bounds[1])).all()
    for start in some:
        assert np.isclose(starts, start, rtol=1e-9, atol=0.0).any(), starts
    assert starts.any()
    assert library.starts[0] != 0.0
    assert np.abs(library.columns(points).matrix[:, library.columns(points).owner == 2]).max() > 0.0
    # What is ranged already stays so.
    np.testing.assert_array_equal(library.for_data([points]).inner[0].starts, library.inner[0].starts)


def test_a_stated_start_of_zero_has_others_beside_it() -> None:
    options = LibraryOptions(
        polynomial_degree=1,
        templates=("sin(input + p)",),
        inner={"p": InnerOptions(start=0.0, bounds=(-3.0, 2.0))},
    )
    library = build_library(("x",), options).for_data([np.ones((5, 1))])
    assert library.starts.tolist() == [0.0]
    assert library.start_values(2)[:, 0].tolist() == [-1.0, -0.5, -0.2, 0.0, 0.2, 1.0]


def test_an_exponent_around_zero_takes_nothing_from_the_data() -> None:
    options = LibraryOptions(
        polynomial_degree=1, templates=("input**n",), inner={"n": InnerOptions(bounds=(-3.0, 3.0))}
    )
    library = build_library(("x",), options).for_data([np.full((5, 1), 300.0)])
    assert library.start_values(2)[:, 0].tolist() == [-1.0, -0.2, 0.0, 0.2, 1.0]


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("x**n/(K**n + x**n)", InnerOptions(bounds=(1.0, 50.0))),
        ("x**n", InnerOptions(bounds=(-21.0, 1.0))),
        ("x**n", InnerOptions(start=25.0)),
        ("x**n*x**n", InnerOptions(bounds=(1.0, 11.0))),
    ],
)
def test_an_exponent_that_no_law_could_have_is_refused(text: str, inner: InnerOptions) -> None:
    options = LibraryOptions(extra=(text,), inner={"n": inner, "K": InnerOptions(bounds=(1.0, 50.0))})
    with pytest.raises(InputError, match=r"between -20 and 20\. Give n bounds"):
        build_library(("x",), options)


@pytest.mark.parametrize("start", [None, 2.0, 6.0, 20.0, 0.01, -2.0, -20.0])
def test_an_exponent_without_bounds_stays_one_that_a_law_may_have(start: float | None) -> None:
    options = LibraryOptions(extra=("x**n",), inner={"n": InnerOptions(start=start)})
    library = build_library(("x",), options).for_data([np.linspace(1.0, 3.0, 5)[:, None]])
    [item] = library.inner
    assert item.low is not None
    assert item.high is not None
    assert -20.0 <= item.low < item.high <= 20.0
    assert start is None or item.low <= start <= item.high
    assert start is None or start in library.start_values(len(library) - 1)


def test_a_divisor_that_no_text_could_say_is_looked_at() -> None:
    options = LibraryOptions(
        polynomial_degree=1,
        extra=("1/(K - 1/x**n)", "x*pi**n"),
        inner={"K": InnerOptions(start=1.0), "n": InnerOptions(start=2.0)},
    )
    library = build_library(("x",), options)
    series = along("0.5 2.0")
    assert library.valid(series)[0].tolist() == [True, True, False, True]
    assert len(library.for_data(series).start_values(3)) > 1


def test_start_values_of_tiny_data_stay_apart() -> None:
    options = LibraryOptions(
        polynomial_degree=1, templates=("input/(K + input)",), inner={"K": InnerOptions()}
    )
    library = build_library(("x",), options).for_data([np.full((5, 1), 1e-13)])
    assert (library.start_values(2) < 1e-10).sum() == 3


@pytest.mark.parametrize("options", [{"polynomial_degree": 0, "constant": False}, {"polynomial_degree": 10}])
def test_libraries_without_terms_or_with_too_many_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match=r"terms of 8 inputs|candidate terms"):
        build_library(tuple("abcdefgh"), LibraryOptions(**options))


def test_a_term_with_several_starts_keeps_the_one_that_says_most() -> None:
    options = LibraryOptions(
        polynomial_degree=1, templates=("input/(K + input)",), inner={"K": InnerOptions()}
    )
    points = np.linspace(0.05, 3.0, 60)[:, None]
    columns = build_library(("x",), options).for_data([points]).columns(points)
    own = np.flatnonzero(columns.owner == 2)
    support = columns.owner == 2
    size = np.zeros(len(columns.owner))
    size[own] = np.arange(len(own)) + 1.0
    assert np.flatnonzero(columns.one_start_each(support, size)).tolist() == [own[-1]]


def along(*series: str) -> list[np.ndarray]:
    """One input along some trajectories."""
    return [np.array(one.split(), dtype=float)[:, None] for one in series]


def test_a_term_has_no_value_where_a_trajectory_would_have_to_pass_its_pole() -> None:
    texts = ("x", "1/x", "1/x**2", "x/(1 + x)", "tan(x)", "log(x)", "exp(-x)", "1/(1 + x**2)")
    library = Library(("x",), [LibraryTerm(text) for text in texts])

    def without(*series: str) -> set[str]:
        [valid] = library.valid(along(*series))
        return {text for text, good in zip(texts, valid, strict=True) if not good}

    # Every row has a value of 1/x; between two of them it has none.
    assert without("-0.5 -0.25 0.25 0.5") == {"1/x", "1/x**2", "log(x)"}
    assert without("-1.5 -0.8") == {"x/(1 + x)", "log(x)"}
    assert without("1.4 1.7 2.0") == {"tan(x)"}
    # From one trajectory to another nothing moves.
    assert without("-0.5 -0.25", "0.25 0.5") == {"log(x)"}
    assert without("0.5 0.25") == set()


def test_a_start_without_a_value_is_left_out_and_the_term_stays() -> None:
    options = LibraryOptions(
        polynomial_degree=1, templates=("sqrt(K - input)", "input/(K - input)"), inner={"K": InnerOptions()}
    )
    plain = build_library(("x",), options)
    series = along("1.0 1.5 2.0 3.0")
    library = plain.for_data(series)
    for term in (2, 3):
        starts = library.start_values(term)[:, 0]
        every = {1.75 * 0.2, 1.75, 1.75 * 5, 0.2 / 1.75, 1 / 1.75, 5 / 1.75}
        allowed = {start for start in every if start > 3.0 or (term == 3 and start < 1.0)}
        np.testing.assert_allclose(sorted(starts), sorted(allowed), rtol=1e-9)
        assert library.valid(series)[: len(starts), term].all()
    # What regressions are made of are columns with values only.
    assert np.isfinite(library.columns(series[0]).matrix).all()


def test_a_term_without_a_value_at_any_start_is_known_as_such() -> None:
    options = LibraryOptions(
        polynomial_degree=1, templates=("log(input - K)",), inner={"K": InnerOptions(bounds=(1.0, 2.0))}
    )
    series = along("0.1 0.2 0.3")
    library = build_library(("x",), options).for_data(series)
    assert library.valid(series).any(axis=0).tolist() == [True, True, False]
    assert len(library.start_values(2)) > 0
