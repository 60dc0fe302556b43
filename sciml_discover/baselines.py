"""What a law has to beat: the known physics alone, and plain SINDy on the data."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import, nobody_watches
from sciml_discover.forecasts import AbstractModel, LawModel
from sciml_discover.library import LibraryOptions, build_library
from sciml_discover.objectives.problem import make_rows
from sciml_discover.refit import Candidates, Fits, Refitter
from sciml_discover.simplify import linear_combination
from sciml_discover.system import System, Variable
from sciml_discover.ude import ParameterMap

if TYPE_CHECKING:
    import torch

    from sciml_discover.readers import PreparedData
    from sciml_discover.training import TrainingResult
else:
    torch = lazy_import("torch")

SINDY_DEGREE, SINDY_THRESHOLD = 2, 0.1
"""Settings of the baseline: those of pysindy's own introduction."""

ACCURACY = 0.1
"""Error of the solution over an interval, in units of the noise, that the refit may have; the comparison itself uses an
independent solver."""


def known_only(system: System, data: PreparedData, trained: TrainingResult) -> AbstractModel:
    """Return the known physics with nothing in its holes, its free numbers refitted where that succeeds."""
    rows = make_rows(system, data.train, data.noise)
    empty = [build_library(hole.inputs, LibraryOptions(polynomial_degree=0)) for hole in system.missing]
    zeros = tuple(np.zeros((1, 1)) for _ in system.missing)
    nothing = Candidates(
        tuple(zero > 0 for zero in zeros), zeros, tuple(zero[:, :0] for zero in zeros), ("known_only",)
    )
    start = Fits.begin(nothing, rows.smooth_states, ParameterMap(system).initial(1))
    steps = Refitter(system, empty, rows, 1).steps_for(start, ACCURACY)
    fitted = Refitter(system, empty, rows, steps).refit(start, nobody_watches)
    values = ParameterMap(system).physical(fitted.coordinates)[0].numpy()
    states = fitted.states[0, :, 0].numpy()
    if not np.isfinite(fitted.chi_square[0]) or not np.isfinite(states).all():
        values, states = np.array([item.value for item in system.parameters]), trained.initial_states
        note = "holes empty; its refit failed, so parameters as stated"
    else:
        note = "holes empty, free parameters and initial states refitted"
    filled = system.fill({hole.name: linear_combination((), (), hole.inputs) for hole in system.missing})
    model = LawModel(filled, values, states)
    model.starts = data.train.start_times
    model.note = note
    return model


def sindy_on_data(system: System, data: PreparedData) -> AbstractModel | str:
    """Return plain SINDy on the data, without known physics or smoothing; or why there is none.

    Finite differences of the rows, polynomials of degree two of all states and controls, pysindy's STLSQ.
    """
    from pysindy import STLSQ

    hidden = sorted(system.unseen_states(data.train.observables))
    if hidden:
        return f"not possible: {', '.join(hidden)} not measured"
    names = system.state_names
    columns = system.observation(data.train.observables).columns
    order = [columns.index(position) for position in range(system.dimension)]
    points, slopes, initial = [], [], []
    for trajectory in data.train.trajectories:
        whole = np.isfinite(trajectory.values).all(axis=1)
        if whole.sum() < 3:
            continue
        values = trajectory.values[whole][:, order]
        points.append(np.concatenate([values, trajectory.controls[whole]], axis=1))
        slopes.append(np.gradient(values, trajectory.times[whole], axis=0))
    if not points:
        return "not possible: no trajectory has three complete rows"
    for trajectory in data.train.trajectories:
        whole = np.flatnonzero(np.isfinite(trajectory.values).all(axis=1))
        initial.append(trajectory.values[whole[0] if len(whole) else 0][order])
    inputs = (*names, *system.control_names)
    library = build_library(inputs, LibraryOptions(polynomial_degree=SINDY_DEGREE))
    matrix, target = library.matrix(np.concatenate(points)), np.concatenate(slopes)
    scale = np.linalg.norm(matrix, axis=0)
    size = np.linalg.norm(target, axis=0)
    optimizer = STLSQ(threshold=SINDY_THRESHOLD)
    with warnings.catch_warnings():
        # Too large a threshold empties an equation, which the note below shows.
        warnings.simplefilter("ignore")
        optimizer.fit(matrix / scale, target / size)
    coefficients = np.asarray(optimizer.coef_) * size[:, None] / scale
    equations = {
        name: linear_combination(library.texts, coefficients[row].tolist(), inputs)
        for row, name in enumerate(names)
    }
    fixed = tuple(item for item in system.parameters if item.fixed)
    found = System(
        tuple(Variable(name) for name in names),
        fixed,
        (),
        equations,
        observables=system.observables,
        controls=system.controls,
        observed=system.observed,
    )
    model = LawModel(found, np.array([item.value for item in fixed]), np.array(initial))
    model.starts = data.train.start_times
    model.note = "; ".join(
        f"{name}: {int(np.count_nonzero(coefficients[row]))} terms" for row, name in enumerate(names)
    )
    return model
