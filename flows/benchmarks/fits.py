"""Cases that fit a problem and ask how good the fit is. Everything goes through the library's public verbs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from flows.benchmarks import measures, problems
from flows.benchmarks.measurement import Figure, Measurement
from flows.benchmarks.problems import TrainingProblem
from sciml_discover.errors import SolveError
from sciml_discover.noise import Noise
from sciml_discover.readers import PreparedData
from sciml_discover.residual_samples import sample_residual
from sciml_discover.training import TrainingResult, TrainOptions, train
from sciml_discover.trajectories import Dataset

Judge = Callable[[PreparedData, TrainingResult], Mapping[str, Figure]]


def lotka_volterra(seed: int, preset: str, _: Mapping[str, str]) -> Measurement:
    """Fit the tutorial, twice: the second call is warm."""
    problem = problems.lotka_volterra()
    dataset = tutorial_data(problem, seed)
    return _fit(
        problem,
        dataset,
        problems.estimated_noise,
        TrainOptions.model_validate({"preset": preset}),
        seed,
        lambda data, trained: {"learnt_error": measures.learnt_error_where_it_was(problem, data, trained)},
        again=True,
    )


def tutorial_data(problem: TrainingProblem, seed: int) -> Dataset:
    """Return the 21 rows with noise of 0.5 % of each mean; the peers draw the same numbers."""
    clean = problem.states(problem.times)
    return problems.one_trajectory(problem, problems.noisy(clean, 0.005 * clean.mean(axis=0), seed))


def scenario_2(seed: int, preset: str, _: Mapping[str, str]) -> Measurement:
    """Fit the series whose predator was seen six times, its death rate learnt too."""
    problem = problems.scenario_2()
    clean = problem.states(problem.times)
    sd = 0.005 * clean.mean(axis=0)
    values = problems.noisy(clean, sd, seed)
    values[np.arange(len(values)) % 12 != 0, 1] = np.nan

    def judge(_: PreparedData, trained: TrainingResult) -> Mapping[str, Figure]:
        solved = measures.resolve(problem.system, trained, problem.times)
        error = (solved[:, 0] - clean[:, 0]) / sd[0]
        dense = np.linspace(problem.times[0], problem.times[-1], 241)
        said = any("delta" in note and "not identifiable" in note for note in trained.notes)
        return {
            "x_error": float(np.sqrt(np.mean(error**2))),
            **measures.band_figures(measures.learnt_terms(problem, trained, dense)),
            "not_identifiable": said,
            "delta": trained.parameters["delta"],
        }

    options = TrainOptions.model_validate({"preset": preset})
    dataset = problems.one_trajectory(problem, values)
    # Six values do not say how noisy they are: the fit is told.
    return _fit(problem, dataset, lambda rows: problems.stated_noise(rows, 0.005), options, seed, judge)


def lorenz(seed: int, preset: str, _: Mapping[str, str]) -> Measurement:
    """Fit the chaotic attractor."""
    problem = problems.lorenz(1000)
    return _fit(
        problem,
        attractor_data(problem, seed),
        problems.estimated_noise,
        TrainOptions.model_validate({"preset": preset}),
        seed,
        lambda _, trained: {"learnt_error": measures.learnt_error_where_it_should_be(problem, trained)},
    )


def attractor_data(problem: TrainingProblem, seed: int) -> Dataset:
    """Return all rows with noise of 1 % of each standard deviation."""
    clean = problem.states(problem.times)
    return problems.one_trajectory(problem, problems.noisy(clean, 0.01 * clean.std(axis=0), seed))


def robertson(seed: int, preset: str, _: Mapping[str, str]) -> Measurement:
    """Fit the stiff reactions and solve them again over ten decades."""
    problem = problems.robertson()
    clean = problem.states(problem.times)
    values = clean + 0.01 * np.abs(clean) * np.random.default_rng(seed).standard_normal(clean.shape)

    def judge(_: PreparedData, trained: TrainingResult) -> Mapping[str, Figure]:
        times = np.logspace(-5.0, 5.0, 161)
        times[0], times[-1] = problem.times[0], problem.times[-1]
        truth = problem.states(times)
        solved = measures.resolve(problem.system, trained, times, truth.max(axis=0))
        worst = measures.worst_relative_errors(solved, truth)
        by_species = dict(zip(problem.system.state_names, worst.tolist(), strict=True))
        return {
            "worst_error": float(worst.max()),
            **{f"worst_error_{name}": error for name, error in by_species.items()},
            "learnt_error": measures.learnt_error_where_it_should_be(problem, trained),
        }

    return _fit(
        problem,
        problems.one_trajectory(problem, values),
        lambda dataset: problems.noise_per_value(dataset, 0.01, 1e-12),  # in fact none
        TrainOptions.model_validate({"preset": preset, "starts": 8}),
        seed,
        judge,
    )


def van_der_pol_stiff(seed: int, preset: str, _: Mapping[str, str]) -> Measurement:
    """Fit the relaxation oscillator and measure the period of what was learnt."""
    problem, period = problems.stiff_van_der_pol()
    clean = problem.states(problem.times)
    sd = np.maximum(0.01 * np.abs(clean), 1e-3 * clean.std(axis=0))

    def judge(_: PreparedData, trained: TrainingResult) -> Mapping[str, Figure]:
        sizes = np.abs(clean).max(axis=0)
        solution = measures.solve_trained(problem.system, trained, (0.0, 3.5 * period), sizes)
        found = measures.last_period(solution.events)
        return {
            "period_error": abs(found / period - 1.0),
            "period": found,
            "learnt_error": measures.learnt_error_where_it_should_be(problem, trained),
        }

    return _fit(
        problem,
        problems.one_trajectory(problem, problems.noisy(clean, sd, seed)),
        lambda dataset: problems.noise_per_value(dataset, 0.01, 1e-3),
        TrainOptions.model_validate({"preset": preset}),
        seed,
        judge,
    )


def cart_parameter(seed: int, preset: str, _: Mapping[str, str]) -> Measurement:
    """Fit the cart and see whether its stiffness came back from three times the truth."""
    problem = problems.cart()
    clean = problem.states(problem.times)
    dataset = problems.one_trajectory(problem, problems.noisy(clean, 0.01 * clean.std(axis=0), seed))

    def judge(data: PreparedData, trained: TrainingResult) -> Mapping[str, Figure]:
        found = trained.parameters["k"]
        return {
            "parameter_error": abs(found / problem.parameters["k"] - 1.0),
            "k": found,
            "learnt_error": measures.learnt_error_where_it_was(problem, data, trained),
        }

    options = TrainOptions.model_validate({"preset": preset})
    return _fit(problem, dataset, problems.estimated_noise, options, seed, judge)


def driven_oscillator(seed: int, preset: str, _: Mapping[str, str]) -> Measurement:
    """Fit the driven mass and compare the cubic coefficient of what was learnt, over the visited range."""
    problem = problems.driven_oscillator()
    clean = problem.states(problem.times)[:, :1]
    dataset = problems.one_trajectory(problem, problems.noisy(clean, 0.01 * clean.std(axis=0), seed))

    def judge(data: PreparedData, trained: TrainingResult) -> Mapping[str, Figure]:
        (samples,) = sample_residual(problem.system, data, trained).holes
        cube = samples.points[:, 0] ** 3
        found = float(cube @ samples.values / (cube @ cube))
        return {
            "cubic_error": abs(found / 0.5 - 1.0),
            "cubic": found,
            "learnt_error": measures.learnt_error_where_it_was(problem, data, trained),
        }

    options = TrainOptions.model_validate({"preset": preset})
    return _fit(problem, dataset, problems.estimated_noise, options, seed, judge)


def _fit(
    problem: TrainingProblem,
    dataset: Dataset,
    measure_noise: Callable[[Dataset], Noise],
    options: TrainOptions,
    seed: int,
    judge: Judge,
    *,
    again: bool = False,
) -> Measurement:
    """Train on a dataset and return what a judge says about the result.

    Args:
        problem: whose holes are learnt.
        dataset: its noisy rows.
        measure_noise: what the fit is told about the noise.
        options: of the training.
        seed: of the initial weights.
        judge: makes the figures.
        again: whether to train a second time in the same process, for the clock only.
    """
    clock = time.perf_counter
    begun = clock()
    data = problems.prepared(dataset, measure_noise(dataset))
    seconds = {"noise": clock() - begun}
    begun = clock()
    trained = train(problem.system, data, options, seed=seed)
    seconds["train"] = clock() - begun
    if again:
        begun = clock()
        train(problem.system, data, options, seed=seed)
        seconds["train_again"] = clock() - begun
    words = {
        "status": trained.status,
        "message": trained.message,
        "notes": list(trained.notes),
        "chi_square": trained.chi_square,
        "n_observed": trained.n_observed,
        "iterations": len(trained.history.loss),
    }
    begun = clock()
    try:
        figures, failure = dict(judge(data, trained)), ""
    except SolveError as error:
        figures, failure = {}, f"what was learnt cannot be solved: {error}"
    seconds["judge"] = clock() - begun
    return Measurement(figures, seconds, words, failure)
