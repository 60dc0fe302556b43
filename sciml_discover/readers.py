"""The data of an experiment: read or simulated, checked, split, and their noise measured."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from sciml_discover.base import Options, Seed
from sciml_discover.errors import InputError, SolveError, did_you_mean
from sciml_discover.expressions import names_used
from sciml_discover.noise import LEVELS, Noise, NoiseOptions, measure_noise
from sciml_discover.system import ControlOptions, System, SystemOptions
from sciml_discover.systems import KnownSystem, get_system
from sciml_discover.tables import Table, read_bytes, read_table
from sciml_discover.trajectories import Dataset, HoldoutOptions, Trajectory, split_holdout

MOST_TIMES = 1_000_000
"""Most times of a simulated dataset."""


class TimesOptions(Options):
    """Equally spaced times, ``start`` and, where the steps reach it, ``stop`` included."""

    start: float = 0.0
    """The first time."""
    stop: float
    """The last time, if whole steps lead to it."""
    step: pydantic.PositiveFloat
    """The time between two rows."""

    def to_array(self) -> np.ndarray:
        """Return the times, shape ``(times,)``.

        Example:
            >>> TimesOptions(stop=1.0, step=0.25).to_array()
            array([0.  , 0.25, 0.5 , 0.75, 1.  ])
        """
        # A millionth of a step forgives the rounding of decimal steps.
        steps = np.floor((self.stop - self.start) / self.step + 1e-6)
        if not 0 < steps < MOST_TIMES:
            raise InputError(
                f"start = {self.start:g}, stop = {self.stop:g}, step = {self.step:g}",
                where="[data.synthetic] times",
                expected=f"between 1 and {MOST_TIMES} steps from start to stop",
            )
        return self.start + self.step * np.arange(int(steps) + 1)


class SyntheticOptions(Options):
    """Data simulated from a known system.

    This is what the data are; ``[data.noise]`` is what the fit is told about them.
    """

    system: str
    """The name of a known system."""
    times: tuple[float, ...] | TimesOptions
    """The times of the rows, or ``{ start, stop, step }``."""
    noise: pydantic.NonNegativeFloat = 0.0
    """How much Gaussian noise is added, in the sense of ``noise_kind``."""
    noise_kind: Literal["mean", "sd", "value"] = "mean"
    """What ``noise`` multiplies: the mean size of each state, its standard deviation, or each value."""
    seed: Seed | None = None
    """The seed of the noise; the experiment's unless given."""
    initial: dict[str, float] = pydantic.Field(default_factory=dict)
    """Initial values other than the usual ones of the system."""
    parameters: dict[str, float] = pydantic.Field(default_factory=dict)
    """Parameters other than the usual ones of the system."""

    def known_system(self) -> KnownSystem:
        """Return the known system with the parameters and the start of this experiment.

        Raises:
            InputError: if the system, or a name in it, is unknown.
        """
        known = get_system(self.system, where="[data.synthetic] system")
        for table, names in (("parameters", known.parameters), ("initial", known.equations)):
            for name in getattr(self, table):
                if name not in names:
                    raise InputError(
                        f"{name!r}",
                        where=f"[data.synthetic] {table}",
                        expected=f"names of the system {self.system!r}",
                        do=did_you_mean(name, names),
                    )
        return replace(
            known,
            parameters={**known.parameters, **self.parameters},
            initial_states={**known.initial_states, **self.initial},
        )

    def times_array(self) -> np.ndarray:
        """Return the times, shape ``(times,)``.

        Raises:
            InputError: if they do not increase.
        """
        if isinstance(self.times, TimesOptions):
            return self.times.to_array()
        times = np.array(self.times)
        if len(times) < 2 or np.any(np.diff(times) <= 0):
            raise InputError(
                f"times = {list(self.times[:6])}",
                where="[data.synthetic]",
                expected="at least two increasing times",
            )
        return times


class DataOptions(Options):
    """Where the data come from, what is held out, and what the fit is told about the noise."""

    files: tuple[str, ...] = ()
    """CSV, Parquet or NPZ files inside the folder of the experiment; columns bear the names of observables and
    controls."""
    time: str = "time"
    """The column of the times."""
    trajectory: str | None = None
    """The column that names the trajectory of each row; without it, each file is one trajectory."""
    holdout: HoldoutOptions | None = None
    """The rows that only validation reads."""
    noise: NoiseOptions = NoiseOptions()
    """What the fit is told about the noise; ``"estimate"`` lets the data say it."""
    synthetic: SyntheticOptions | None = None
    """Simulated data instead of files."""

    @pydantic.field_validator("noise", mode="before")
    @classmethod
    def _read_noise(cls, value: Any) -> Any:
        return NoiseOptions() if value == "estimate" else value

    @pydantic.model_validator(mode="after")
    def _check_source(self) -> DataOptions:
        if bool(self.files) == (self.synthetic is not None):
            raise InputError(
                "both files and synthetic" if self.files else "neither files nor synthetic",
                where="[data]",
                expected="one of them",
                do='Give files = ["data.csv"], or a table [data.synthetic].',
            )
        if self.synthetic is None:
            if self.trajectory == self.time:
                raise InputError(
                    f"time and trajectory both {self.time!r}", where="[data]", expected="two columns"
                )
            return self
        for key in ("time", "trajectory"):
            if self.says(key):
                raise InputError(
                    f"{key} = {getattr(self, key)!r} beside [data.synthetic]",
                    where="[data]",
                    expected="column names with files only",
                    do=f"Remove {key}.",
                )
        self.synthetic.known_system()
        self.synthetic.times_array()
        return self


@dataclass(frozen=True)
class PreparedData:
    """What every later stage reads; only validation may look at the hold-out.

    Attributes:
        train: the training rows.
        holdout: the hold-out rows, if there are any.
        noise: of the training rows.
        kind_of_holdout: ``"none"``, ``"time"`` or ``"trajectory"``.
        truth: the name of the known system of simulated data, otherwise empty.
        provenance: sentences that say where the data come from.
    """

    train: Dataset
    holdout: Dataset | None
    noise: Noise
    kind_of_holdout: str
    truth: str
    provenance: tuple[str, ...]


def prepare_data(options: DataOptions, system: SystemOptions, folder: Path, seed: int) -> PreparedData:
    """Return the data of an experiment, ready to train on: the verb of the stage ``data``.

    Args:
        options: the ``[data]`` table.
        system: the ``[system]`` table; columns bear the names of its observables and controls.
        folder: the folder of the experiment; files lie inside it.
        seed: of the experiment, for simulated noise.

    Raises:
        InputError: at the first thing in files or options that cannot be used.
    """
    if options.synthetic is None:
        dataset, provenance = _read_files(options, system, folder)
    else:
        dataset = _observe(options.synthetic, system, seed)
        provenance = (_describe(options.synthetic, seed),)
    _check_noise(options.noise, dataset)
    train, holdout = split_holdout(dataset, options.holdout)
    _check_enough(train, system)
    kind = "none"
    if options.holdout is not None:
        kind = "time" if options.holdout.trajectories is None else "trajectory"
    return PreparedData(
        train=train,
        holdout=holdout,
        noise=measure_noise(train, options.noise, holdout),
        kind_of_holdout=kind,
        truth=options.synthetic.system if options.synthetic else "",
        provenance=provenance,
    )


def input_digests(options: DataOptions, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each data file by its name, for the key of the stage ``data``.

    Raises:
        InputError: if a file is missing, unreadable or outside ``folder``.
    """
    return {
        name: hashlib.sha256(read_bytes(_locate(name, folder), name)).hexdigest() for name in options.files
    }


def true_system(options: DataOptions) -> KnownSystem | None:
    """Return the known system behind simulated data, with its parameters and start; None if measured."""
    return options.synthetic.known_system() if options.synthetic else None


def synthesize(options: SyntheticOptions, seed: int) -> Dataset:
    """Return one simulated trajectory of every state of a known system, with noise.

    Args:
        options: the system, the times and the noise.
        seed: of the noise, unless ``options`` has one.

    Raises:
        InputError: if the system cannot be solved over these times.
    """
    known, clean = options.known_system(), _simulate(options)
    return _with_noise(options, seed, tuple(known.equations), clean, clean[:, :0])


def _simulate(options: SyntheticOptions) -> np.ndarray:
    """Return the states of the known system without noise, shape ``(times, states)``."""
    from sciml_discover.integrate import solve_reference

    known, times = options.known_system(), options.times_array()
    try:
        return solve_reference(known.driven, known.parameter_values, known.initial_values, times)
    except SolveError as error:
        raise InputError(
            f"a system that cannot be solved ({error})",
            where="[data.synthetic]",
            expected="parameters, initial values and times with a solution",
        ) from error


def _with_noise(
    options: SyntheticOptions, seed: int, names: tuple[str, ...], states: np.ndarray, others: np.ndarray
) -> Dataset:
    """Return states and further observables with noise, and the controls without.

    The noise of a state does not depend on what else is observed.
    """
    known, times = options.known_system(), options.times_array()
    generator = np.random.default_rng(seed if options.seed is None else options.seed)
    clean = np.concatenate([states, others], axis=1)
    draws = [generator.standard_normal(states.shape), generator.standard_normal(others.shape)]
    size = {"mean": np.abs(clean).mean(axis=0), "sd": clean.std(axis=0), "value": np.abs(clean)}
    with np.errstate(over="ignore", invalid="ignore"):
        values = clean + options.noise * size[options.noise_kind] * np.concatenate(draws, axis=1)
    if not np.isfinite(values).all():
        raise InputError(
            f"noise = {options.noise:g}, which makes infinite values",
            where="[data.synthetic]",
            expected="values that are finite",
        )
    trajectory = Trajectory("synthetic", times, values, known.control_values(times))
    return Dataset(names, (trajectory,), tuple(known.controls))


def _describe(options: SyntheticOptions, seed: int) -> str:
    """Return how simulated data were made, in one sentence."""
    known, times = options.known_system(), options.times_array()
    kind = {
        "mean": "the mean of each state",
        "sd": "the standard deviation of each state",
        "value": "each value",
    }
    numbers = {
        **known.parameters,
        **{f"{name}(start)": known.initial_states[name] for name in known.equations},
    }
    shown = ", ".join(f"{name} = {value:.6g}" for name, value in numbers.items())
    shown += "".join(f", {name} = {text}" for name, text in known.controls.items())
    return (
        f"Simulated from the known system {known.name} ({shown}) at {len(times)} times from {times[0]:g} to "
        f"{times[-1]:g}, with Gaussian noise of {options.noise:g} x {kind[options.noise_kind]}, "
        f"seed {seed if options.seed is None else options.seed}."
    )


def _observe(options: SyntheticOptions, system: SystemOptions, seed: int) -> Dataset:
    """Return simulated data of the observables and controls that the experiment names."""
    known = options.known_system()
    for name in system.controls:
        if name not in known.controls:
            raise InputError(
                f"the control {name!r}, which the simulated system {options.system!r} does not have",
                where="[system.controls]",
                expected=f"its controls: {', '.join(known.controls) or 'none'}",
                do="Rename it, or remove it.",
            )
    states, texts = tuple(known.equations), system.observed_expressions
    for name, text in texts.items():
        for used in sorted(names_used(text, where=f"[system.observables] {name}") & system.states.keys()):
            if used not in states:
                raise InputError(
                    f"the observed state {used!r}, which the simulated system {options.system!r} does not have",
                    where="[system.states]",
                    expected=f"its states: {', '.join(states)}",
                    do="Rename it, or leave it out of [system] observables.",
                )
    derived = [name for name in texts if name not in states]
    if not derived:
        dataset = synthesize(options, seed)
    else:
        clean, times = _simulate(options), options.times_array()
        others = _derived(system, derived, known, times, clean)
        dataset = _with_noise(options, seed, (*states, *derived), clean, others)
    columns = [dataset.observables.index(name) for name in texts]
    inputs = [dataset.controls.index(name) for name in system.controls]
    [item] = dataset.trajectories
    item = replace(item, values=item.values[:, columns], controls=item.controls[:, inputs])
    return Dataset(tuple(texts), (item,), tuple(system.controls))


def _derived(
    system: SystemOptions, names: list[str], known: KnownSystem, times: np.ndarray, states: np.ndarray
) -> np.ndarray:
    """Return the true values of observables that are no states, shape ``(times, names)``."""
    described = System.from_options(system)
    own = np.zeros((len(times), described.dimension))
    for column, name in enumerate(described.state_names):
        if name in known.equations:
            own[:, column] = states[:, list(known.equations).index(name)]
    inputs = known.control_values(times)[:, [list(known.controls).index(name) for name in system.controls]]
    return described.observation(names).values(times, own, inputs)


def _read_files(options: DataOptions, system: SystemOptions, folder: Path) -> tuple[Dataset, tuple[str, ...]]:
    """Return all trajectories of all files, and one sentence for each file."""
    observed = system.observed
    tables = [read_table(_locate(name, folder), name) for name in _each_once(options.files)]
    for table in tables:
        _check_columns(table, options, observed, system.controls)
    present = tuple(name for name in observed if any(name in table.columns for table in tables))
    if not present:
        raise InputError(
            "no column with the name of an observable",
            where=tables[0].name,
            expected=f"some of {', '.join(observed)}",
            do="Rename the columns, or the observables.",
        )
    trajectories: list[Trajectory] = []
    for table in tables:
        earlier = {item.name for item in trajectories}
        for item in _read_trajectories(table, options, present, system.controls):
            if item.name in earlier:
                raise InputError(
                    f"the trajectory {item.name!r}, which another file has too",
                    where=table.name,
                    expected="each trajectory in one file",
                    do="Rename it.",
                )
            trajectories.append(item)
    digests = input_digests(options, folder)
    provenance = tuple(
        f"{table.name}: {len(table.places)} rows, SHA-256 {digests[table.name]}." for table in tables
    )
    return Dataset(present, tuple(trajectories), tuple(system.controls)), provenance


def _each_once(files: Iterable[str]) -> list[str]:
    names = list(files)
    for name, times in Counter(names).items():
        if times > 1:
            raise InputError(f"the file {name!r} twice", where="[data] files", expected="each file once")
    return names


def _locate(name: str, folder: Path) -> Path:
    """Return the path of a data file, which must lie inside the folder, links followed."""
    where = "[data] files"
    if not name.strip() or "\0" in name:
        raise InputError(f"the path {name!r}", where=where, expected="the name of a file")
    home = folder.resolve()
    try:
        path = (home / name).resolve()
        there = path.exists()
    except (OSError, RuntimeError) as error:  # too long a name, or links in a circle
        reason = (getattr(error, "strerror", None) or "links in a circle").lower()
        raise InputError(
            f"the path {name!r}, which leads nowhere ({reason})", where=where, expected="the name of a file"
        ) from error
    if Path(name).is_absolute() or not path.is_relative_to(home):
        raise InputError(
            f"the path {name!r}, which leads outside the folder of the experiment",
            where=where,
            expected="a path inside that folder",
            do="Copy the file next to the experiment.",
        )
    if path.is_dir():
        raise InputError(f"the folder {name!r}", where=where, expected="a file")
    if not there:
        known = [item.name for item in home.iterdir() if item.suffix.lower() in (".csv", ".parquet", ".npz")]
        raise InputError(
            f"no file {name!r}",
            where=where,
            expected="a file beside the experiment",
            do=did_you_mean(name, known),
        )
    return path


def _check_columns(
    table: Table, options: DataOptions, observed: tuple[str, ...], controls: Iterable[str]
) -> None:
    """Refuse missing and unknown columns."""
    for key, name in (("time", options.time), ("trajectory", options.trajectory)):
        if name is not None and name not in table.columns:
            raise InputError(
                f"no column {name!r}",
                where=table.name,
                expected=f"the column that [data] {key} names",
                do=did_you_mean(name, table.columns),
            )
    for name in controls:
        if name not in table.columns:
            raise InputError(
                f"no column {name!r}",
                where=table.name,
                expected=f"a column with the values of the control {name!r}",
                do=did_you_mean(name, table.columns),
            )
        if name in (options.time, options.trajectory):
            raise InputError(
                f"the column {name!r} as a control and as the time or the trajectory",
                where="[data]",
                expected="columns of their own",
                do="Rename the control.",
            )
    known = [options.time, *([options.trajectory] if options.trajectory else []), *observed, *controls]
    for name in table.columns:
        if name not in known:
            raise InputError(
                f"the column {name!r}",
                where=table.name,
                expected="the time, the trajectory, and names of observables and controls",
                do=f"{did_you_mean(name, [*observed, *controls])} Rename the column, or remove it.",
            )


def _read_trajectories(
    table: Table, options: DataOptions, present: tuple[str, ...], controls: Mapping[str, ControlOptions]
) -> list[Trajectory]:
    """Return the trajectories of one file, in the order in which they begin."""
    times = table.numbers(options.time)
    values = np.full((len(times), len(present)), np.nan)
    for column, name in enumerate(present):
        if name in table.columns:
            values[:, column] = table.numbers(name)
    inputs = np.zeros((len(times), len(controls)))
    for column, name in enumerate(controls):
        inputs[:, column] = table.numbers(name)
    name = str(Path(table.name).with_suffix(""))
    labels = [name] * len(times) if options.trajectory is None else table.labels(options.trajectory)
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        _check_time(table, options.time, times, row, rows.get(label, []))
        rows.setdefault(label, []).append(row)
    trajectories = []
    for label, index in rows.items():
        for column, (control, item) in enumerate(controls.items()):
            series = inputs[index, column]
            places = [table.places[row] for row in index]
            where = f"{table.name}, {{}}, column {control!r}"
            inputs[index, column] = _fill(item, times[index], series, where, places)
        trajectories.append(Trajectory(label, times[index], values[index], inputs[index]))
    return trajectories


def _fill(
    control: ControlOptions, times: np.ndarray, values: np.ndarray, where: str, places: list[str]
) -> np.ndarray:
    """Return the values of a control with its gaps filled as it is interpolated between rows.

    Raises:
        InputError: if there is no row to fill a gap from.
    """
    seen = np.isfinite(values)
    held = control.interpolation == "hold"
    if not seen[0] or not (seen[-1] or held):
        row = 0 if not seen[0] else len(values) - 1
        raise InputError(
            "no value of a control",
            where=where.format(places[row]),
            expected="a value in the first row of each trajectory"
            + ("" if held else ", and in the last one unless interpolation = 'hold'"),
            do="Fill it in, or remove the row.",
        )
    if held:
        last = np.maximum.accumulate(np.where(seen, np.arange(len(values)), 0))
        return values[last]
    return np.interp(times, times[seen], values[seen])


def _check_time(table: Table, column: str, times: np.ndarray, row: int, earlier: list[int]) -> None:
    """Refuse a missing time, and one that is not after the one before it in its trajectory."""
    where = f"{table.name}, {table.places[row]}, column {column!r}"
    if np.isnan(times[row]):
        raise InputError("no time", where=where, expected="a time in every row", do="Remove the row.")
    if earlier and times[row] == times[earlier[-1]]:
        raise InputError(
            f"the time {times[row]:.10g} again, as at {table.places[earlier[-1]]}",
            where=where,
            expected="each time once in a trajectory",
            do="Average repeated rows, or name a column with [data] trajectory.",
        )
    if earlier and times[row] < times[earlier[-1]]:
        raise InputError(
            f"the time {times[row]:.10g} after {times[earlier[-1]]:.10g}",
            where=where,
            expected="increasing times in each trajectory",
            do="Sort the rows by time, or name a column with [data] trajectory.",
        )


def _check_enough(train: Dataset, system: SystemOptions) -> None:
    """Refuse fewer values than there are unknown numbers even without a network."""
    free = sum(not parameter.fixed for parameter in system.parameters.values())
    starts = sum(state.initial is None for state in system.states.values()) * len(train.trajectories)
    if train.n_observed < free + starts:
        raise InputError(
            f"{train.n_observed} measured training values for {starts} unknown initial states and "
            f"{free} free parameters",
            where="[data]",
            expected="at least as many values as unknown numbers",
            do="Measure more, give some [system.states] initial, or fix some [system.parameters].",
        )


def _check_noise(options: NoiseOptions, dataset: Dataset) -> None:
    """Refuse noise levels of unknown observables, and logarithms of values that have none."""
    for key in (*LEVELS, "floor"):
        level = getattr(options, key)
        for name in level if isinstance(level, dict) else ():
            if name not in dataset.observables:
                raise InputError(
                    f"a noise level for {name!r}",
                    where=f"[data.noise] {key}",
                    expected=f"measured observables: {', '.join(dataset.observables)}",
                    do=did_you_mean(name, dataset.observables),
                )
    if options.lognormal is None and not (options.is_estimated and options.kind == "lognormal"):
        return
    for item in dataset.trajectories:
        for row, column in np.argwhere(item.values <= 0)[:1]:
            raise InputError(
                f"the value {item.values[row, column]:g} of {dataset.observables[column]!r} at time "
                f"{item.times[row]:g}",
                where=f"trajectory {item.name!r}",
                expected="positive values, because [data.noise] is lognormal",
                do="Use additive noise, or leave the value empty if it was not measured.",
            )
