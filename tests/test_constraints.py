"""What laws may contain."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest

from sciml_discover.blocks import Blocks
from sciml_discover.constraints import (
    Constraints,
    HoleOptions,
    LawOptions,
    build_constraints,
    build_libraries,
    check_law_options,
    excluded_terms,
)
from sciml_discover.errors import InputError
from sciml_discover.library import InnerOptions, LibraryOptions
from sciml_discover.refit import Candidates
from sciml_discover.shortlist import short_laws
from tests.problems import LOTKA_VOLTERRA

DEGREE2 = LibraryOptions(polynomial_degree=2)


def constraints(options: LawOptions, excluded: list[np.ndarray] | None = None) -> Constraints:
    libraries = build_libraries(LOTKA_VOLTERRA.system, options)
    nothing = [np.zeros(len(library), dtype=bool) for library in libraries]
    return build_constraints(LOTKA_VOLTERRA.system, libraries, options, excluded or nothing, 5)


def support(*terms: int) -> np.ndarray:
    marks = np.zeros(6, dtype=bool)
    marks[list(terms)] = True
    return marks


def test_holes_with_the_same_inputs_share_a_library_unless_told_otherwise() -> None:
    one, two = build_libraries(LOTKA_VOLTERRA.system, LawOptions(library=DEGREE2))
    assert one is two
    assert one.texts == ("1", "x", "y", "x**2", "x*y", "y**2")
    own = HoleOptions(library=LibraryOptions(polynomial_degree=1))
    one, two = build_libraries(LOTKA_VOLTERRA.system, LawOptions(library=DEGREE2, holes={"growth": own}))
    assert (len(one), len(two)) == (6, 3)


def test_required_and_forbidden_terms() -> None:
    own = HoleOptions(required=("y*x",), forbidden=("1", "x**2"))
    found = constraints(LawOptions(library=DEGREE2, holes={"predation": own}))
    assert found.n_terms == 4 + 6
    complete = found.complete([support(0, 1), support(0)])
    assert complete is not None
    np.testing.assert_array_equal(complete[0], support(1, 4))
    np.testing.assert_array_equal(complete[1], support(0))
    assert found.complete([support(0), support()]) is None
    assert found.complete([support(0), support(0, 1, 2, 3, 4, 5)]) is None


def test_signs() -> None:
    own = HoleOptions(positive=("x*y",), negative=("x",))
    found = constraints(LawOptions(library=DEGREE2, holes={"predation": own}))
    coefficients = np.zeros((4, 6))
    coefficients[0, 4], coefficients[1, 4] = 0.5, -0.5
    coefficients[2, 1], coefficients[3, 1] = 0.5, -0.5
    anything = -np.ones((4, 6))
    assert found.kept([coefficients, anything]).tolist() == [True, False, False, True]


def test_holes_that_share_a_structure() -> None:
    found = constraints(LawOptions(library=DEGREE2, shared=(("predation", "growth"),)))
    assert found.together(0) == (0, 1)
    complete = found.complete([support(4), support(1)])
    assert complete is not None
    for part in complete:
        np.testing.assert_array_equal(part, support(1, 4))
    own = HoleOptions(library=LibraryOptions(polynomial_degree=1))
    with pytest.raises(InputError, match="different candidate terms"):
        constraints(LawOptions(library=DEGREE2, holes={"growth": own}, shared=(("predation", "growth"),)))


def test_terms_without_a_value_on_the_data_are_left_out_and_named() -> None:
    options = LawOptions(library=LibraryOptions(polynomial_degree=1, functions=("log",)))
    libraries = build_libraries(LOTKA_VOLTERRA.system, options)
    points = np.array([[1.0, 2.0], [0.5, -0.1]])
    masks, notes = excluded_terms(libraries, [[points], [points]], [np.zeros(5, dtype=bool)] * 2)
    assert libraries[0].texts == ("1", "x", "y", "log(x)", "log(y)")
    assert masks[0].tolist() == [False, False, False, False, True]
    assert notes == ["log(y) has no finite value everywhere on the data: left out of the library"]


def test_a_term_with_a_parameter_that_has_no_good_start_says_what_to_do() -> None:
    library = LibraryOptions(
        polynomial_degree=1, templates=("log(input - K)",), inner={"K": InnerOptions(bounds=(10.0, 20.0))}
    )
    series = [[np.array([[1.0, 2.0], [0.5, 0.1]])]] * 2
    libraries = [
        own.for_data(along)
        for own, along in zip(
            build_libraries(LOTKA_VOLTERRA.system, LawOptions(library=library)), series, strict=True
        )
    ]
    masks, notes = excluded_terms(libraries, series, [np.zeros(5, dtype=bool)] * 2)
    assert masks[0].tolist() == [False] * 3 + [True] * 2
    assert notes == [
        f"log({name} - K) has no finite value everywhere on the data for any start of K "
        "(give one in [regress.library] inner): left out of the library"
        for name in "xy"
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (LawOptions(holes={"predatoin": HoleOptions()}), "Did you mean 'predation'"),
        (LawOptions(shared=(("predation", "nobody"),)), "the hole 'nobody'"),
        (LawOptions(library=DEGREE2, holes={"growth": HoleOptions(required=("x**3",))}), r"x\*\*3"),
        (LawOptions(library=DEGREE2, holes={"growth": HoleOptions(forbidden=("z",))}), "the term 'z'"),
    ],
)
def test_what_there_is_not_is_refused(options: LawOptions, says: str) -> None:
    with pytest.raises(InputError, match=says):
        constraints(options)


def test_a_required_term_that_cannot_be_is_refused() -> None:
    options = LawOptions(library=DEGREE2, holes={"growth": HoleOptions(required=("x",))})
    with pytest.raises(InputError, match="the required term 'x'"):
        constraints(options, [support(1), support(1)])


@pytest.mark.parametrize(
    "options", [{"required": ("x",), "forbidden": ("x",)}, {"positive": ("x",), "negative": ("x",)}]
)
def test_contradictions_are_refused(options: dict) -> None:
    with pytest.raises(pydantic.ValidationError, match="'x' is both"):
        HoleOptions(**options)


@pytest.mark.parametrize(
    ("library", "says"),
    [
        ({"extra": ("x/(K + x)",)}, "the unknown name 'K'"),
        ({"extra": ("x/(y + K)",), "inner": {"x": {}}}, "an inner parameter called 'x'"),
        ({"templates": ("input/(K + input)",)}, "the unknown name 'K'"),
        ({"templates": ("x*input",)}, "the unknown name 'x'"),
        ({"extra": ("x**y",)}, "exponent"),
    ],
)
def test_terms_that_cannot_be_meant_are_refused_before_anything_runs(library: dict, says: str) -> None:
    options = LawOptions(library=LibraryOptions.model_validate(library))
    with pytest.raises(InputError, match=says):
        check_law_options(options, {"predation": ("x", "y"), "growth": ("x", "y")})


def test_inner_parameters_may_be_exponents() -> None:
    library = {
        "extra": ("x**n*y",),
        "templates": ("input**n/(K**n + input**n)",),
        "inner": {"n": {}, "K": {}},
    }
    options = LawOptions(library=LibraryOptions.model_validate(library))
    check_law_options(options, {"predation": ("x", "y"), "growth": ("x",)})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shared": (("predation", "growth"), ("growth", "predation"))}, "more than once"),
        ({"shared": (("predation", "predation"),)}, "more than once"),
    ],
)
def test_groups_that_overlap_are_refused(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        constraints(LawOptions(library=DEGREE2, **options))


def test_the_same_term_written_differently_is_the_same_term() -> None:
    own = HoleOptions(required=("x*y",), forbidden=("y*x",))
    with pytest.raises(InputError, match="as required and as forbidden"):
        constraints(LawOptions(library=DEGREE2, holes={"growth": own}))


def test_what_one_of_the_holes_that_share_must_not_have_none_can() -> None:
    options = LawOptions(
        library=DEGREE2, shared=(("predation", "growth"),), holes={"growth": HoleOptions(forbidden=("1",))}
    )
    found = constraints(options)
    assert not found.allowed[0][0]
    np.testing.assert_array_equal(found.allowed[0], found.allowed[1])


def test_a_hole_without_a_possible_term_is_refused() -> None:
    own = HoleOptions(forbidden=("1", "x", "y", "x**2", "x*y", "y**2"))
    with pytest.raises(InputError, match="0 allowed"):
        constraints(LawOptions(library=DEGREE2, holes={"growth": own}))


GROUP = (("predation", "growth"),)


@pytest.mark.parametrize(
    ("one", "two", "says"),
    [
        (
            {"required": ("x",)},
            {"forbidden": ("x",)},
            "'x', which predation must have and growth cannot have",
        ),
        (
            {"forbidden": ("y",)},
            {"required": ("y",)},
            "'y', which growth must have and predation cannot have",
        ),
        (
            {"required": ("1", "x", "y")},
            {"required": ("x", "x*y", "y**2", "x**2")},
            "6 required terms of the holes predation, growth together",
        ),
        (
            {"forbidden": ("1", "x", "y")},
            {"forbidden": ("x**2", "x*y", "y**2")},
            "no candidate term that the holes predation, growth can all have",
        ),
    ],
)
def test_holes_that_share_terms_must_not_contradict_each_other(one: dict, two: dict, says: str) -> None:
    holes = {"predation": HoleOptions(**one), "growth": HoleOptions(**two)}
    options = LawOptions(library=DEGREE2, shared=GROUP, holes=holes)
    with pytest.raises(InputError, match=rf"^\[regress\] shared: found .*{says}"):
        constraints(options)
    # Apart they are fine.
    constraints(LawOptions(library=DEGREE2, holes=holes))


def shared_with_a_redundant_term(*redundant: np.ndarray, **holes: HoleOptions) -> Constraints:
    options = LawOptions(library=DEGREE2, shared=GROUP, holes=holes)
    system = LOTKA_VOLTERRA.system
    return build_constraints(system, build_libraries(system, options), options, redundant, 5, redundant)


def test_a_term_that_a_free_parameter_carries_in_one_hole_stays_in_those_that_share_its_terms() -> None:
    found = shared_with_a_redundant_term(support(1), support())
    assert found.allowed[0].tolist() == (~support(1)).tolist()
    assert found.allowed[1].all()
    complete = found.complete([support(4), support(1)])
    assert complete is not None
    np.testing.assert_array_equal(complete[0], support(4))
    np.testing.assert_array_equal(complete[1], support(1, 4))
    # Its block fills one hole, the others both.
    libraries = build_libraries(LOTKA_VOLTERRA.system, LawOptions(library=DEGREE2))
    blocks = Blocks.of(libraries, found)
    assert {tuple(place): tuple(added) for place, added in zip(blocks.place, blocks.added, strict=True)} == {
        (0, 0): (1, 1),
        (1, 1): (0, 1),
        (0, 2): (1, 1),
        (0, 3): (1, 1),
        (0, 4): (1, 1),
        (0, 5): (1, 1),
    }
    law = Candidates(
        tuple(own[None] for own in complete), (np.zeros((1, 6)),) * 2, (np.zeros((1, 0)),) * 2, ("",)
    )
    [only] = blocks.laws(law, 0)
    assert [tuple(blocks.place[block]) for block in only] == [(1, 1), (0, 4)]
    assert blocks.is_complete(only)
    [one, *_] = short_laws(blocks, 100)
    assert one.shape == (6, 1)


def test_a_term_that_is_carried_everywhere_or_forbidden_anywhere_is_in_none_of_them() -> None:
    for found in (
        shared_with_a_redundant_term(support(1), support(1)),
        shared_with_a_redundant_term(support(1), support(), growth=HoleOptions(forbidden=("x",))),
        shared_with_a_redundant_term(support(1), support(), predation=HoleOptions(forbidden=("x",))),
    ):
        assert [may[1] for may in found.allowed] == [False, False]
    kept = shared_with_a_redundant_term(support(1), support(), growth=HoleOptions(required=("x", "y")))
    assert kept.fewest == 3
    with pytest.raises(InputError, match="the required term 'x'"):
        shared_with_a_redundant_term(support(1), support(), predation=HoleOptions(required=("x",)))
