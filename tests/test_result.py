"""result.json: its content, its schema, reading it back."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from sciml_discover.errors import InputError
from sciml_discover.laws import Estimate
from sciml_discover.readers import PreparedData
from sciml_discover.result import (
    SCHEMA_FILE,
    DiscoveryResult,
    failed_result,
    library_versions,
    result_schema,
    write_schema,
)
from sciml_discover.trajectories import Dataset, Trajectory
from sciml_discover.units import SystemUnits
from tests.artifacts import INITIAL, SmallRun, small_run

CONTRACT = """id status reasons equations parameters missing metrics alternatives baselines identifiability
    next_measurement training seconds cached versions seed device case title truth report created"""


def schema() -> dict:
    return json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


def failed(**changes: object) -> DiscoveryResult:
    known: dict = {
        "run_id": "x", "created": "2026-01-01T00:00:00Z", "case": "x", "title": "x", "seed": 0,
        "device": "cpu", "stage": "train", "message": "every start diverged", "seconds": {"data": 0.1},
        "cached": {"data": True}, "versions": {},
    }  # fmt: skip
    return failed_result(**{**known, **changes})


def test_the_shipped_schema_is_that_of_the_model(tmp_path: Path) -> None:
    assert schema() == result_schema(), (
        "run: python -c 'from sciml_discover.result import write_schema; write_schema()'"
    )
    write_schema(tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_bytes() == SCHEMA_FILE.read_bytes()


def test_the_schema_is_a_schema_and_describes_every_key() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert set(CONTRACT.split()) <= set(schema()["required"])
    for name, key in schema()["properties"].items():
        assert "description" in key, name


@pytest.mark.parametrize("holdout", [True, False])
@pytest.mark.parametrize("known_truth", [True, False])
def test_a_result_satisfies_the_schema(holdout: bool, known_truth: bool) -> None:
    result = small_run(holdout=holdout, known_truth=known_truth).result()
    jsonschema.validate(result.to_dict(), schema())
    assert (result.metrics.holdout is not None) == holdout
    assert (result.metrics.extrapolation is not None) == known_truth
    assert (result.truth is not None) == known_truth
    assert result.accepted


def test_a_failed_result_satisfies_the_schema_and_says_what_is_known(run_artifacts: SmallRun) -> None:
    for result in (failed(), failed(data=run_artifacts.data, trained=run_artifacts.trained)):
        jsonschema.validate(result.to_dict(), schema())
        assert not result.accepted
        assert result.reasons[0].message == "every start diverged"
        assert result.failed_stage == "train"
        assert result.equations == {}
    assert result.data is not None
    assert result.training is not None


def test_the_schema_refuses_what_is_no_result(run_artifacts: SmallRun) -> None:
    content = run_artifacts.result().to_dict()
    for change in ({"status": "perhaps"}, {"seed": None}, {"unknown": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**content, **change}, schema())
    del content["parameters"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema())


def test_what_the_result_says(run_artifacts: SmallRun) -> None:
    content = run_artifacts.result().to_dict()
    law = run_artifacts.laws.laws[0]
    assert content["equations"] == law.equations
    assert content["equations_full"] == law.equations_full
    assert content["parameters"]["alpha"]["unit"] == "1/year"
    assert content["parameters"]["delta"] == {
        "value": 1.8, "stderr": None, "interval95": None, "snapped": None, "unit": "1/year", "fixed": True,
        "identifiable": True,
    }  # fmt: skip
    (term,) = content["missing"]["predation"]["terms"]
    assert term["term"] == "hare*lynx"
    assert term["coefficient"] == law.missing["predation"][0].coefficient.value
    assert term["inclusion"] is None
    assert term["unit"] == "1/(thousand*year)"
    assert content["units"] == {
        "hare": "thousand", "lynx": "thousand", "t": "year", "predation": "thousand/year", "growth": "thousand/year",
    }  # fmt: skip
    assert content["known"] == {"hare": "alpha*hare - predation", "lynx": "growth - delta*lynx"}
    (rival,) = content["alternatives"]
    assert rival["missing"]["growth"] == "0.8008*hare*lynx**2"
    assert rival["rival"]
    assert rival["holdout_error"] == 4.2
    assert rival["law"]["equations_full"] == run_artifacts.laws.laws[1].equations_full
    assert rival["law"]["missing"]["growth"]["terms"][0]["unit"] == "1/(thousand^2*year)"
    assert set(content["baselines"]) == {"known_only", "ude", "sindy_on_data", "constant"}
    assert content["baselines"]["sindy_on_data"] == {
        "train": None, "holdout": None, "extrapolation": None, "note": "diverged at t = 1.2",
    }  # fmt: skip
    assert content["initial_states"]["all"] == {
        "time": 0.0,
        "values": dict(zip(("hare", "lynx"), INITIAL, strict=True)),
    }
    assert content["next_measurement"] == {
        "trajectory": "all",
        "time": 21.5,
        "observable": "lynx",
        "spread": 3.2,
        "sentence": "lynx at t = 21.5 would separate the rivals best",
    }
    assert content["training"]["history"]["stage"][0] == "derivative_matching x adam"
    assert content["training"]["history"]["events"] == [
        "multiple_shooting x lbfgs, iteration 200: 1 of 4 starts stalled: no step makes them better"
    ]
    assert content["data"]["trajectories"] == [
        {"name": "all", "start": 0.0, "end": 5.0, "train_rows": 17, "holdout_rows": 4}
    ]
    assert content["data"]["noise"]["lynx"] == {
            "sd": 0.02, "kind": "additive", "floor": None, "estimated": True,
        }  # fmt: skip


def test_numbers_inside_terms_and_the_covariance(run_artifacts: SmallRun) -> None:
    covariance = np.arange(36.0).reshape(6, 6)
    covariance[1, 1] = np.inf
    law = run_artifacts.laws.laws[0]
    term = dataclasses.replace(
        law.missing["predation"][0], term="hare/(K + hare)", inner={"K": Estimate(2.5, 0.1, (2.3, 2.7))}
    )
    law = dataclasses.replace(
        law, covariance=covariance, missing={"predation": (term,), "growth": law.missing["growth"]}
    )
    laws = dataclasses.replace(run_artifacts.laws, laws=(law,), n_rivals=0)
    validation = dataclasses.replace(run_artifacts.validation, rivals_holdout=(1.1,))
    units = SystemUnits(run_artifacts.options).table({"predation": [term.term]})
    result = run_artifacts.result(laws=laws, validation=validation, units=units)
    found = result.missing["predation"].terms[0]
    assert (found.unit, found.parameters["K"].value, found.parameters["K"].unit) == (
        "thousand/year",
        2.5,
        "thousand",
    )
    assert result.covariance is not None
    assert result.covariance.names == (
        "alpha", "predation: hare/(K + hare)", "predation: K in hare/(K + hare)", "growth: hare*lynx",
    )  # fmt: skip
    assert result.covariance.values[1] == (6.0, None, 8.0, 9.0)


def test_laws_behind_the_rivals_are_not_called_rivals(run_artifacts: SmallRun) -> None:
    laws = dataclasses.replace(run_artifacts.laws, n_rivals=0)
    assert [law.rival for law in run_artifacts.result(laws=laws).alternatives] == [False]


def test_whole_trajectories_held_out_are_counted(run_artifacts: SmallRun) -> None:
    def rows(name: str) -> Dataset:
        return Dataset(("hare", "lynx"), (Trajectory(name, np.arange(5.0), np.ones((5, 2))),))

    data = run_artifacts.data
    data = PreparedData(rows("all"), rows("B"), data.noise, "trajectory", "", ())
    summary = run_artifacts.result(data=data).data
    assert summary is not None
    assert [(item.name, item.train_rows, item.holdout_rows) for item in summary.trajectories] == [
        ("all", 5, 0),
        ("B", 0, 5),
    ]


def test_numbers_that_are_not_finite_become_null(run_artifacts: SmallRun) -> None:
    trained = dataclasses.replace(run_artifacts.trained, loss=math.inf, chi_square=math.nan)
    score = run_artifacts.validation.law
    assert score.train is not None
    train = dataclasses.replace(score.train, unexplained=math.inf, rms={"hare": math.nan})
    validation = dataclasses.replace(run_artifacts.validation, law=dataclasses.replace(score, train=train))
    result = run_artifacts.result(trained=trained, validation=validation)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    content = json.loads(result.to_json(), parse_constant=refuse)
    assert content["training"]["loss"] is None
    assert content["training"]["chi_square"] is None
    assert content["metrics"]["train"]["unexplained"] is None
    assert content["metrics"]["train"]["rms"] == {"hare": None}
    jsonschema.validate(content, schema())


def test_a_result_reads_back_from_its_file_and_from_its_folder(
    run_artifacts: SmallRun, tmp_path: Path
) -> None:
    result = run_artifacts.result(title="Häre")
    (tmp_path / "result.json").write_text(result.to_json(), encoding="utf-8")
    assert DiscoveryResult.from_file(tmp_path) == result
    assert DiscoveryResult.from_file(tmp_path / "result.json").to_json() == result.to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no readable file"),
        ("", "JSON"),
        ("[1, 2]", "object"),
        ('{"id": "x"}', "created"),
        ("\x00\xff", "JSON"),
    ],
)
def test_what_is_no_result_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        DiscoveryResult.from_file(file)
    assert str(file) in str(caught.value)


def test_versions_are_those_installed() -> None:
    versions = library_versions()
    assert versions["numpy"] == np.__version__
    assert {"python", "torch", "sympy", "pysindy"} <= set(versions)


def test_laws_per_second_are_those_of_a_choice_that_was_made_now(run_artifacts: SmallRun) -> None:
    result = run_artifacts.result()
    assert result.selection is not None
    made = result.model_copy(update={"seconds": {"select": 2.0}, "cached": {"select": False}})
    assert made.laws_per_second == result.selection.tried / 2.0
    assert made.model_copy(update={"cached": {"select": True}}).laws_per_second is None
    assert failed().laws_per_second is None
