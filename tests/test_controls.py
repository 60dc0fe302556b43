"""Measured inputs between their rows: where they jump, where they bend, and where nobody knows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciml_discover.controls import ControlSignal, control_signal, training_lines
from sciml_discover.errors import SolveError
from sciml_discover.integrate import solve_reference
from sciml_discover.objectives.problem import make_rows
from sciml_discover.system import Control, System
from sciml_discover.trajectories import Dataset, Trajectory
from tests.problems import DOSED

TIMES = np.array([0.0, 1.0, 3.0, 4.0])
SIGNAL = ControlSignal(
    TIMES, np.array([[0.0, 5.0], [2.0, 7.0], [6.0, 7.0], [1.0, 9.0]]), np.array([False, True])
)
"""A line that bends at three, not at one; a held input that jumps at one and, with no interval after it, at four."""


def test_values_between_rows_and_after_the_jump_at_rows() -> None:
    times = np.array([0.0, 0.5, 1.0, 2.0, 3.0, 3.5, 4.0])
    exact = [[0.0, 5.0], [1.0, 5.0], [2.0, 7.0], [4.0, 7.0], [6.0, 7.0], [3.5, 7.0], [1.0, 9.0]]
    np.testing.assert_allclose(SIGNAL.at(times), exact)


def test_a_value_belongs_to_an_interval() -> None:
    np.testing.assert_allclose(SIGNAL.during(0, 1.0), [2.0, 5.0])
    np.testing.assert_allclose(SIGNAL.during(1, 1.0), [2.0, 7.0])
    np.testing.assert_allclose(SIGNAL.during(2, 4.0), [1.0, 7.0])


def test_breaks_are_where_a_solver_must_stop() -> None:
    assert SIGNAL.breaks.tolist() == [1, 2]
    ramp = ControlSignal(np.arange(0, 1, 0.1), 3.1 * np.arange(0, 1, 0.1)[:, None] + 0.7, np.array([False]))
    assert ramp.breaks.tolist() == []
    constant = ControlSignal(TIMES, np.ones((4, 1)), np.array([True]))
    assert constant.breaks.tolist() == []


def test_outside_the_rows_nobody_knows() -> None:
    for time in (-0.1, 4.1):
        with pytest.raises(SolveError, match=r"known from t = 0 to 4 only, not at"):
            SIGNAL.at(np.array([1.0, time]))


def test_lines_say_the_same_at_both_ends_of_each_piece() -> None:
    times = np.array([0.0, 0.25, 1.0, 2.0, 3.0, 4.0])
    lines = SIGNAL.lines(times)
    ends = lines(torch.as_tensor(times[1:]))
    exact = [[0.5, 5.0], [2.0, 5.0], [4.0, 7.0], [6.0, 7.0], [1.0, 7.0]]
    np.testing.assert_allclose(ends.numpy(), exact)
    np.testing.assert_allclose(lines(torch.as_tensor(times[:-1])).numpy(), SIGNAL.at(times[:-1]))
    with pytest.raises(ValueError, match="expected every row"):
        SIGNAL.lines(np.array([0.5, 2.0]))


def test_parts_of_a_trajectory_are_joined() -> None:
    controls = (Control("u", "hold"),)
    whole = Trajectory("a", TIMES, np.zeros((4, 1)), SIGNAL.values[:, 1:])
    signal = control_signal(controls, whole.rows(slice(2)), whole.rows(slice(2, None)))
    assert signal is not None
    np.testing.assert_allclose(signal.at(np.array([0.5, 2.0, 3.5]))[:, 0], [5.0, 7.0, 7.0])
    assert control_signal((), whole) is None


def test_lines_of_training_rows_are_empty_after_the_last_row() -> None:
    data = DOSED.dataset()
    rows = make_rows(DOSED.system, data, DOSED.noise(0.01))
    lines = training_lines(DOSED.system.controls, data, rows.times.numpy())
    assert lines.value.shape == (2, 8, 2)
    assert lines.slope[1, 4:].abs().sum() == 0
    assert lines.slope[..., 0].abs().sum() == 0  # held
    for j, trajectory in enumerate(data.trajectories):
        real = len(trajectory.times) - 1
        np.testing.assert_allclose(lines(rows.times[:, 1:])[j, :real, 1], trajectory.controls[1:, 1])
        np.testing.assert_allclose(lines.value[j, :real], trajectory.controls[:-1])
    with pytest.raises(ValueError, match=r"controls \('dose', 'light'\), expected \(\)"):
        training_lines((), data, rows.times.numpy())


def test_rows_give_the_inputs_of_chosen_intervals() -> None:
    rows = DOSED.rows()
    assert rows.control_lines is not None
    every = rows.control_lines(rows.times[:, :-1] + 0.1 * rows.intervals)
    third = rows.inputs(2)(rows.times[:, 2] + 0.1 * rows.intervals[:, 2])
    assert third is not None
    torch.testing.assert_close(third, every[:, 2])
    # Every third interval from the second on: three of eight, and one more that is empty.
    chosen = rows.inputs(slice(1, None, 3), 4)
    times = (rows.times[:, :-1] + 0.1 * rows.intervals)[:, 1::3]
    found = chosen(torch.cat([times, times[:, -1:]], dim=1).flatten())
    assert found is not None
    torch.testing.assert_close(found.reshape(2, 4, 2)[:, :3], every[:, 1::3])


DECAY = System.from_text(states=["x"], parameters={"k": 0.5}, controls=["u"], equations={"x": "u - k*x"})


def decay(times: np.ndarray, values: list[float], held: bool, wanted: np.ndarray, x0: float) -> np.ndarray:
    """Closed form of `DECAY`, interval by interval."""
    k, found = 0.5, []
    for time in wanted:
        x, low = x0, times[0]
        for i, high in enumerate(times[1:]):
            end = min(float(time), float(high))
            if end <= low:
                break
            slope = 0.0 if held else (values[i + 1] - values[i]) / (high - low)
            # The particular solution is a straight line.
            line = lambda t: (values[i] + slope * (t - low)) / k - slope / k**2  # noqa: B023, E731
            x = line(end) + (x - line(low)) * np.exp(-k * (end - low))
            low = end
        found.append(x)
    return np.array(found)


@pytest.mark.parametrize("held", [True, False])
def test_reference_solver_meets_the_closed_form(held: bool) -> None:
    times = np.array([0.0, 1.0, 50.0, 50.01, 52.0])
    values = [1.0, 0.0, 400.0, 0.0, 0.0]  # a pulse of a hundredth, after a long rest
    signal = ControlSignal(times, np.array(values)[:, None], np.array([held]))
    wanted = np.array([0.0, 0.4, 1.0, 30.0, 50.0, 50.005, 50.01, 51.0, 52.0])
    found = solve_reference(DECAY, np.array([0.5]), np.array([2.0]), wanted, controls=signal)
    np.testing.assert_allclose(found[:, 0], decay(times, values, held, wanted, 2.0), rtol=1e-7, atol=1e-9)
    # From the middle of one interval to the middle of another.
    later = solve_reference(
        DECAY, np.array([0.5]), found[3], np.array([50.005, 51.0]), start=30.0, controls=signal
    )
    np.testing.assert_allclose(later, found[[5, 7]], rtol=1e-7, atol=1e-9)


def test_what_is_at_rest_may_be_pushed() -> None:
    signal = ControlSignal(TIMES, np.array([[0.0], [3.0], [0.0], [0.0]]), np.array([True]))
    found = solve_reference(DECAY, np.array([0.5]), np.zeros(1), TIMES, controls=signal)
    np.testing.assert_allclose(found[:, 0], decay(TIMES, [0.0, 3.0, 0.0, 0.0], True, TIMES, 0.0), rtol=1e-8)
    driven = System.from_text(states=["x"], equations={"x": "sin(t)"})
    found = solve_reference(driven, np.zeros(0), np.zeros(1), TIMES)
    np.testing.assert_allclose(found[:, 0], 1.0 - np.cos(TIMES), atol=1e-9)


def test_reference_solver_wants_the_controls() -> None:
    with pytest.raises(ValueError, match="no values of the controls u"):
        solve_reference(DECAY, np.array([0.5]), np.array([2.0]), TIMES)
    signal = ControlSignal(TIMES, np.ones((4, 1)), np.array([True]))
    with pytest.raises(SolveError, match="known from t = 0 to 4"):
        solve_reference(DECAY, np.array([0.5]), np.array([2.0]), np.array([0.0, 5.0]), controls=signal)


def test_a_forgotten_control_is_noticed() -> None:
    functions = DECAY.torch_functions()
    with pytest.raises(ValueError, match="got 0 controls, expected 1"):
        functions.rhs(torch.zeros(1), torch.ones(1, 1), torch.ones(1))
    with pytest.raises(ValueError, match="got 2 controls, expected 1"):
        DECAY.numpy_functions().rhs(0.0, np.ones(1), np.ones(1), np.ones(2))
    data = Dataset(("x",), (Trajectory("a", TIMES, np.arange(4.0)[:, None]),))
    with pytest.raises(ValueError, match=r"expected \('dose', 'light'\)"):
        training_lines(DOSED.system.controls, data, TIMES[None])


def test_a_driven_system_has_its_inputs_in_the_equations() -> None:
    import sympy

    from sciml_discover.expressions import parse_expression, symbol

    system = System.from_text(
        states=["x"], controls=["u"], equations={"x": "u*x"}, observables={"seen": "x + u"}
    )
    driven = system.drive({"u": parse_expression("cos(2*t)", ["t"], where="test")})
    assert driven.controls == ()
    assert driven.equations["x"] == sympy.cos(2 * symbol("t")) * symbol("x")
    seen = driven.observation().values(np.array([0.0, 0.5]), np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(seen[:, 0], [2.0, 2.0 + np.cos(1.0)])
    with pytest.raises(ValueError, match="'u'"):
        system.drive({})
    assert driven.drive({}) is driven
