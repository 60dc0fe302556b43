"""The experiment file: the shipped ones load, overrides apply, and every mistake has its place."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciml_discover.errors import InputError, NotYetError
from sciml_discover.experiment import Changes, Experiment, LoadedExperiment, load_experiment
from sciml_discover.noise import NoiseOptions
from sciml_discover.objectives import DirectCollocation, MultipleShooting
from sciml_discover.optimizers import Adam, GaussNewton
from sciml_discover.presets import TrainStage
from sciml_discover.readers import prepare_data
from sciml_discover.regressors import Bagging, Implicit, RegressOptions, Stlsq
from sciml_discover.system import System
from sciml_discover.toml_writer import to_toml
from sciml_discover.training import TrainOptions

DATA = Path(__file__).resolve().parents[1] / "data"
SHIPPED = sorted(DATA.glob("*/*.toml"))

MINIMAL = """\
title = "small"
[data.synthetic]
system = "lotka_volterra"
times = { stop = 5.0, step = 0.25 }
[system.states]
x = {}
y = {}
[system.missing]
h = ["x", "y"]
[system.equations]
x = "1.3*x - h"
y = "h - 1.8*y"
"""


def write(folder: Path, text: str = MINIMAL, name: str = "experiment.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_experiment(write(folder, text), overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_experiments_load_and_have_data(path: Path) -> None:
    loaded = load_experiment(path)
    experiment = loaded.experiment
    assert loaded.text == path.read_text()
    assert loaded.folder == path.parent
    data = prepare_data(experiment.data, experiment.system, loaded.folder, experiment.seed)
    assert data.train.observables == tuple(experiment.system.states)
    assert System.from_options(experiment.system).missing_names == ("predation", "growth")
    assert (path.parent / "README.md").exists()


def test_hudson_bay_is_the_published_table() -> None:
    loaded = load_experiment(DATA / "hudson_bay" / "experiment.toml")
    data = prepare_data(loaded.experiment.data, loaded.experiment.system, loaded.folder, 0)
    assert loaded.name == "hudson_bay"
    assert data.holdout is not None
    train, held = data.train.trajectories[0], data.holdout.trajectories[0]
    assert train.times.tolist() == list(range(1900, 1917))
    assert held.times.tolist() == [1917, 1918, 1919, 1920]
    values = np.concatenate([train.values, held.values])
    np.testing.assert_allclose(values.sum(axis=0), [715.7, 423.5])
    assert values[[0, 3, 20]].tolist() == [[30.0, 4.0], [77.4, 35.2], [24.7, 8.6]]
    assert data.noise.pooled
    assert not any(data.noise.lognormal)
    assert 0.5 < data.noise.sd[0] < 6


def test_both_hudson_bay_files_differ_in_the_holdout_only() -> None:
    tables = [tomllib.loads((DATA / "hudson_bay" / f"{name}.toml").read_text()) for name in NAMES]
    assert tables[0]["data"].pop("holdout") == {"rows": 4}
    for table in tables:
        del table["title"]
    assert tables[0] == tables[1]
    assert load_experiment(DATA / "hudson_bay" / "all_rows.toml").name == "all_rows"


NAMES = ("experiment", "all_rows")


def test_lotka_volterra_is_the_stated_simulation() -> None:
    loaded = load_experiment(DATA / "lotka_volterra" / "experiment.toml")
    synthetic = loaded.experiment.data.synthetic
    assert synthetic is not None
    np.testing.assert_allclose(synthetic.times_array(), np.arange(0, 5.01, 0.25))
    known = synthetic.known_system()
    assert known.parameter_values.tolist() == [1.3, 0.9, 0.8, 1.8]
    assert (synthetic.noise, synthetic.noise_kind, synthetic.seed) == (0.005, "mean", 0)
    assert loaded.experiment.system.parameters["alpha"].fixed
    assert loaded.experiment.regress.library.functions == ("sin",)
    assert loaded.experiment.validate_.extrapolate_to == 50.0


def test_the_defaults_are_enough(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path)).experiment
    assert experiment.seed == 0
    assert experiment.data.noise.is_estimated
    assert experiment.regress.regressors


def test_the_case_is_called_after_its_folder_or_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "my_case"
    folder.mkdir()
    assert load_experiment(write(folder)).name == "my_case"
    assert load_experiment(write(folder, name="other.toml")).name == "other"


def test_overrides_apply_in_order_and_are_in_the_text(tmp_path: Path) -> None:
    overrides = [
        "train.starts=2",
        "train.starts = 3",
        "data.synthetic.noise=1e-2",
        "data.synthetic.noise_kind=value",
        "data.synthetic.times=[0.0, 1.0, 2.5, 3.0, 4.0]",
        'title="with = sign"',
        "data.holdout={ rows = 1 }",
        "system.states.x.positive=true",
        "regress.library.extra=['x/(1+y)']",
    ]
    loaded = load_experiment(write(tmp_path), overrides)
    experiment = loaded.experiment
    assert experiment.train.starts == 3
    assert experiment.data.synthetic is not None
    assert experiment.data.synthetic.noise == 0.01
    assert experiment.data.synthetic.noise_kind == "value"
    assert experiment.data.synthetic.times == (0.0, 1.0, 2.5, 3.0, 4.0)
    assert experiment.title == "with = sign"
    assert experiment.system.states["x"].positive
    again = load_experiment(write(tmp_path, loaded.text, "again.toml"))
    assert again.experiment == experiment


def test_changes_take_the_place_of_whole_parts_before_the_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "[train]\nstarts = 2\nkeep = 0.5\n")
    changes = Changes.model_validate({"train": {"starts": 3}, "validate": {"whiteness_p": 0.01}})
    loaded = load_experiment(path, ["train.starts=4"], changes)
    assert (loaded.experiment.train.starts, loaded.experiment.train.keep) == (4, 1.0)
    assert loaded.experiment.validate_.whiteness_p == 0.01
    assert tomllib.loads(loaded.text)["train"] == {"starts": 4}
    unchanged = load_experiment(path, (), Changes())
    assert unchanged.text == path.read_text()
    with pytest.raises(InputError, match="hole"):
        load_experiment(path, (), Changes.model_validate({"regress": {"holes": {"nowhere": {}}}}))


def test_changes_have_the_parts_of_an_experiment() -> None:
    parts = dict(Experiment.model_fields)
    del parts["title"]
    assert list(Changes.model_fields) == list(parts)
    assert [field.alias for field in Changes.model_fields.values()] == [
        field.alias for field in parts.values()
    ]


def test_a_form_may_fill_in_every_default(tmp_path: Path) -> None:
    plain = load_experiment(write(tmp_path)).experiment
    parts = plain.model_dump(mode="json", by_alias=True, exclude={"title"})
    filled = load_experiment(write(tmp_path), (), Changes.model_validate(parts))
    assert filled.experiment == plain
    assert load_experiment(write(tmp_path, filled.text, "again.toml")).experiment == plain


def test_overrides_reach_into_lists(tmp_path: Path) -> None:
    text = MINIMAL + "[[regress.regressors]]\nkind = 'stlsq'\nthresholds = 9\n"
    loaded = load_experiment(write(tmp_path, text), ["regress.regressors.0.thresholds=5"])
    assert loaded.experiment.regress.regressors[0].model_dump()["thresholds"] == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.starts", "no KEY=VALUE"),
        ("=4", "no KEY=VALUE"),
        ("train..starts=4", "no KEY=VALUE"),
        ("train.starts=[1,", "a TOML value"),
        ("train.starts=4\n[select]", "a TOML value"),
        ("train.starts=4\nseed=5", "a TOML value"),
        ("title.text=4", "a key 'text' of 'small'"),
        ("title.text.more=4", "a key 'text' of 'small'"),
        ("train.stages=[1]", "[train] stages, entry 1"),
        ("data.synthetic.times=[1.0]", "times"),
        ("train.startz=4", "Did you mean 'starts'"),
    ],
)
def test_bad_overrides_are_refused(tmp_path: Path, override: str, message: str) -> None:
    assert message in refusal(tmp_path, MINIMAL, override)


def test_an_entry_that_a_list_does_not_have(tmp_path: Path) -> None:
    text = MINIMAL + "[train]\nstages = []\n"
    for word in ("0", "first", "-1"):
        assert "in a list of 0" in refusal(tmp_path, text, f"train.stages.{word}.objective=1")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('title = "small"', "", ["experiment.toml: found no key 'title'"]),
        ('"small"', "5", ["experiment.toml: title: found 5", "expected a valid string"]),
        ('"small"', '""', ["title: found ''"]),
        ("[data", "[dta", ["found the unknown key 'dta'", "Did you mean 'data'"]),
        ("stop = 5.0", "stop = '5'", ["[data.synthetic.times] stop", "found '5'", "a valid number"]),
        ("stop = 5.0", "stop = nan", ["[data.synthetic.times] stop", "a finite number"]),
        ("step = 0.25", "step = 0.0", ["[data.synthetic.times] step", "found 0.0", "greater than 0"]),
        ("step = 0.25", "stepp = 0.25", ["[data.synthetic.times]", "'stepp'", "Did you mean 'step'"]),
        ("x = {}", "x = { positiv = true }", ["[system.states.x]: found", "'positiv'", "'positive'"]),
        ("x = {}", "x = { positive = 1 }", ["[system.states.x] positive", "a valid boolean"]),
        ("x = {}", "x = true", ["[system.states] x: found True"]),
        ('["x", "y"]', '["x", 3]', ["[system.missing] h, entry 2: found 3"]),
        ('["x", "y"]', '["x", "z"]', ["experiment.toml: [system.missing] h: found the input 'z'"]),
        ("1.3*x - h", "1.3*x - hh", ["experiment.toml: [system.equations] x", "column 9 of '1.3*x - hh'"]),
        ("lotka_volterra", "lotka_voltera", ["experiment.toml: [data.synthetic] system", "Did you mean"]),
        ("[system.missing]", "[system.missing", ["not TOML", "line 8"]),
        (
            "[system.states]",
            "[system.controls]\nfeed = {}\n[system.states]",
            ["'feed' in no equation", "Use it"],
        ),
    ],
)
def test_every_mistake_has_its_place(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    message = refusal(tmp_path, MINIMAL.replace(old, new, 1))
    assert message.startswith(str(tmp_path / "experiment.toml"))
    for piece in expected:
        assert piece in message


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("[train]\nstarts = 0", ["[train] starts: found 0", "greater than or equal to 1"]),
        ("[train]\nstarts = 2.5", ["[train] starts: found 2.5", "a valid integer"]),
        ("[train]\nstarts = true", ["[train] starts: found True", "a valid integer"]),
        ("[train]\nstarts = 2024-01-01", ["[train] starts: found '2024-01-01'"]),
        ("[train]\npreset = 'fast'", ["[train] preset: found 'fast'", "'auto'"]),
        (
            "[train]\nstages = [{ objective = { kind = 'shoot' }, optimizer = { kind = 'adam' } }]",
            ["'shoot'"],
        ),
        ("[train]\nstages = [{ optimizer = { kind = 'adam' } }]", ["no key 'objective'", "stages, entry 1"]),
        ("[regress]\nlibrary = { degree = 3 }", ["[regress.library]: found the unknown key 'degree'"]),
        ("[regress]\nlibrary = { functions = ['sinus'] }", ["functions, entry 1: found 'sinus'", "'sin'"]),
        ("[regress]\nregressors = [{ kind = 'magic' }]", ["regressors, entry 1", "'magic'", "stlsq"]),
        ("[regress]\nlibrary = { extra = ['x*z'] }", ["[regress.library] extra", "'z'", "column 3"]),
        ("[regress]\nlibrary = { extra = ['x^2'] }", ["[regress.library] extra", "**"]),
        ("[data.noise]\nsd = -0.1", ["[data.noise] sd", "found -0.1", "greater than 0"]),
        (
            "[data.noise]\nsd = 0.1\nrelative = 0.1",
            ["[data] noise: found sd and relative", "Give one of them"],
        ),
        ("[data.holdout]\nrows = 2\nfraction = 0.1", ["[data] holdout", "one of fraction, rows"]),
        ("[data.holdout]\nfraction = 1.5", ["[data.holdout] fraction: found 1.5", "less than 1"]),
        ("[validate]\nextrapolate_to = 4.0", ["[validate]", "a time after the last row, which is at 5"]),
        (
            "[validate]\nextrapolate = 9.0",
            ["[validate]: found the unknown key", "Did you mean 'extrapolate_to'"],
        ),
        ("[system.parameters]\nk = { value = 1.0 }", ["[system.parameters] k", "in no equation"]),
        ("[system.parameters]\nk = { valu = 1.0 }", ["[system.parameters.k]", "Did you mean 'value'"]),
        ("[system.parameters]\nk = 1.0", ["[system.parameters] k: found 1.0"]),
        ("[[system.events]]\nat = 3.0", ["[system] events", "cannot do yet"]),
        ("[report]\nx = 1", ["the unknown key 'report'"]),
    ],
)
def test_every_wrong_table_has_its_place(tmp_path: Path, table: str, expected: list[str]) -> None:
    message = refusal(tmp_path, f"{MINIMAL}{table}\n")
    assert message.startswith(str(tmp_path / "experiment.toml"))
    assert "\n" not in message
    for piece in expected:
        assert piece in message


def test_measured_data_have_no_truth_to_extrapolate_to(tmp_path: Path) -> None:
    text = "[data]\nfiles = ['a.csv']\n" + MINIMAL.split("step = 0.25 }\n")[1]
    text = f"title = 'small'\n{text}[validate]\nextrapolate_to = 9.0\n"
    assert "with measured data" in refusal(tmp_path, text)


def test_an_experiment_without_holes_has_nothing_to_find(tmp_path: Path) -> None:
    text = MINIMAL.replace('h = ["x", "y"]', "").replace(" - h", "").replace("h - ", "-")
    assert "no missing term" in refusal(tmp_path, text)


def test_not_yet_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(NotYetError):
        load_experiment(write(tmp_path, MINIMAL + "[system.grid]\nx = 5\n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(InputError, match=r"no such file.*Did you mean 'experiment.toml'"):
        load_experiment(tmp_path / "experimnt.toml")
    with pytest.raises(InputError, match=r"experiment.toml inside this folder"):
        load_experiment(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        load_experiment("a\0b.toml")
    (tmp_path / "latin.toml").write_bytes('title = "Füchse"'.encode("latin-1"))
    with pytest.raises(InputError, match=r"not text \(at byte 11\)"):
        load_experiment(tmp_path / "latin.toml")
    write(tmp_path, "a = " + "[" * 20000, "deep.toml")
    with pytest.raises(InputError, match="not TOML"):
        load_experiment(tmp_path / "deep.toml")


def test_an_experiment_written_in_python_is_the_one_of_the_file(tmp_path: Path) -> None:
    loaded = load_experiment(write(tmp_path))
    experiment = Experiment(
        title="small",
        data=loaded.experiment.data,
        system=loaded.experiment.system,
    )
    assert experiment == loaded.experiment
    again = LoadedExperiment.from_experiment(experiment, tmp_path)
    assert (again.name, again.folder) == ("small", tmp_path)
    assert load_experiment(write(tmp_path, again.text, "again.toml")).experiment == experiment


def test_strategies_chosen_in_python_are_those_of_the_file(tmp_path: Path) -> None:
    loaded = load_experiment(write(tmp_path))
    stages = (
        TrainStage(objective=DirectCollocation(), optimizer=GaussNewton(iterations=9)),
        TrainStage(objective=MultipleShooting(), optimizer=Adam()),
    )
    changes = {
        "train": TrainOptions(stages=stages),
        "regress": RegressOptions(regressors=(Stlsq(), Bagging(bags=20), Implicit())),
        "data": loaded.experiment.data.model_copy(update={"noise": NoiseOptions(relative=0.1)}),
    }
    experiment = loaded.experiment.model_copy(update=changes)
    text = LoadedExperiment.from_experiment(experiment, tmp_path).text
    assert '{ kind = "stlsq" }, { kind = "bagging", bags = 20 }, { kind = "implicit" }' in text
    assert load_experiment(write(tmp_path, text, "again.toml")).experiment == experiment
    changed = load_experiment(write(tmp_path), changes=Changes.model_validate(changes))
    assert changed.experiment.train == experiment.train
    assert load_experiment(write(tmp_path, changed.text, "changed.toml")).experiment == changed.experiment


def test_experiments_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_experiment(write(tmp_path)).experiment.seed = 5


@pytest.mark.parametrize(
    "table",
    [
        {"a": 1, "b": 0.1, "c": True, "d": "x"},
        {"text": 'quotes " \\ \n \t \x7f \u2028 ü'},
        {"odd key.with dots": {"and \x7f": [1, [2.5, "x"], {"deep": {"a": 1}}]}},
        {"x": float("inf"), "y": -1e-300, "z": 10**15},
        {"empty": {}, "list": [], "table": {"inner": {"a": {}}}},
    ],
)
def test_toml_reads_back_as_written(table: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(table)) == table


def test_an_extra_term_must_suit_at_least_one_hole() -> None:
    system = {
        "states": {"x": {}, "y": {}},
        "missing": {"f": ["x"], "g": ["y"]},
        "equations": {"x": "f", "y": "g"},
    }
    data = {"synthetic": {"system": "lotka_volterra", "times": [0.0, 1.0, 2.0, 3.0, 4.0]}}

    def experiment(term: str) -> Experiment:
        regress = {"library": {"extra": [term]}}
        return Experiment.model_validate({"title": "t", "data": data, "system": system, "regress": regress})

    assert experiment("x/(1+x)").regress.library.extra == ("x/(1+x)",)
    with pytest.raises(InputError, match="mixes inputs of different holes"):
        experiment("x*y")
