"""What laws could reach, seen from one trajectory, against what refits say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sciml_discover.base import nobody_watches
from sciml_discover.blocks import Blocks
from sciml_discover.constraints import Constraints, HoleOptions, LawOptions, build_constraints
from sciml_discover.exchange import Exchange
from sciml_discover.hole_by_hole import hole_by_hole
from sciml_discover.library import InnerOptions, Library, LibraryOptions, build_library
from sciml_discover.masked_libraries import MaskedLibraries
from sciml_discover.objectives.problem import make_rows
from sciml_discover.outlook import Outlook, Surroundings, look_around
from sciml_discover.refit import Fits, Refitter
from sciml_discover.shortlist import Shortlist, short_laws
from sciml_discover.solve import solve_rows
from sciml_discover.training import TrainOptions, train, trained_ude
from sciml_discover.ude import ParameterMap
from tests.problems import LOTKA_VOLTERRA, candidates_of

DEGREE2 = LibraryOptions(polynomial_degree=2)
LIBRARIES = [build_library(("x", "y"), DEGREE2)] * 2
XY = LIBRARIES[0].texts.index("x*y")
LONG = {"predation": {"x*y": 0.9, "y**2": 0.01}, "growth": {"x*y": 0.8}}
TRUE = {"predation": {"x*y": 0.9}, "growth": {"x*y": 0.8}}


def constraints(options: LawOptions | None = None) -> Constraints:
    nothing = [np.zeros(6, dtype=bool)] * 2
    return build_constraints(
        LOTKA_VOLTERRA.system, LIBRARIES, options or LawOptions(library=DEGREE2), nothing, 5
    )


def by_chi_square(chi_square: np.ndarray, terms: np.ndarray, inner: np.ndarray) -> np.ndarray:
    return chi_square + 5.0 * terms + 3.0 * inner


def fitted(law: dict[str, dict[str, float]]) -> tuple[Refitter, Fits]:
    rows = LOTKA_VOLTERRA.rows(0.01)
    refitter = Refitter(LOTKA_VOLTERRA.system, LIBRARIES, rows, 2)
    start = Fits.begin(
        candidates_of(LOTKA_VOLTERRA, DEGREE2, law),
        rows.smooth_states,
        ParameterMap(LOTKA_VOLTERRA.system).initial(1),
    )
    fits = refitter.polish(refitter.refit(start, nobody_watches), nobody_watches)
    assert fits.converged.all()
    return refitter, fits


def around_law(
    law: dict[str, dict[str, float]], options: LawOptions | None = None
) -> tuple[Blocks, Surroundings, Fits, Refitter]:
    refitter, fits = fitted(law)
    blocks = Blocks.of(LIBRARIES, constraints(options))
    filling, weights = refitter.filling(fits)
    [around] = look_around(
        refitter, blocks, filling, weights, fits.states, fits.coordinates, list(fits.candidates.inner)
    )
    return blocks, around, fits, refitter


def from_law(
    law: dict[str, dict[str, float]], options: LawOptions | None = None
) -> tuple[Blocks, Outlook, Fits, Refitter]:
    blocks, around, fits, refitter = around_law(law, options)
    outlook = around.outlook()
    assert outlook is not None
    return blocks, outlook, fits, refitter


@pytest.mark.parametrize("law", [TRUE, LONG])
def test_what_is_seen_from_a_law_is_what_refits_find(law: dict[str, dict[str, float]]) -> None:
    blocks, outlook, fits, refitter = from_law(law)
    own = next(blocks.laws(fits.candidates, 0))
    seen, coefficients = outlook.fit(blocks, [own])
    assert seen[0] == pytest.approx(fits.chi_square[0], abs=0.5)
    for hole, values in enumerate(fits.candidates.coefficients):
        at = coefficients[0].reshape(2, 6)[hole]
        np.testing.assert_allclose(at, values[0], atol=2e-3)
    around = [tuple(sorted({*own, block})) for block in range(len(blocks)) if block not in own]
    chi_square, coefficients = outlook.fit(blocks, around)
    candidates = blocks.candidates(around, coefficients, [np.zeros(0)] * 2, ["move"] * len(around))
    found = refitter.refit(Fits.begin(candidates, fits.states[0], fits.coordinates), nobody_watches)
    near = found.chi_square > fits.chi_square[0] - 10.0
    assert near.sum() >= 6
    np.testing.assert_allclose(found.chi_square[near], chi_square[near], atol=0.7)


def test_gains_are_differences_of_fits() -> None:
    blocks, outlook, _, _ = from_law(LONG)
    laws = [(), (XY,), (XY, 6 + XY), (0, 1, 2)]
    chi_square, gains = outlook.gains(blocks, laws)
    alone, _ = outlook.fit(blocks, laws)
    np.testing.assert_allclose(chi_square, alone, rtol=1e-6)
    for row, law in enumerate(laws):
        for block in range(len(blocks)):
            if block in law:
                continue
            longer, _ = outlook.fit(blocks, [tuple(sorted((*law, block)))])
            assert alone[row] - longer[0] == pytest.approx(gains[row, block], rel=1e-4, abs=1e-3)


def test_the_true_law_is_seen_from_a_network_that_fits() -> None:
    """The learnt trajectory is enough: no sample of the network is regressed, no law is fitted."""
    data = LOTKA_VOLTERRA.data(0.01)
    rows = make_rows(LOTKA_VOLTERRA.system, data.train, data.noise)
    result = train(LOTKA_VOLTERRA.system, data, TrainOptions(), seed=0)
    ude, theta = trained_ude(LOTKA_VOLTERRA.system, result)
    library = build_library(("x", "y"), LibraryOptions(polynomial_degree=5, functions=("sin",)))
    nothing = [np.zeros(len(library), dtype=bool)] * 2
    allowed = build_constraints(
        LOTKA_VOLTERRA.system,
        [library] * 2,
        LawOptions(library=LibraryOptions(polynomial_degree=5, functions=("sin",))),
        nothing,
        5,
    )
    blocks = Blocks.of([library] * 2, allowed)
    states = solve_rows(ude, rows, torch.as_tensor(result.initial_states)[None], theta, 2)
    [around] = look_around(
        Refitter(LOTKA_VOLTERRA.system, [library] * 2, rows, 2),
        blocks,
        ude.filling,
        theta[:, ude.n_free :],
        states,
        theta[:, : ude.n_free],
        [np.zeros((1, 0))] * 2,
    )
    outlook = around.outlook()
    assert outlook is not None
    found = Shortlist(outlook, blocks, by_chi_square, {}, exhaustive=529)
    [best, *_] = found.best(3)
    terms = [library.texts[blocks.place[block, 1]] for block in best]
    assert terms == ["x*y", "x*y"]
    assert found.looked_at > 529
    assert found.chi_square(best) < 2.0 * data.train.n_observed
    wrong = found.best(3)[1]
    assert found.chi_square(wrong) > found.chi_square(best) + 20.0 or len(wrong) > 2


def test_laws_keep_to_the_constraints() -> None:
    own = HoleOptions(required=("x*y",), forbidden=("1", "x"))
    blocks, outlook, fits, _ = from_law(LONG, LawOptions(library=DEGREE2, holes={"predation": own}))
    begin = {next(blocks.laws(fits.candidates, 0)): "parent"}
    laws = Shortlist(outlook, blocks, by_chi_square, begin).best(20)
    found = blocks.candidates(laws, outlook.fit(blocks, laws)[1], [np.zeros(0)] * 2, [""] * len(laws))
    assert len(laws) > 10
    assert found.supports[0][:, XY].all()
    assert not found.supports[0][:, :2].any()
    both = LawOptions(library=DEGREE2, shared=(("predation", "growth"),))
    blocks, outlook, _, _ = from_law(TRUE, both)
    assert len(blocks) == 6
    laws = Shortlist(outlook, blocks, by_chi_square, {}).best(10)
    found = blocks.candidates(laws, outlook.fit(blocks, laws)[1], [np.zeros(0)] * 2, [""] * len(laws))
    np.testing.assert_array_equal(found.supports[0], found.supports[1])
    assert found.supports[0][0].nonzero()[0].tolist() == [XY]
    assert found.coefficients[0][0, XY] == pytest.approx(0.9, abs=0.05)
    assert found.coefficients[1][0, XY] == pytest.approx(0.8, abs=0.05)


def test_no_law_is_longer_than_allowed_and_none_leaves_a_hole_empty() -> None:
    refitter, fits = fitted(TRUE)
    nothing = [np.zeros(6, dtype=bool)] * 2
    blocks = Blocks.of(
        LIBRARIES,
        build_constraints(LOTKA_VOLTERRA.system, LIBRARIES, LawOptions(library=DEGREE2), nothing, 2),
    )
    filling, weights = refitter.filling(fits)
    [around] = look_around(
        refitter, blocks, filling, weights, fits.states, fits.coordinates, list(fits.candidates.inner)
    )
    outlook = around.outlook()
    assert outlook is not None
    laws = Shortlist(outlook, blocks, by_chi_square, {}).best(50)
    sizes = np.array([blocks.added[list(law)].sum(axis=0) for law in laws])
    assert sizes.min() == 1
    assert sizes.max() == 2
    assert len({len(law) for law in laws}) == 3


def test_where_no_term_can_be_used_there_is_no_law() -> None:
    _, blocks = saturating()
    count = len(blocks.offers[0])
    assert [*short_laws(blocks, 100, np.zeros(len(blocks), dtype=bool))] == []
    outlook = Outlook.of(1.0, np.full(count, np.nan), np.full((count, count), np.nan))
    assert Shortlist(outlook, blocks, by_chi_square, {}, exhaustive=100).best(9) == []


def test_complete_is_what_has_all_it_must_have_and_no_more_than_it_may() -> None:
    own = {"predation": HoleOptions(required=("x*y",))}
    blocks = Blocks.of(LIBRARIES, replace(constraints(LawOptions(library=DEGREE2, holes=own)), longest=2))
    for law, complete in (
        ((XY, 6), True),
        ((0, XY, 6, 7), True),
        ((XY,), False),
        ((0, 6 + XY), False),
        ((0, 1, XY, 6), False),
    ):
        assert blocks.is_complete(law) is complete, law
    assert blocks.is_complete((XY,), [0])
    assert not blocks.is_complete((0,), [0])
    assert blocks.is_complete((6,), [1])


def test_members_that_are_too_large_together_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, one, fits, refitter = from_law(TRUE)
    _, other, longer, _ = from_law(LONG)
    both = Fits.join([fits, longer])
    filling, weights = refitter.filling(both)
    sizes: list[int] = []
    marginal = refitter.marginal

    def counted(exchange: Exchange, states: torch.Tensor, coordinates: torch.Tensor) -> object:
        sizes.append(len(states))
        return marginal(exchange, states, coordinates)

    monkeypatch.setattr(refitter, "marginal", counted)
    for largest, expected in ((10**9, [2]), (1, [1, 1])):
        sizes.clear()
        monkeypatch.setattr("sciml_discover.outlook.LARGEST", largest)
        inner = list(both.candidates.inner)
        seen = look_around(refitter, blocks, filling, weights, both.states, both.coordinates, inner)
        assert sizes == expected
        for surroundings, alone in zip(seen, (one, other), strict=True):
            found = surroundings.outlook()
            assert found is not None
            np.testing.assert_allclose(found.level, alone.level, rtol=1e-9)
            np.testing.assert_allclose(found.slope, alone.slope, rtol=1e-6, atol=1e-6)


def test_one_hole_is_looked_at_while_the_other_stays_as_it_is() -> None:
    blocks, around, fits, _ = around_law(TRUE)
    alone = around.outlook([0])
    assert alone is not None
    own = next(blocks.laws(fits.candidates, 0))
    here = tuple(block for block in own if blocks.added[block, 0])
    # What is left in the second hole has the coefficient that the fit gave it: chi-square is that of the fit.
    assert alone.fit(blocks, [here])[0][0] == pytest.approx(fits.chi_square[0], abs=0.5)
    assert not alone.available(blocks)[blocks.added[:, 1] > 0].any()
    # Without anything in the first hole the fit is lost, though the second one is still there.
    everything = around.outlook()
    assert everything is not None
    assert fits.chi_square[0] + 1000.0 < alone.level < everything.level


@pytest.mark.parametrize("seen_from", [TRUE, LONG])
def test_what_is_best_in_each_hole_is_put_together(seen_from: dict[str, dict[str, float]]) -> None:
    blocks, around, _, _ = around_law(seen_from)
    laws, looked_at = hole_by_hole(around, blocks, by_chi_square, {(): "search"}, exhaustive=100, width=16)
    assert looked_at > 2 * 6
    assert [blocks.libraries[0].texts[blocks.place[block, 1]] for block in laws[0]] == ["x*y", "x*y"]
    assert sorted(blocks.place[list(laws[0]), 0]) == [0, 1]
    assert len(set(laws)) == len(laws) > 1


def test_a_single_hole_is_not_put_together() -> None:
    _, blocks = saturating()
    nothing = Surroundings(0.0, np.zeros(1), np.zeros((1, 1)), 0, (len(blocks.offers[0]),))
    assert hole_by_hole(nothing, blocks, by_chi_square, {}, exhaustive=9, width=4) == ([], 0)


def test_terms_that_cancel_each_other_do_not_reach_less_than_nothing() -> None:
    """Rounding errors of a chi-square of 1e12 are large: no law may look good by them."""
    random = np.random.default_rng(0)
    base = random.standard_normal((200, 2))
    nearly = base[:, :1] + 1e-7 * random.standard_normal((200, 3))
    columns = np.hstack([base, nearly])
    target = 1e6 * (base @ [1.0, -2.0]) + 1e-3 * random.standard_normal(200)
    outlook = Outlook.of(float(target @ target), columns.T @ target, columns.T @ columns)
    laws = np.array([[0, 1, 5, 5], [0, 1, 2, 3], [1, 2, 3, 4]])
    truth, *others = outlook.chi_square(laws)
    assert 0.0 <= truth < 100.0
    assert min(others) > truth


def saturating() -> tuple[Library, Blocks]:
    library = build_library(
        ("x",),
        LibraryOptions(polynomial_degree=1, templates=("input/(K + input)",), inner={"K": InnerOptions()}),
    ).for_data([np.linspace(0.5, 4.0, 20)[:, None]])
    free, nothing = np.ones(len(library), dtype=bool), np.zeros(len(library), dtype=bool)
    return library, Blocks.of([library], Constraints((free,), (nothing,), (nothing.astype(int),), (), 5))


def test_a_term_with_a_parameter_inside_is_a_block_for_each_start() -> None:
    library, blocks = saturating()
    starts = library.start_values(2)[:, 0]
    own = np.flatnonzero(blocks.place[:, 1] == 2)
    assert len(own) == len(starts) > 2
    assert (blocks.n_inner[own] == 1).all()
    # 1, x and every start of the fraction; two starts of one term are no law.
    [one, two, *_] = short_laws(blocks, 10_000)
    assert len(one) == 2 + len(starts)
    laws = [tuple(law) for law in two.tolist()]
    assert (int(own[0]), int(own[1])) not in laws
    assert len(set(laws)) == len(laws) == 1 + 2 * len(starts)
    # Only as many as there are count against the limit.
    assert [len(same) for same in short_laws(blocks, len(one) + len(two))] == [len(one), len(two)]
    assert [len(same) for same in short_laws(blocks, len(one) + len(two) - 1)] == [len(one)]
    candidates = blocks.candidates(
        [(int(block),) for block in own],
        np.zeros((len(own), len(blocks.offers[0]))),
        [library.starts_at(0)],
        ["test"] * len(own),
    )
    np.testing.assert_allclose(candidates.inner[0][:, 0], starts)
    assert [next(blocks.laws(candidates, 0))] == [(int(own[0]),)]
    assert [*blocks.laws(candidates, 0)] == [(int(block),) for block in own]


def test_a_linear_step_moves_the_parameter_inside_but_not_far() -> None:
    library, blocks = saturating()
    block = int(np.flatnonzero(blocks.place[:, 1] == 2)[0])
    term, derivative = blocks.columns[block]
    start = float(library.start_values(2)[0, 0])
    for step, expected in ((0.5, 1.25 * start), (100.0, 3.0 * start), (-100.0, start / 3.0)):
        values = np.zeros((1, len(blocks.offers[0])))
        values[0, term], values[0, derivative] = 2.0, step * start
        found = blocks.candidates([(block,)], values, [library.starts_at(0)], ["test"])
        assert found.coefficients[0][0, 2] == 2.0
        item = library.inner[0]
        assert item.low is not None
        assert item.high is not None
        assert found.inner[0][0, 0] == pytest.approx(np.clip(expected, item.low, item.high))


def test_gains_of_blocks_with_derivatives_are_differences_of_fits() -> None:
    _, blocks = saturating()
    columns = np.random.default_rng(0).standard_normal((40, len(blocks.offers[0])))
    target = np.random.default_rng(1).standard_normal(40)
    outlook = Outlook.of(float(target @ target), columns.T @ target, columns.T @ columns)
    laws = [(), (0,), (0, 3)]
    chi_square, gains = outlook.gains(blocks, laws)
    for row, law in enumerate(laws):
        for block in range(len(blocks)):
            if blocks.term[block] in blocks.term[list(law)]:
                continue
            used = blocks.columns[[*law, block]].ravel()
            used = used[used < columns.shape[1]]
            left = target - columns[:, used] @ np.linalg.lstsq(columns[:, used], target, rcond=None)[0]
            assert chi_square[row] - gains[row, block] == pytest.approx(left @ left, rel=1e-6)
    # A column without a value is no candidate, and harms nothing else.
    matrix = columns.T @ columns
    matrix[:, 1] = matrix[1] = np.nan
    without = Outlook.of(float(target @ target), columns.T @ target, matrix)
    assert (~without.available(blocks)).sum() == 1
    seen, _ = without.gains(blocks, laws[:2])
    np.testing.assert_allclose(seen, chi_square[:2])


def test_derivatives_of_the_exchange_are_those_of_the_terms() -> None:
    library, blocks = saturating()
    present = MaskedLibraries([library], [(0,)], [np.array([[True, True, False]])])
    weights = present.pack([np.array([[0.3, 0.2, 0.0]])])
    exchange = Exchange(present, weights, [library], [(0,)], blocks.offers, [library.starts_at(0)[None]])
    x = torch.linspace(0.5, 4.0, 7, dtype=torch.float64)[None, :, None]
    time = torch.zeros(7, dtype=torch.float64)
    zeros = torch.zeros((1, exchange.n_weights), dtype=torch.float64)
    values, by_state, by_weights = exchange.linearize(zeros, time, x)
    np.testing.assert_allclose(values[0, :, 0], 0.3 + 0.2 * x[0, :, 0])
    np.testing.assert_allclose(by_state[0, :, 0, 0], 0.2)
    np.testing.assert_allclose(by_weights[0, :, 0, 0], values[0, :, 0])
    for block in range(len(blocks)):
        term = int(blocks.place[block, 1])
        inner = library.starts_at(int(blocks.turn[block]))
        column = int(blocks.columns[block, 0])
        np.testing.assert_allclose(
            by_weights[0, :, 0, 1 + column], library.matrix(x[0].numpy(), inner)[:, term]
        )
        if blocks.n_inner[block]:
            step = 1e-6 * inner
            slope = (library.matrix(x[0].numpy(), inner + step) - library.matrix(x[0].numpy(), inner - step))[
                :, term
            ] / (2.0 * step)
            np.testing.assert_allclose(
                by_weights[0, :, 0, 1 + int(blocks.columns[block, 1])], slope, rtol=1e-6
            )
    [product] = exchange.products(zeros, time, x)
    np.testing.assert_allclose(product.dense()[0], by_weights[0, :, 0])
    taken = exchange.take(torch.tensor([0]))
    np.testing.assert_allclose(taken.linearize(zeros, time, x)[2], by_weights)
