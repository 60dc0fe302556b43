"""What is said of a choice that the data do not settle."""

from __future__ import annotations

import numpy as np
import torch

from sciml_discover.identifiability import CANCEL, cancellations, collinear_terms
from sciml_discover.library import Library, LibraryTerm
from sciml_discover.refit import Candidates
from sciml_discover.system import System

SYSTEM = System.from_text(
    states=["x", "y"], missing={"f": ["x"], "g": ["y"]}, equations={"x": "f", "y": "g - y"}
)
LIBRARIES = [Library((name,), [LibraryTerm(name), LibraryTerm(f"{name}**2")]) for name in ("x", "y")]


def named(f: tuple[float, float], g: tuple[float, float]) -> list[str]:
    rows = np.linspace(0.9, 1.1, 21)
    # States, then the time.
    signals = torch.as_tensor(np.column_stack([rows, rows, np.arange(21.0)]))
    coefficients = tuple(np.array([own]) for own in (f, g))
    candidates = Candidates(
        tuple(own != 0 for own in coefficients), coefficients, (np.zeros((1, 0)),) * 2, ("hand",)
    )
    return cancellations(SYSTEM, LIBRARIES, signals, candidates)


def test_terms_that_undo_each_other_are_named_with_their_hole() -> None:
    [sentence] = named((10.0, -10.0), (10.0, 10.0))
    assert sentence.startswith(f"the terms of f {CANCEL} to ")
    share = float(sentence.split(" to ")[1].split(" %")[0])
    rows = np.linspace(0.9, 1.1, 21)
    exact = np.sqrt(np.mean((rows - rows**2) ** 2) / np.mean(rows**4))
    np.testing.assert_allclose(share, 100.0 * exact, rtol=0.05)


def test_two_terms_that_undo_each_other_beside_a_third_are_named() -> None:
    library = Library(("x",), [LibraryTerm(text) for text in ("x", "x**2", "x**3", "1")])
    system = System.from_text(states=["x"], missing={"f": ["x"]}, equations={"x": "f"})
    rows = np.linspace(0.9, 1.1, 21)
    signals = torch.as_tensor(np.column_stack([rows, np.arange(21.0)]))

    def said(*coefficients: float) -> list[str]:
        values = np.array([coefficients])
        candidates = Candidates((values != 0,), (values,), (np.zeros((1, 0)),), ("hand",))
        return cancellations(system, [library], signals, candidates)

    [sentence] = said(10.0, 0.0, -10.0, 30.0)
    assert sentence.startswith(f"x and x**3 of f {CANCEL} to ")
    assert said(10.0, 0.0, 10.0, 30.0) == []
    # Where all of them cancel, that is what is said.
    assert said(10.0, 0.0, -20.0, 10.0)[0].startswith(f"the terms of f {CANCEL} to ")


def test_single_terms_and_empty_holes_cancel_nothing() -> None:
    assert named((1e-3, 0.0), (0.0, 0.0)) == []
    assert named((10.0, -5.0), (1.0, 0.0)) == []


def alike(low: float, high: float, *, allowed: tuple[bool, ...] = (True,) * 4) -> list[str]:
    terms = [LibraryTerm(text) for text in ("1", "x", "x**3", "sin(x)")]
    library = Library(("x",), terms)
    system = System.from_text(states=["x"], missing={"f": ["x"]}, equations={"x": "f - x"})
    rows = np.linspace(low, high, 41)
    support = np.array([[False, True, False, False]])
    candidates = Candidates((support,), (support * 1.5,), (np.zeros((1, 0)),), ("hand",))
    signals = torch.as_tensor(np.column_stack([rows, np.arange(41.0)]))
    return collinear_terms(system, [library], [np.array(allowed)], signals, candidates)


def test_terms_that_go_along_with_one_of_the_choice_are_named() -> None:
    [sentence] = alike(0.98, 1.02)
    assert sentence.startswith(
        "x in f is collinear, over the region that the data visit, with sin(x), 1, x**3 (cosine up to 0.99"
    )
    assert alike(0.0, 3.0) == []
    # For small x the sine is x, and the cube is something else.
    [sentence] = alike(-0.1, 0.1)
    assert "with sin(x) (cosine" in sentence
    assert alike(-0.1, 0.1, allowed=(True, True, True, False)) == []
