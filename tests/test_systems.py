"""Known systems: their parameters and starts fit their equations, and they behave as published."""

from __future__ import annotations

import numpy as np
import pytest

from sciml_discover.errors import InputError
from sciml_discover.integrate import solve_reference
from sciml_discover.systems import SYSTEMS, KnownSystem, get_system


def end_of(name: str, stop: float) -> np.ndarray:
    known = get_system(name)
    times = np.linspace(0.0, stop, 11)
    return solve_reference(known.system, known.parameter_values, known.initial_values, times)[-1]


@pytest.mark.parametrize("known", SYSTEMS.values(), ids=lambda known: known.name)
def test_every_entry_is_complete(known: KnownSystem) -> None:
    assert SYSTEMS[known.name] is known
    assert known.system.missing == ()
    assert known.system.state_names == tuple(known.equations)
    assert known.initial_states.keys() == known.equations.keys()
    assert known.positive <= known.equations.keys()
    assert [item.value for item in known.system.parameters] == known.parameter_values.tolist()
    assert known.description.endswith(".")
    assert any(character.isdigit() for character in known.source)
    slopes = known.driven.numpy_functions().rhs(0.0, known.initial_values, known.parameter_values)
    assert np.all(np.isfinite(slopes))
    assert np.any(slopes != 0)


def test_logistic_growth_is_its_closed_form() -> None:
    expected = 10.0 / (1.0 + (10.0 / 0.5 - 1.0) * np.exp(-0.8 * 6.0))
    np.testing.assert_allclose(end_of("logistic", 6.0), [expected], rtol=1e-8)


def test_lotka_volterra_keeps_its_invariant() -> None:
    def invariant(state: np.ndarray) -> float:
        x, y = state
        return 0.8 * x - 1.8 * np.log(x) + 0.9 * y - 1.3 * np.log(y)

    known = get_system("lotka_volterra")
    assert invariant(end_of("lotka_volterra", 20.0)) == pytest.approx(
        invariant(known.initial_values), rel=1e-7
    )


def test_robertson_keeps_its_mass_and_reaches_the_published_value() -> None:
    state = end_of("robertson", 0.4)
    assert state.sum() == pytest.approx(1.0, rel=1e-9)
    # Hairer & Wanner, Solving Ordinary Differential Equations II, and the CVODE example cvRoberts_dns.
    np.testing.assert_allclose(state, [9.8517e-1, 3.3864e-5, 1.4796e-2], rtol=2e-4)


def test_unknown_name_gets_a_proposal() -> None:
    with pytest.raises(InputError, match="Did you mean 'lotka_volterra'"):
        get_system("lotka_voltera")
