"""Laws that are one law, written in two ways, are counted once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciml_discover.constraints import LawOptions
from sciml_discover.library import (
    InnerOptions,
    InnerParameter,
    Library,
    LibraryOptions,
    LibraryTerm,
    build_library,
)
from sciml_discover.refit import Candidates, Fits
from sciml_discover.same_laws import merge_same_laws
from sciml_discover.selection import SelectOptions, select
from sciml_discover.system import System
from tests.problems import Problem, propose, untrained

SYSTEM = System.from_text(states=["x", "y"], missing={"f": ["x", "y"]}, equations={"x": "f - x", "y": "-y"})
ROWS = np.linspace(0.0, 2.0, 30)
CIRCLE = np.column_stack([1.5 + np.cos(3.0 * ROWS), 1.5 + np.sin(3.0 * ROWS), ROWS])


def merged(
    texts: dict[str, tuple[str, ...]],
    laws: list[dict[str, tuple[float, ...]]],
    chi_square: list[float] | None = None,
) -> tuple[list[int], list[str]]:
    """Merge laws of one hole; each says for its terms the coefficient and then the numbers inside."""
    terms = [
        LibraryTerm(text, tuple(InnerParameter(name, 1.0) for name in names)) for text, names in texts.items()
    ]
    library = Library(("x", "y"), terms)
    supports = np.array([[text in law for text in texts] for law in laws])
    coefficients = np.array([[law.get(text, (0.0,))[0] for text in texts] for law in laws])
    inner = np.ones((len(laws), len(library.inner)))
    for row, law in enumerate(laws):
        for text, numbers in law.items():
            inner[row, library.owner == list(texts).index(text)] = numbers[1:]
    candidates = Candidates((supports,), (coefficients,), (inner,), ("hand",) * len(laws))
    misfit = np.array(chi_square or [30.0] * len(laws))[:, None]
    fits = Fits(
        candidates, torch.zeros(len(laws), 1, 2, 2), torch.zeros(len(laws), 0), misfit, misfit[:, 0] > 0
    )
    return merge_same_laws(SYSTEM, [library], CIRCLE, fits, range(len(laws)))


SATURATING = {"x/(K + x)": ("K",), "x/(1 + c*x)": ("c",), "1/(1 + x/k)": ("k",)}


def test_a_saturating_law_written_with_another_constant_is_the_same_law() -> None:
    # 1.5*x/(0.4 + x) = 3.75*x/(1 + 2.5*x); fits end a little off.
    laws = [{"x/(1 + c*x)": (3.75001, 2.50002)}, {"x/(K + x)": (1.5, 0.4)}, {"1/(1 + x/k)": (1.5, 0.4)}]
    kept, sentences = merged(SATURATING, laws)
    # The one that stands first in the library stays, wherever it is by rank.
    assert kept == [1, 2]
    assert sentences == ["x/(1 + c*x) in f is x/(K + x) in other words: merged into it"]


def test_laws_of_plain_terms_may_be_the_same_too() -> None:
    texts = {"1": (), "sin(x)**2": (), "cos(x)**2": (), "x*y": ()}
    laws = [
        {"1": (1.0,), "sin(x)**2": (2.0,)},
        {"1": (3.0,), "cos(x)**2": (-2.0,)},
        {"x*y": (1.0,), "1": (1.0,)},
    ]
    kept, sentences = merged(texts, laws)
    assert kept == [0, 2]
    assert "1 + cos(x)**2 in f is 1 + sin(x)**2 in other words" in sentences[0]


def test_laws_that_agree_where_the_data_are_and_nowhere_else_are_rivals() -> None:
    # On this circle (x - 1.5)**2 + (y - 1.5)**2 = 1.
    texts = {"(x - 1.5)**2": (), "(y - 1.5)**2": (), "1": ()}
    laws = [
        {"1": (1.0,), "(x - 1.5)**2": (-1.0,)},
        {"1": (0.0,), "(y - 1.5)**2": (1.0,)},
    ]
    assert merged(texts, laws) == ([0, 1], [])


def test_functions_whose_constant_has_no_effect_are_not_the_same() -> None:
    # Far above it, both saturate: on these data they are one constant, and still two laws.
    texts = {"x/(K + x)": ("K",), "x**2/(k**2 + x**2)": ("k",)}
    laws = [{"x/(K + x)": (1.5, 1e-9)}, {"x**2/(k**2 + x**2)": (1.5, 1e-9)}]
    assert merged(texts, laws) == ([0, 1], [])


@pytest.mark.parametrize("chi_square", [[30.0, 30.5], [30.0, 30.0]])
def test_laws_of_unequal_fit_or_size_are_not_compared(chi_square: list[float]) -> None:
    texts = {**SATURATING, "x": ()}
    other: dict[str, tuple[float, ...]] = {"x/(1 + c*x)": (3.75, 2.5)}
    if chi_square[0] == chi_square[1]:
        other["x"] = (0.0,)
    kept, _ = merged(texts, [{"x/(K + x)": (1.5, 0.4)}, other], chi_square)
    assert kept == [0, 1]


def test_the_search_reports_a_law_once_however_the_library_writes_it() -> None:
    system = System.from_text(
        states={"s": {"positive": True}}, missing={"uptake": ["s"]}, equations={"s": "0.2 - uptake"}
    )
    problem = Problem(
        "monod", system, {"uptake": "1.5*s/(0.4 + s)"}, np.array([[3.0]]), (np.linspace(0.0, 5.0, 51),)
    )
    library = LibraryOptions(
        polynomial_degree=1,
        templates=("input/(K + input)", "input/(1 + c*input)"),
        inner={"K": InnerOptions(), "c": InnerOptions()},
    )
    assert len(build_library(("s",), library)) == 4
    found = select(
        system,
        problem.data(0.01),
        untrained(problem),
        propose(problem, library, {"uptake": {"s": 1.0}}),
        SelectOptions(),
        laws=LawOptions(library=library),
    )
    structures = [tuple(term.term for term in law.missing["uptake"]) for law in found.laws]
    assert structures[0] == ("s/(K + s)",)
    assert ("s/(1 + c*s)",) not in structures
    assert "s/(1 + c*s) in uptake is s/(K + s) in other words: merged into it" in found.identifiability
    # Two ways to write it share no probability.
    assert found.inclusion["uptake"]["s/(K + s)"] > 0.9
