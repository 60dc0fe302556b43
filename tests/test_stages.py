from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from sciml_discover import stages
from sciml_discover.base import Progress
from sciml_discover.errors import InputError
from sciml_discover.experiment import LoadedExperiment, load_experiment
from sciml_discover.readers import PreparedData
from sciml_discover.stages import STAGES, Bench, Inputs, choose_device, run_stage, stage_named, stages_to_make
from sciml_discover.store import Artifact, Store
from sciml_discover.training import TrainingResult
from tests.artifacts import SmallRun
from tests.fakes import EXPERIMENT, FakeVerbs, install, write_experiment

NAMES = [stage.name for stage in STAGES]


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> FakeVerbs:
    return install(monkeypatch)


def keys(loaded: LoadedExperiment, device: stages.Device = "cpu") -> dict[str, str]:
    """The key of each stage as if its inputs had not changed."""
    return {stage.name: stage.key(loaded, device, dict.fromkeys(stage.inputs, "same")) for stage in STAGES}


def changed(before: LoadedExperiment, after: LoadedExperiment) -> set[str]:
    old, new = keys(before), keys(after)
    return {name for name in NAMES if old[name] != new[name]}


def test_a_stage_reads_only_from_stages_before_it() -> None:
    for position, stage in enumerate(STAGES):
        assert set(stage.inputs) <= set(NAMES[:position])
    assert len({stage.gives for stage in STAGES}) == len(STAGES)


@pytest.mark.parametrize(
    ("override", "concerned"),
    [
        ("data.holdout={ fraction = 0.2 }", {"data", "report"}),
        ("seed=4", {"data", "train", "regress", "report"}),
        ("train.starts=2", {"train", "report"}),
        ("regress.library.polynomial_degree=2", {"regress", "select", "report"}),
        ("regress.regressors=[{ kind = 'stlsq', thresholds = 5 }]", {"regress", "report"}),
        ("select.rivals=3", {"select", "report"}),
        ("validate.holdout_error=3.0", {"validate", "report"}),
        ("title=Other", {"report"}),
        ("system.parameters.delta.value=1.7", set(NAMES) - {"data"}),
        ("system.states.hare.unit=thousand", set(NAMES)),
    ],
)
def test_a_change_concerns_the_keys_of_its_stages_only(
    tmp_path: Path, override: str, concerned: set[str]
) -> None:
    path = write_experiment(tmp_path)
    assert changed(load_experiment(path), load_experiment(path, [override])) == concerned


def test_the_order_of_the_states_and_the_bytes_of_the_data_are_part_of_the_keys(tmp_path: Path) -> None:
    path = write_experiment(tmp_path / "one")
    before = load_experiment(path)
    lines = EXPERIMENT.replace(
        "hare = { positive = true }\nlynx = { positive = true }", "lynx = {}\nhare = {}"
    )
    swapped = load_experiment(write_experiment(tmp_path / "two", lines))
    same_options = load_experiment(
        write_experiment(
            tmp_path / "three",
            EXPERIMENT.replace("hare = { positive = true }", "hare = {}").replace(
                "lynx = { positive = true }", "lynx = {}"
            ),
        )
    )
    assert {"data", "train", "select"} <= changed(same_options, swapped)
    old = keys(before)
    (path.parent / "rows.csv").write_text("time,hare,lynx\n0,1,2\n1,2,3\n2,3,5\n")
    new = keys(before)
    assert [name for name in NAMES if old[name] != new[name]] == ["data"]


def test_only_training_depends_on_the_device(tmp_path: Path) -> None:
    loaded = load_experiment(write_experiment(tmp_path))
    cpu, cuda = keys(loaded), keys(loaded, "cuda")
    assert [name for name in NAMES if cpu[name] != cuda[name]] == ["train"]


def test_inputs_that_are_not_declared_cannot_be_read(run_artifacts: SmallRun) -> None:
    inputs = Inputs(run_artifacts.data)
    assert inputs[PreparedData] is run_artifacts.data
    with pytest.raises(KeyError):
        inputs[TrainingResult]


def make_all(bench: Bench, store: Store) -> dict[str, Artifact]:
    artifacts: dict[str, Artifact] = {}
    for stage in STAGES:
        artifacts[stage.name] = run_stage(stage, bench, artifacts, store).artifact
    return artifacts


def test_what_is_stored_is_not_made_again(tmp_path: Path, verbs: FakeVerbs) -> None:
    bench, store = Bench(load_experiment(write_experiment(tmp_path))), Store(tmp_path / "store")
    assert [stage.name for stage in stages_to_make(bench, store)] == NAMES
    first = make_all(bench, store)
    assert stages_to_make(bench, store) == ()
    assert [stage.name for stage in stages_to_make(bench, store, "select")] == NAMES[4:]
    assert make_all(bench, store) == first
    assert verbs.calls == NAMES


def test_a_deleted_result_of_train_is_the_only_one_made_again(tmp_path: Path, verbs: FakeVerbs) -> None:
    told: list[Progress] = []
    bench = Bench(load_experiment(write_experiment(tmp_path)), watch=told.append)
    store = Store(tmp_path / "store")
    artifacts = make_all(bench, store)
    artifacts["train"].path.unlink()
    verbs.calls.clear()
    assert make_all(bench, store) == artifacts
    assert verbs.calls == ["train"]
    assert any(event.stage == "train" and "gone" in event.message for event in told)


def test_the_same_bytes_from_a_changed_stage_leave_the_rest_in_the_store(
    tmp_path: Path, verbs: FakeVerbs
) -> None:
    path, store = write_experiment(tmp_path), Store(tmp_path / "store")
    make_all(Bench(load_experiment(path)), store)
    verbs.calls.clear()
    make_all(Bench(load_experiment(path, ["select.rivals=3"])), store)
    assert verbs.calls == ["select", "report"]


def test_a_raised_version_makes_a_stage_anew(tmp_path: Path, verbs: FakeVerbs) -> None:
    bench, store = Bench(load_experiment(write_experiment(tmp_path))), Store(tmp_path / "store")
    make_all(bench, store)
    verbs.calls.clear()
    raised = tuple(
        dataclasses.replace(stage, version=stage.version + (stage.name == "regress")) for stage in STAGES
    )
    artifacts: dict[str, Artifact] = {}
    for stage in raised:
        artifacts[stage.name] = run_stage(stage, bench, artifacts, store).artifact
    assert verbs.calls == ["regress"]


def test_training_that_was_stopped_goes_on_in_the_next_run(tmp_path: Path) -> None:
    class Stop(Exception):
        """Somebody stopped the run."""

    path = write_experiment(tmp_path)
    # Few rows, and a schedule that ends at once.
    (path.parent / "rows.csv").write_text(
        "time,hare,lynx\n" + "".join(f"{t},{2 + (t % 3)},{1 + (t % 2)}\n" for t in range(9))
    )
    stage = "{ objective = { kind = 'derivative_matching' }, optimizer = { kind = 'adam', iterations = 3 } }"
    last = (
        "{ objective = { kind = 'multiple_shooting', segment_length = 1, rounds = 1 }, "
        "optimizer = { kind = 'adam', iterations = 3 } }"
    )
    loaded = load_experiment(path, ["train.starts=1", f"train.stages=[{stage}, {last}]"])
    store = Store(tmp_path / "store")
    told: list[Progress] = []

    def stop(event: Progress) -> None:
        if event.step == 6:
            raise Stop

    data = {"data": run_stage(stage_named("data"), Bench(loaded), {}, store).artifact}
    train = stage_named("train")
    with pytest.raises(Stop):
        run_stage(train, Bench(loaded, watch=stop), data, store)
    [folder] = (tmp_path / "store" / "checkpoints").iterdir()
    assert folder == store.checkpoint("train", train.key(loaded, "cpu", {"data": data["data"].digest}))
    outcome = run_stage(train, Bench(loaded, watch=told.append), data, store)
    assert told[0].message == "going on from a checkpoint"
    assert [event.step for event in told[1:]] == [6]
    assert not folder.exists()
    whole = run_stage(train, Bench(loaded), data, Store(tmp_path / "other"))
    assert whole.artifact.digest == outcome.artifact.digest


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["regress.holes.growth.required=['hare**9']"], "the term 'hare**9'"),
        (["regress.holes.growth.negative=['owl']"], "the term 'owl'"),
        (
            ["regress.holes.growth.required=['1', 'hare']", "select.most_terms=1"],
            "2 required terms, 10 allowed; .* most_terms = 1",
        ),
        (["regress.library={ polynomial_degree = 0, constant = false }"], "0 candidate terms"),
        (["regress.library.extra=['1/(hare - hare)']"], "1/(hare - hare)"),
        (
            [
                "regress.shared=[['predation', 'growth']]",
                "regress.holes={ growth = { required = ['lynx'] }, predation = { forbidden = ['lynx'] } }",
            ],
            "'lynx', which growth must have and predation cannot have",
        ),
    ],
)
def test_what_no_law_could_be_is_refused_before_any_work(
    tmp_path: Path, verbs: FakeVerbs, overrides: list[str], says: str
) -> None:
    bench = Bench(load_experiment(write_experiment(tmp_path), overrides))
    pattern = re.escape(says).replace(re.escape(".*"), ".*")
    with pytest.raises(InputError, match=rf"^\[regress.*{pattern}"):
        run_stage(stage_named("data"), bench, {}, Store(tmp_path / "store"))
    assert verbs.calls == []


def test_terms_that_a_regressor_will_add_may_be_named(tmp_path: Path, verbs: FakeVerbs) -> None:
    implicit = "regress.regressors=[{ kind = 'implicit' }, { kind = 'frols' }]"
    forbids = "regress.holes.growth.forbidden=['hare/(k1 + hare)']"
    bench = Bench(load_experiment(write_experiment(tmp_path), [implicit, forbids]))
    run_stage(stage_named("data"), bench, {}, Store(tmp_path / "store"))
    assert verbs.calls == ["data"]


def test_unknown_stages_and_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="'train'"):
        stage_named("trian")
    with pytest.raises(InputError, match="auto, cpu or cuda"):
        choose_device("gpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match="no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto") == "cpu"
