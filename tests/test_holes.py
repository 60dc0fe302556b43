"""Fillings: values, exact derivatives, and the bookkeeping of their flat weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciml_discover.holes import AbstractFilling, NetworkShape, ResidualNetworks
from sciml_discover.library import InnerParameter, Library, LibraryOptions, LibraryTerm, build_library
from sciml_discover.masked_libraries import MaskedLibraries

B, P, DIMENSION = 3, 4, 2
TIME_INPUT = DIMENSION
INPUTS = ((0, 1), (1, TIME_INPUT), (TIME_INPUT,), (1, 0))
"""All states, a chosen one and the time, the time alone, the states the other way round."""


def points(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    return torch.as_tensor(generator.uniform(0, 2, P)), torch.as_tensor(
        generator.uniform(0.5, 2, (B, P, DIMENSION))
    )


def networks(hidden: tuple[int, ...] = (4, 3)) -> ResidualNetworks:
    return ResidualNetworks(
        [
            NetworkShape(
                inputs, hidden, np.arange(len(inputs)) + 0.1, np.arange(len(inputs)) + 1.5, 2.0 + number
            )
            for number, inputs in enumerate(INPUTS)
        ],
        prior=0.5,
    )


SUPPORTS = [
    np.array([[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 1]]),
    np.array([[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]),
    np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1]]),
    np.array([[0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]),
]


def libraries() -> MaskedLibraries:
    names = ["x", "y", "t"]
    degree2 = LibraryOptions(polynomial_degree=2)
    built = [build_library([names[i] for i in inputs], degree2) for inputs in INPUTS]
    return MaskedLibraries(built, INPUTS, SUPPORTS)


def inner_libraries() -> MaskedLibraries:
    """Terms with parameters inside: bounded over decades, bounded, an exponent, and without bounds."""
    names, built = ["x", "y", "t"], []
    for inputs in INPUTS:
        name = names[inputs[0]]
        terms = [
            LibraryTerm("1"),
            LibraryTerm(f"{name}/(K + {name})", (InnerParameter("K", 1.0, 0.01, 100.0),)),
            LibraryTerm(
                f"{name}**n*exp(-m*{name})",
                (InnerParameter("m", 0.5), InnerParameter("n", 1.5, 0.5, 3.0)),
            ),
            LibraryTerm(f"(2 + {name}**2)*sin({name})"),
        ]
        built.append(Library([names[i] for i in inputs], terms))
    supports = [
        np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]]),
        np.array([[0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 1, 0]]),
        np.array([[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 1]]),
        np.array([[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0]]),
    ]
    return MaskedLibraries(built, INPUTS, supports)


FILLINGS = {
    "networks": networks,
    "linear network": lambda: networks(()),
    "libraries": libraries,
    "libraries with inner parameters": inner_libraries,
}


@pytest.fixture(params=FILLINGS)
def filling(request: pytest.FixtureRequest) -> AbstractFilling:
    return FILLINGS[request.param]()


def weights(filling: AbstractFilling) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(1).standard_normal((B, filling.n_weights)))


def test_linearize_says_what_autograd_says(filling: AbstractFilling) -> None:
    (time, state), flat = points(), weights(filling)
    value, by_state, by_weights = filling.linearize(flat, time, state)
    torch.testing.assert_close(value, filling.value(flat, time, state))
    assert value.shape == (B, P, len(INPUTS))
    exact_weights, exact_state = torch.autograd.functional.jacobian(
        lambda w, x: filling.value(w, time, x), (flat, state)
    )
    for b in range(B):
        torch.testing.assert_close(by_weights[b], exact_weights[b, :, :, b])
        for p in range(P):
            torch.testing.assert_close(by_state[b, p], exact_state[b, p, :, b, p])
            # No point depends on another one.
            assert exact_state[b, p, :, b].abs().sum() == pytest.approx(by_state[b, p].abs().sum())


def test_take_keeps_the_chosen_members(filling: AbstractFilling) -> None:
    (time, state), flat = points(), weights(filling)
    index = torch.tensor([2, 0])
    chosen = filling.take(index)
    whole, part = filling.linearize(flat, time, state), chosen.linearize(flat[index], time, state[index])
    for all_members, some in zip(whole, part, strict=True):
        torch.testing.assert_close(all_members[index], some)
    assert chosen.n_weights == filling.n_weights
    torch.testing.assert_close(chosen.prior_precision(2), filling.prior_precision(B)[index])


def test_time_may_differ_between_members(filling: AbstractFilling) -> None:
    (time, state), flat = points(), weights(filling)
    shifted = time + torch.tensor([[0.0], [1.0], [2.0]]).double()
    found = filling.value(flat, shifted, state)
    for b in range(B):
        torch.testing.assert_close(found[b], filling.value(flat, shifted[b], state)[b])


def test_networks_start_as_a_small_perturbation_that_the_seed_decides() -> None:
    filling, (time, state) = networks(), points()
    one, two, three = (filling.initial_weights(B, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert not torch.equal(one[0], one[1])
    value = filling.value(one, time, state)
    assert 0 < value.abs().max() < 0.3
    torch.testing.assert_close(filling.prior_precision(B), torch.full((B, filling.n_weights), 0.25).double())


def test_number_of_weights() -> None:
    # Two inputs, layers of four and three: (2 + 1) 4 + (4 + 1) 3 + (3 + 1) 1.
    assert networks().shapes[0].n_weights == 31
    assert networks().n_weights == 31 + 31 + 27 + 31


def test_libraries_are_the_sum_of_their_active_terms() -> None:
    filling, (time, state) = libraries(), points()
    rng = np.random.default_rng(2)
    coefficients = [support * rng.standard_normal(support.shape) for support in SUPPORTS]
    packed = filling.pack(coefficients)
    found = filling.value(packed, time, state)
    columns = np.concatenate([state.numpy(), np.broadcast_to(time.numpy()[:, None], (B, P, 1))], axis=-1)
    for number, inputs in enumerate(INPUTS):
        for b in range(B):
            exact = filling.libraries[number].matrix(columns[b][:, list(inputs)]) @ coefficients[number][b]
            np.testing.assert_allclose(found[b, :, number].numpy(), exact, atol=1e-12)
    for full, back in zip(coefficients, filling.unpack(packed)[0], strict=True):
        np.testing.assert_array_equal(full, back)


def test_inner_parameters_come_back_and_do_what_they_say() -> None:
    filling, (time, state) = inner_libraries(), points()
    rng = np.random.default_rng(3)
    coefficients = [rng.standard_normal((B, len(library))) for library in filling.libraries]
    inner = [rng.uniform(0.6, 2.0, (B, len(library.inner))) for library in filling.libraries]
    packed = filling.pack(coefficients, inner)
    full, back = filling.unpack(packed)
    found = filling.value(packed, time, state)
    columns = np.concatenate([state.numpy(), np.broadcast_to(time.numpy()[:, None], (B, P, 1))], axis=-1)
    for number, (library, inputs) in enumerate(zip(filling.libraries, INPUTS, strict=True)):
        for b in range(B):
            active = full[number][b] != 0
            own = active[library.owner]
            np.testing.assert_allclose(back[number][b][own], inner[number][b][own])
            # The others stay where they start.
            np.testing.assert_array_equal(back[number][b][~own], library.starts[~own])
            x = columns[b][:, inputs[0]]
            k, m, n = back[number][b]
            terms = np.stack([x**0, x / (k + x), x**n * np.exp(-m * x), (2 + x**2) * np.sin(x)], axis=1)
            np.testing.assert_allclose(found[b, :, number].numpy(), terms @ full[number][b])


def test_the_slope_of_coordinates_is_that_of_what_they_stand_for() -> None:
    filling = inner_libraries()
    flat = weights(filling)

    def meant(at: torch.Tensor) -> np.ndarray:
        blocks = []
        for room, full, inner in zip(filling.rooms, *filling.unpack(at), strict=True):
            blocks.append(np.take_along_axis(full, room.terms.numpy(), 1) * room.present.numpy())
            blocks.append(np.take_along_axis(inner, room.inner.numpy(), 1) * room.inner_present.numpy())
        return np.concatenate(blocks, axis=1)

    slope, step = filling.slope_of_coordinates(flat).numpy(), 1e-6
    for column in range(filling.n_weights):
        moved = torch.zeros_like(flat)
        moved[:, column] = step
        difference = (meant(flat + moved) - meant(flat - moved)) / (2 * step)
        np.testing.assert_allclose(difference[:, column], slope[:, column], atol=1e-8, rtol=1e-6)


def test_coefficients_outside_the_support_do_nothing() -> None:
    filling, (time, state) = libraries(), points()
    dense = [np.ones(support.shape) for support in SUPPORTS]
    for support, back in zip(SUPPORTS, filling.unpack(filling.pack(dense))[0], strict=True):
        np.testing.assert_array_equal(back, support)
    # Padding of narrow supports: no effect on the value, and a prior that keeps it at zero.
    present = torch.cat([room.present for room in filling.rooms], dim=1)
    _, _, by_weights = filling.linearize(weights(filling), time, state)
    assert (by_weights.abs().sum((1, 2)) * (1 - present)).sum() == 0
    torch.testing.assert_close(filling.prior_precision(B), 1.0 - present)
    assert filling.widths == (3, 2, 2, 2)


def test_an_empty_support_is_zero_everywhere() -> None:
    library = build_library(("x",), LibraryOptions(polynomial_degree=1))
    filling = MaskedLibraries([library], [(0,)], [np.zeros((2, 2))])
    state = torch.ones(2, 3, 1).double()
    value, by_state, _ = filling.linearize(
        torch.ones(2, filling.n_weights).double(), state.new_zeros(3), state
    )
    assert value.abs().sum() == by_state.abs().sum() == 0
