"""Files and simulation: the same numbers from every format, and messages that name file and line."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from scipy.integrate import solve_ivp

from sciml_discover.errors import InputError
from sciml_discover.readers import (
    DataOptions,
    PreparedData,
    SyntheticOptions,
    TimesOptions,
    input_digests,
    prepare_data,
    synthesize,
    true_system,
)
from sciml_discover.system import SystemOptions

SYSTEM = SystemOptions.model_validate(
    {
        "states": {"x": {}, "y": {}},
        "missing": {"h": ["x", "y"]},
        "equations": {"x": "h", "y": "-h"},
    }
)
LOTKA_VOLTERRA = {"system": "lotka_volterra", "times": {"stop": 5.0, "step": 0.25}}
TIMES = [0.0, 0.5, 1.5, 2.0, 4.0, 5.0]
X = [1.0, 2.0, float("nan"), 4.0, 5.5, 7.0]
Y = [3.0, 2.5, 2.0, float("nan"), 1.0, 0.25]
CSV = "time,x,y\n0,1,3\n0.5,2,2.5\n1.5,,2\n2,4,NaN\n4,5.5,1\n5,7,0.25\n"


def prepare(folder: Path, **options: Any) -> PreparedData:
    table = {"files": ["data.csv"], "noise": {"sd": 0.1}, **options}
    return prepare_data(DataOptions.model_validate(table), SYSTEM, folder, 0)


def refused(folder: Path, content: str | bytes, **options: Any) -> str:
    """The message with which a CSV file is refused."""
    raw = content.encode() if isinstance(content, str) else content
    (folder / "data.csv").write_bytes(raw)
    with pytest.raises(InputError) as caught:
        prepare(folder, **options)
    return str(caught.value)


def write(folder: Path, name: str) -> None:
    columns = {"time": TIMES, "x": X, "y": Y}
    if name.lower().endswith(".csv"):
        (folder / name).write_text(CSV)
    elif name.endswith(".npz"):
        np.savez(folder / name, **{key: np.array(values) for key, values in columns.items()})  # pyright: ignore[reportArgumentType]
    else:
        nulls = {
            key: [None if value != value else value for value in items] for key, items in columns.items()
        }
        parquet.write_table(pa.table(nulls), folder / name)


@pytest.mark.parametrize("name", ["data.csv", "data.npz", "data.parquet", "DATA.CSV"])
def test_every_format_gives_the_same_numbers(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    data = prepare(tmp_path, files=[name])
    assert data.train.observables == ("x", "y")
    (item,) = data.train.trajectories
    assert item.name == name.split(".")[0]
    np.testing.assert_array_equal(item.times, TIMES)
    np.testing.assert_array_equal(item.values, np.stack([X, Y], axis=1))
    assert (data.holdout, data.kind_of_holdout, data.truth) == (None, "none", "")
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert data.provenance == (f"{name}: 6 rows, SHA-256 {digest}.",)


def test_byte_order_mark_blank_lines_and_spaces_do_no_harm(tmp_path: Path) -> None:
    text = "\ufeff" + CSV.replace("\n", "\r\n").replace(",", " , ") + "\r\n\r\n"
    (tmp_path / "data.csv").write_bytes(text.encode())
    np.testing.assert_array_equal(prepare(tmp_path).train.trajectories[0].values[:, 0], X)


def test_columns_follow_the_states_and_hidden_states_have_none(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("y,time,x\n" + "".join(f"{i},{i},{i * i}\n" for i in range(5)))
    data = prepare(tmp_path)
    assert data.train.observables == ("x", "y")
    np.testing.assert_array_equal(data.train.trajectories[0].values[:, 0], [0, 1, 4, 9, 16])
    (tmp_path / "data.csv").write_text("time,y\n" + "".join(f"{i},{i}\n" for i in range(5)))
    assert prepare(tmp_path).train.observables == ("y",)


def test_a_column_names_the_trajectories(tmp_path: Path) -> None:
    rows = [("north", 0), ("south", 5), ("north", 1), ("south", 6), ("north", 2), ("south", 7)]
    rows += [("north", 3), ("south", 8), ("north", 9.5)]
    text = "site,time,x\n" + "".join(f"{site},{time},{index}\n" for index, (site, time) in enumerate(rows))
    (tmp_path / "data.csv").write_text(text)
    data = prepare(tmp_path, trajectory="site", holdout={"trajectories": ["south"]})
    assert data.kind_of_holdout == "trajectory"
    assert [item.name for item in data.train.trajectories] == ["north"]
    np.testing.assert_array_equal(data.train.trajectories[0].times, [0, 1, 2, 3, 9.5])
    assert data.holdout is not None
    np.testing.assert_array_equal(data.holdout.trajectories[0].values[:, 0], [1, 3, 5, 7])


def test_several_files_are_several_trajectories_and_may_lack_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.csv").write_text("time,y\n" + "".join(f"{i},{i}\n" for i in range(5)))
    data = prepare(tmp_path, files=["a.csv", "more/b.csv"])
    assert [item.name for item in data.train.trajectories] == ["a", "more/b"]
    assert np.isnan(data.train.trajectories[1].values[:, 0]).all()


def test_holdout_by_time_keeps_the_names(tmp_path: Path) -> None:
    write(tmp_path, "data.csv")
    data = prepare(tmp_path, holdout={"rows": 1})
    assert data.holdout is not None
    assert data.kind_of_holdout == "time"
    assert data.holdout.trajectories[0].name == data.train.trajectories[0].name
    np.testing.assert_array_equal(data.holdout.trajectories[0].times, [5.0])


def test_noise_is_measured_on_training_rows_only(tmp_path: Path) -> None:
    times = np.arange(30.0)
    x = np.sin(times / 3) + 0.05 * np.random.default_rng(0).standard_normal(30)

    def sd_with_last_rows(factor: float) -> float:
        values = np.where(times < 24, x, x * factor)
        rows = "".join(f"{time},{value!r}\n" for time, value in zip(times, values.tolist(), strict=True))
        (tmp_path / "data.csv").write_text("time,x\n" + rows)
        return float(prepare(tmp_path, noise="estimate", holdout={"rows": 6}).noise.sd[0])

    assert sd_with_last_rows(1.0) == sd_with_last_rows(100.0)
    assert sd_with_last_rows(1.0) == pytest.approx(0.05, rel=0.6)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (CSV.replace("1.5,,2", "1.5,many,2"), ["data.csv, line 4, column 'x'", "'many'"]),
        (CSV.replace("1.5,,2", "1.5,inf,2"), ["data.csv, line 4, column 'x'", "infinite"]),
        (CSV.replace("1.5,,2", '1.5,"2,5",2'), ["line 4", "decimal numbers with a point"]),
        (CSV.replace("1.5,,2", "1.5,1_0,2"), ["line 4", "'1_0'"]),
        (CSV.replace("1.5,,2", "1.5,2"), ["data.csv, line 4", "found 2 values", "expected 3"]),
        (CSV.replace("\n2,4,", "\n,4,"), ["line 5, column 'time'", "no time"]),
        (CSV.replace("\n2,4,", "\n2001-05-01,4,"), ["line 5", "Convert dates to numbers"]),
        (CSV.replace("\n2,4,", "\n1,4,"), ["line 5", "the time 1 after 1.5", "Sort the rows"]),
        (CSV.replace("\n2,4,", "\n1.5,4,"), ["line 5", "the time 1.5 again, as at line 4"]),
        (CSV.replace("x", "xx", 1), ["data.csv: found the column 'xx'", "Rename the column"]),
        (CSV.replace("time", "times"), ["no column 'time'", "Did you mean 'times'"]),
        (CSV.replace(",y", ",x"), ["line 1", "the column 'x' twice"]),
        (CSV.replace(",y", ","), ["line 1", "column 3 without a name"]),
        (CSV.replace("time,x,y\n", ""), ["line 1", "the number 0", "first line"]),
        (CSV.replace(",", ";"), ["line 1", "not separated by commas"]),
        ("time,x,y\n", ["a header without rows"]),
        ("", ["an empty file"]),
        ("time\n1\n2\n3\n4\n", ["no column with the name of an observable", "x, y"]),
        ("time,x\n0,1\n1,2\n2,3\n", ["3 rows to train on", "at least 4"]),
        ("time,x\n0,1\n1,\n2,3\n3,4\n", ["3 measured values of 'x'"]),
        ("time,x\n0,2\n1,2\n2,2\n3,2\n", ["constant column"]),
        (b"time,x\n0,1\n1,\xff\n", ["bytes that are not text at line 3", "UTF-8"]),
        ('time,x\n0,"1\n', ["broken row"]),
        ("time,x\n0,1\x00\n1,2\n", ["line 2"]),
    ],
)
def test_a_bad_csv_file_is_refused_with_its_place(
    tmp_path: Path, content: str | bytes, expected: list[str]
) -> None:
    message = refused(tmp_path, content)
    for piece in expected:
        assert piece in message
    assert message.startswith(("data.csv", "column 'x'", "trajectory 'data'"))


def test_an_empty_label_is_refused(tmp_path: Path) -> None:
    assert "line 3, column 'site': found no label" in refused(
        tmp_path, "site,time,x\na,0,1\n,1,2\n", trajectory="site"
    )


def test_one_trajectory_may_not_be_in_two_files(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("site,time,x\n" + "".join(f"a,{i},{i}\n" for i in range(5)))
    content = "site,time,x\n" + "".join(f"a,{i},{i}\n" for i in range(5))
    assert "which another file has too" in refused(
        tmp_path, content, trajectory="site", files=["data.csv", "b.csv"]
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../outside.csv", "outside the folder"),
        ("more/../../outside.csv", "outside the folder"),
        ("/etc/passwd", "outside the folder"),
        ("link.csv", "outside the folder"),
        ("folder", "the folder 'folder'"),
        ("dta.csv", "Did you mean 'data.csv'"),
        ("a\0.csv", "the path"),
        (" ", "the path"),
        ("notes.txt", "ends with '.txt'"),
        ("data.csv", "twice"),
    ],
)
def test_paths_stay_inside_the_folder(tmp_path: Path, name: str, message: str) -> None:
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    (tmp_path / "outside.csv").write_text(CSV)
    (home / "data.csv").write_text(CSV)
    (home / "notes.txt").write_text(CSV)
    (home / "link.csv").symlink_to(tmp_path / "outside.csv")
    with pytest.raises(InputError, match=message):
        prepare(home, files=[name, "data.csv"])
    if name not in ("notes.txt", "data.csv"):
        with pytest.raises(InputError, match=message):
            input_digests(DataOptions(files=(name,)), home)


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "data.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "data.csv")
    assert prepare(tmp_path, files=["link.csv"]).train.n_observed == 10


@pytest.mark.parametrize("name", ["data.parquet", "data.npz"])
def test_files_that_are_not_what_they_say(tmp_path: Path, name: str) -> None:
    for content in (b"", b"nonsense", b"PK\x03\x04nonsense", b"PAR1nonsensePAR1"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: found content that is not"):
            prepare(tmp_path, files=[name])


def test_npz_is_never_unpickled_and_holds_vectors_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", time=np.array([1, "a", None], dtype=object))
    with pytest.raises(InputError, match="not NPZ with plain arrays"):
        prepare(tmp_path, files=["data.npz"])
    np.savez(tmp_path / "data.npz", time=np.arange(4.0), x=np.ones((4, 2)))
    with pytest.raises(InputError, match=r"shape \(4, 2\)"):
        prepare(tmp_path, files=["data.npz"])
    np.savez(tmp_path / "data.npz", time=np.arange(4.0), x=np.ones(3))
    with pytest.raises(InputError, match=r"unequal length \(time: 4, x: 3\)"):
        prepare(tmp_path, files=["data.npz"])


def test_parquet_texts_are_refused_with_their_row(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"time": [0, 1], "x": ["1", "many"]}), tmp_path / "data.parquet")
    with pytest.raises(InputError, match=r"data.parquet, row 2, column 'x': found 'many'"):
        prepare(tmp_path, files=["data.parquet"])


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"sd": {"x": 0.1, "z": 0.1}}, "a noise level for 'z'"),
        ({"sd": {"x": 0.1}}, "no noise level for 'y'"),
        ({"lognormal": 0.1}, "the value -1 of 'y' at time 2"),
        ({"kind": "lognormal"}, "the value -1 of 'y' at time 2"),
    ],
)
def test_noise_must_fit_the_data(tmp_path: Path, noise: dict[str, Any], message: str) -> None:
    content = "time,x,y\n0,1,2\n1,2,1\n2,3,-1\n3,4,4\n4,5,5\n"
    assert message in refused(tmp_path, content, noise=noise)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "neither files nor synthetic"),
        ({"files": ["a.csv"], "synthetic": LOTKA_VOLTERRA}, "both files and synthetic"),
        ({"files": ["a.csv"], "time": "t", "trajectory": "t"}, "two columns"),
        ({"synthetic": LOTKA_VOLTERRA, "time": "t"}, "column names with files only"),
        ({"synthetic": {**LOTKA_VOLTERRA, "system": "lotka"}}, "the system 'lotka'"),
        ({"synthetic": {**LOTKA_VOLTERRA, "parameters": {"alfa": 1.0}}}, "Did you mean 'alpha'"),
        ({"synthetic": {**LOTKA_VOLTERRA, "initial": {"z": 1.0}}}, "names of the system"),
        ({"synthetic": {**LOTKA_VOLTERRA, "times": [0.0, 2.0, 1.0]}}, "increasing times"),
        ({"synthetic": {**LOTKA_VOLTERRA, "times": {"stop": -1.0, "step": 1.0}}}, "steps from start"),
        ({"synthetic": {**LOTKA_VOLTERRA, "times": {"stop": 1e9, "step": 1e-9}}}, "steps from start"),
    ],
)
def test_refuses_a_wrong_data_table(table: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DataOptions.model_validate(table)


def simulated(**changes: Any) -> SyntheticOptions:
    return SyntheticOptions.model_validate({**LOTKA_VOLTERRA, **changes})


def test_times_reach_their_end_in_spite_of_rounding() -> None:
    times = TimesOptions(stop=0.3, step=0.1).to_array()
    np.testing.assert_allclose(times, [0.0, 0.1, 0.2, 0.3])
    assert len(TimesOptions(start=1.0, stop=2.05, step=0.5).to_array()) == 3


def test_without_noise_the_simulation_is_the_truth() -> None:
    (item,) = synthesize(simulated(), 0).trajectories
    assert item.values.shape == (21, 2)
    np.testing.assert_array_equal(item.values[0], [3.1461493970111687, 1.5370475785612603])
    invariant = item.values @ [0.8, 0.9] - np.log(item.values) @ [1.8, 1.3]
    np.testing.assert_allclose(invariant, invariant[0], rtol=1e-7)


def test_overrides_reach_the_simulation_and_the_truth() -> None:
    changes = {"parameters": {"beta": 0.0, "gamma": 0.0}, "initial": {"x": 2.0}}
    (item,) = synthesize(simulated(**changes), 0).trajectories
    np.testing.assert_allclose(item.values[:, 0], 2.0 * np.exp(1.3 * item.times), rtol=1e-6)
    truth = true_system(DataOptions(synthetic=simulated(**changes)))
    assert truth is not None
    assert truth.parameters["beta"] == 0.0
    assert [parameter.value for parameter in truth.system.parameters] == [1.3, 0.0, 0.0, 1.8]
    assert truth.initial_values[0] == 2.0
    assert true_system(DataOptions(files=("a.csv",))) is None


@pytest.mark.parametrize("kind", ["mean", "sd", "value"])
def test_noise_has_the_size_of_its_kind(kind: str) -> None:
    times = {"stop": 20.0, "step": 0.01}
    clean = synthesize(simulated(times=times), 0).trajectories[0].values
    noisy = synthesize(simulated(times=times, noise=0.05, noise_kind=kind), 0).trajectories[0].values
    size = {"mean": np.abs(clean).mean(axis=0), "sd": clean.std(axis=0), "value": np.abs(clean)}[kind]
    np.testing.assert_allclose(((noisy - clean) / size).std(axis=0), 0.05, rtol=0.06)


def test_noise_follows_its_seed_and_does_not_depend_on_what_is_observed() -> None:
    first = prepare_synthetic(SYSTEM, seed=3)
    np.testing.assert_array_equal(first, prepare_synthetic(SYSTEM, seed=3))
    assert not np.array_equal(first, prepare_synthetic(SYSTEM, seed=4))
    hidden = SYSTEM.model_copy(update={"observables": ("y",)})
    np.testing.assert_array_equal(first[:, 1:], prepare_synthetic(hidden, seed=3))


def prepare_synthetic(system: SystemOptions, seed: int) -> np.ndarray:
    options = DataOptions(synthetic=simulated(noise=0.01))
    data = prepare_data(options, system, Path("nowhere"), seed)
    assert data.truth == "lotka_volterra"
    assert f"seed {seed}" in data.provenance[0]
    return data.train.trajectories[0].values


def test_a_seed_of_its_own_wins() -> None:
    one, two = (synthesize(simulated(noise=0.01, seed=7), seed).trajectories[0].values for seed in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_simulated_states_must_bear_the_names_of_the_experiment() -> None:
    system = SystemOptions.model_validate(
        {"states": {"hare": {}}, "missing": {"h": ["hare"]}, "equations": {"hare": "h"}}
    )
    with pytest.raises(InputError, match="the observed state 'hare'"):
        prepare_data(DataOptions(synthetic=simulated()), system, Path("nowhere"), 0)


def test_a_simulation_that_runs_away_is_an_input_error() -> None:
    options = simulated(parameters={"beta": -5.0, "gamma": 5.0})
    with pytest.raises(InputError, match="cannot be solved"):
        synthesize(options, 0)


DRIVEN = SystemOptions.model_validate(
    {
        "states": {"x": {}, "y": {"initial": 0.0}},
        "parameters": {"k": {"value": 3.0, "fixed": True}},
        "controls": {"u": {}, "w": {"interpolation": "hold"}},
        "missing": {"h": ["x", "y"]},
        "equations": {"x": "h + u", "y": "-h + w"},
        "observables": {"place": "x", "total": "x + k*y"},
    }
)


def prepare_driven(folder: Path, content: str, **options: Any) -> PreparedData:
    (folder / "data.csv").write_text(content)
    table = {"files": ["data.csv"], "noise": {"sd": 0.1}, **options}
    return prepare_data(DataOptions.model_validate(table), DRIVEN, folder, 0)


DRIVEN_CSV = """time,place,total,u,w
0,1,4,0,7
1,2,5,,
2,3,6,4,
4,4,7,,9
5,5,8,10,
6,6,9,11,2
"""


def test_controls_are_columns_and_their_gaps_are_filled(tmp_path: Path) -> None:
    data = prepare_driven(tmp_path, DRIVEN_CSV)
    assert data.train.observables == ("place", "total")
    assert data.train.controls == ("u", "w")
    [trajectory] = data.train.trajectories
    np.testing.assert_allclose(trajectory.controls[:, 0], [0, 2, 4, 8, 10, 11])
    np.testing.assert_allclose(trajectory.controls[:, 1], [7, 7, 7, 9, 9, 2])
    assert data.train.n_observed == 12  # a control is no measurement of the system


def test_hold_out_rows_keep_their_controls(tmp_path: Path) -> None:
    data = prepare_driven(tmp_path, DRIVEN_CSV, holdout={"rows": 2})
    assert data.holdout is not None
    assert data.holdout.controls == ("u", "w")
    np.testing.assert_allclose(data.train.trajectories[0].controls[-1], [8, 9])
    np.testing.assert_allclose(data.holdout.trajectories[0].controls, [[10, 9], [11, 2]])


def test_gaps_are_filled_within_a_trajectory(tmp_path: Path) -> None:
    rows = [f"{t},{t + 1},{t + 2},{t},{'' if t % 2 else t},{name}" for name in "ab" for t in range(4)]
    content = "time,place,total,u,w,site\n" + "\n".join(rows) + "\n"
    data = prepare_driven(tmp_path, content, trajectory="site")
    for trajectory in data.train.trajectories:
        np.testing.assert_allclose(trajectory.controls[:, 1], [0, 0, 2, 2])


@pytest.mark.parametrize(
    ("old", "new", "pieces"),
    [
        (",u,w", ",v,w", ["no column 'u'", "values of the control 'u'"]),
        (",u,w", ",U,w", ["no column 'u'", "Known: U, place"]),
        (
            "0,1,4,0,7",
            "0,1,4,,7",
            ["data.csv, line 2, column 'u'", "no value of a control", "last one unless"],
        ),
        ("0,1,4,0,7", "0,1,4,0,", ["data.csv, line 2, column 'w'", "a value in the first row", "Fill it in"]),
        ("6,6,9,11,2", "6,6,9,,2", ["data.csv, line 7, column 'u'", "no value of a control"]),
        (",total,", ",y,", ["the column 'y'", "names of observables and controls"]),
    ],
)
def test_bad_controls_are_refused_with_their_place(
    tmp_path: Path, old: str, new: str, pieces: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        prepare_driven(tmp_path, DRIVEN_CSV.replace(old, new, 1))
    for piece in pieces:
        assert piece in str(caught.value)


def test_fewer_values_than_unknown_numbers_are_refused(tmp_path: Path) -> None:
    table = {
        "states": {name: {} for name in "abcd"},
        "parameters": {"k": {"value": 1.0}, "q": {"value": 1.0}},
        "missing": {"h": ["a"]},
        "equations": {"a": "h - k*b", "b": "c", "c": "d", "d": "-q*a"},
        "observables": ["a"],
    }
    (tmp_path / "data.csv").write_text("time,a\n0,1\n1,2\n2,4\n3,3\n4,1\n")
    options = DataOptions.model_validate({"files": ["data.csv"], "noise": {"sd": 0.1}})
    with pytest.raises(
        InputError, match=r"5 measured training values for 4 unknown .* and 2 free parameters"
    ):
        prepare_data(options, SystemOptions.model_validate(table), tmp_path, 0)
    table["states"]["b"] = {"initial": 0.0}
    assert prepare_data(options, SystemOptions.model_validate(table), tmp_path, 0).train.n_observed == 5


OSCILLATOR = SystemOptions.model_validate(
    {
        "states": {"x": {}, "v": {}},
        "controls": {"force": {}},
        "missing": {"spring": ["x"]},
        "equations": {"x": "v", "v": "force - 0.1*v - spring"},
        "observables": {"v": "v", "energy": "x**2/2 + v**2/2 + 0*force"},
    }
)
OSCILLATION = {"system": "driven_oscillator", "times": {"stop": 4.0, "step": 0.1}}


def test_a_simulated_control_is_sampled_and_the_truth_is_driven_by_the_expression() -> None:
    options = DataOptions.model_validate({"synthetic": OSCILLATION, "noise": {"sd": 0.1}})
    data = prepare_data(options, OSCILLATOR, Path(), 0)
    [item] = data.train.trajectories
    t = item.times
    force = 0.5 * np.cos(1.2 * t) + 0.3 * np.sin(0.7 * t + 0.5) + 0.2 * np.cos(2.1 * t)
    assert (data.train.observables, data.train.controls) == (("v", "energy"), ("force",))
    np.testing.assert_allclose(item.controls[:, 0], force)

    def rhs(time: float, state: np.ndarray) -> list[float]:
        now = 0.5 * np.cos(1.2 * time) + 0.3 * np.sin(0.7 * time + 0.5) + 0.2 * np.cos(2.1 * time)
        return [state[1], now - 0.1 * state[1] - state[0] - 0.5 * state[0] ** 3]

    x, v = solve_ivp(rhs, (0.0, 4.0), [1.0, 0.0], t_eval=t, rtol=1e-10, atol=1e-12).y
    np.testing.assert_allclose(item.values, np.column_stack([v, x**2 / 2 + v**2 / 2]), atol=1e-8)
    assert "force = 0.5*cos(1.2*t)" in data.provenance[0]


def test_noise_of_an_expression_is_that_of_its_size_and_leaves_the_states_alone() -> None:
    table = {"synthetic": {**OSCILLATION, "noise": 0.1, "seed": 3}, "noise": {"sd": 0.1}}
    options = DataOptions.model_validate(table)
    plain = OSCILLATOR.model_copy(update={"observables": ("v",)})
    clean = prepare_data(
        DataOptions.model_validate({"synthetic": OSCILLATION, "noise": {"sd": 0.1}}), OSCILLATOR, Path(), 0
    ).train.trajectories[0]
    both, one = (prepare_data(options, system, Path(), 0).train for system in (OSCILLATOR, plain))
    np.testing.assert_array_equal(both.trajectories[0].values[:, 0], one.trajectories[0].values[:, 0])
    noise = both.trajectories[0].values - clean.values
    np.testing.assert_allclose(noise.std(axis=0), 0.1 * np.abs(clean.values).mean(axis=0), rtol=0.3)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.5


def test_a_control_that_the_simulation_lacks_is_refused() -> None:
    options = DataOptions.model_validate({"synthetic": {**LOTKA_VOLTERRA}, "noise": {"sd": 0.1}})
    with pytest.raises(InputError, match=r"\[system.controls\]: found the control 'u', which the simulated"):
        prepare_data(options, DRIVEN, Path(), 0)
