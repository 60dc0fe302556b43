"""Parameters in unbounded coordinates, and the equation with something in its holes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciml_discover.system import System
from sciml_discover.ude import ParameterMap
from tests.problems import EXCHANGE, PROBLEMS, Problem, network_ude, random_controls, random_theta, true_ude

SYSTEM = System.from_text(
    states=["x"],
    parameters={
        "free": 2.0,
        "zero": 0.0,
        "fixed": {"value": 5.0, "fixed": True},
        "negative": -3.0,
        "bounded": {"value": 0.5, "bounds": (0.0, 1000.0)},
        "edge": {"value": 1.0, "bounds": (1.0, 3.0)},
    },
    equations={"x": "free + zero + fixed + negative + bounded + edge"},
)


def test_coordinates_begin_at_the_stated_values() -> None:
    parameters = ParameterMap(SYSTEM)
    physical = parameters.physical(parameters.initial(2))
    assert parameters.n_free == 5
    assert parameters.free_positions == [0, 1, 3, 4, 5]
    # A value at its bound is moved a thousandth of the width inside: a logistic curve has no slope there.
    expected = torch.tensor([2.0, 0.0, 5.0, -3.0, 0.5, 1.002]).double()
    torch.testing.assert_close(physical, expected.expand(2, -1))


def test_coordinates_round_trip_even_close_to_a_bound() -> None:
    parameters = ParameterMap(SYSTEM)
    coordinates = torch.tensor([[0.3, -2.0, 7.0, 1.5, -0.4], [1.0, 0.0, -1.0, -12.0, 9.0]]).double()
    physical = parameters.physical(coordinates)
    torch.testing.assert_close(parameters.coordinates(physical[:, parameters.free_positions]), coordinates)
    assert physical[0, 2] == 5.0
    assert (physical[:, 4] > 0).all()
    assert (physical[:, 5] < 3).all()


def test_slopes_are_those_of_the_map() -> None:
    parameters = ParameterMap(SYSTEM)
    coordinates = torch.tensor([[0.3, -2.0, 7.0, 1.5, -0.4]]).double()
    exact = torch.autograd.functional.jacobian(parameters.physical, coordinates)[0, :, 0]
    found = torch.zeros(6, 5).double()
    found[parameters.free_positions, range(5)] = parameters.slope(coordinates)[0]
    torch.testing.assert_close(found, exact)


def test_a_system_without_free_parameters() -> None:
    system = System.from_text(
        states=["x"], parameters={"k": {"value": 2.0, "fixed": True}}, equations={"x": "-k*x"}
    )
    parameters = ParameterMap(system)
    assert parameters.physical(parameters.initial(3)).tolist() == [[2.0]] * 3
    assert parameters.slope(parameters.initial(3)).shape == (3, 0)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_true_law_in_the_holes_is_the_filled_system(problem: Problem) -> None:
    ude, theta = true_ude(problem)
    rng = np.random.default_rng(0)
    times, states = rng.uniform(0, 3, 5), rng.uniform(0.3, 2, (5, problem.system.dimension))
    controls = random_controls(problem.system, 5)
    found = ude.rhs(torch.as_tensor(times), torch.as_tensor(states)[None], theta, controls)[0].numpy()
    functions = problem.filled.numpy_functions()
    for row in range(5):
        given = None if controls is None else controls[row].numpy()
        exact = functions.rhs(times[row], states[row], problem.parameters, given)
        np.testing.assert_allclose(found[row], exact)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_linearize_says_what_autograd_says(problem: Problem) -> None:
    ude = network_ude(problem.system)
    theta = random_theta(ude, 2)
    rng = np.random.default_rng(0)
    time, state = (
        torch.as_tensor(rng.uniform(0, 3, 3)),
        torch.as_tensor(rng.uniform(0.3, 2, (2, 3, ude.system.dimension))),
    )
    controls = random_controls(problem.system, 3)
    value, by_state, by_theta = ude.linearize(time, state, theta, controls)
    torch.testing.assert_close(value, ude.rhs(time, state, theta, controls))
    exact_state, exact_theta = torch.autograd.functional.jacobian(
        lambda x, th: ude.rhs(time, x, th, controls), (state, theta)
    )
    for b in range(2):
        torch.testing.assert_close(by_theta[b], exact_theta[b, :, :, b])
        for p in range(3):
            torch.testing.assert_close(by_state[b, p], exact_state[b, p, :, b, p])


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize("true_law", [False, True])
def test_slopes_and_products_are_the_parts_of_linearize(problem: Problem, true_law: bool) -> None:
    if true_law:
        ude, theta = true_ude(problem)
    else:
        ude = network_ude(problem.system)
        theta = random_theta(ude, 2)
    rng = np.random.default_rng(0)
    time = torch.as_tensor(rng.uniform(0, 3, 3))
    state = torch.as_tensor(rng.uniform(0.3, 2, (len(theta), 3, ude.system.dimension)))
    controls = random_controls(problem.system, 3)
    value, by_state, by_theta = ude.linearize(time, state, theta, controls)
    slopes = ude.slopes(time, state, theta, controls)
    products = ude.products(time, state, theta, controls)
    torch.testing.assert_close(slopes.value, value)
    torch.testing.assert_close(slopes.by_state, by_state)
    blocks = [slopes.by_holes[..., h, None] * hole.dense()[:, :, None] for h, hole in enumerate(products)]
    torch.testing.assert_close(torch.cat([slopes.by_parameters, *blocks], dim=-1), by_theta)
    assert tuple(hole.width for hole in products) == ude.widths
    # Right factors that are all ones, as for a library's terms, take no memory.
    sides = [side for hole in products for pair in hole.pairs for side in pair]
    assert sum(side.shape[-1] for side in sides if side.stride(1) != 0) == ude.factors


def test_a_hole_in_two_equations_is_the_same_in_both() -> None:
    ude = network_ude(EXCHANGE.system)
    theta, more = random_theta(ude, 1), random_theta(ude, 1)
    first = ude.filling.shapes[0].n_weights  # pyright: ignore[reportAttributeAccessIssue]
    more[:, ude.n_free : ude.n_free + first] += 0.1
    state = torch.full((1, 1, 3), 0.7).double()
    change = ude.rhs(torch.zeros(1).double(), state, more) - ude.rhs(torch.zeros(1).double(), state, theta)
    assert change[0, 0, 0] != 0
    assert change[0, 0, 1] == pytest.approx(-change[0, 0, 0].item())
    assert change[0, 0, 2] == 0


def test_prior_is_on_weights_only() -> None:
    ude = network_ude(EXCHANGE.system, prior=0.3)
    precision = ude.prior_precision(2)
    assert precision[:, : ude.n_free].abs().sum() == 0
    torch.testing.assert_close(
        precision[:, ude.n_free :], torch.full((2, ude.filling.n_weights), 0.09).double()
    )
