"""The real thing, on a case that is shipped: nothing here is a stand-in."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from flows.discover import discover
from sciml_discover import runs
from sciml_discover.provenance import stage_origins
from sciml_discover.result import DiscoveryResult, result_schema
from sciml_discover.stages import STAGES
from tests.flows.prefect_states import task_states

NAMES = [stage.name for stage in STAGES]
CASE = Path(__file__).parent.parent.parent / "data" / "lotka_volterra" / "experiment.toml"
OVERRIDES = ["train.starts=2"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("api"),
    # Prefect's own clients leave these behind.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_lotka_volterra_from_its_file_to_an_accepted_law(tmp_path: Path) -> None:
    call = {"experiment": str(CASE), "out": str(tmp_path), "overrides": OVERRIDES}
    state = discover(**call, return_state=True)
    folder = Path(state.result())
    result = DiscoveryResult.from_file(folder)
    jsonschema.validate(json.loads((folder / "result.json").read_text()), result_schema())
    assert task_states(state) == {name: ["Completed"] for name in NAMES}
    assert result.accepted
    assert result.truth is not None
    assert result.truth.same_structure
    assert result.metrics.extrapolation is not None
    assert result.metrics.extrapolation.relative_l2 is not None
    assert result.metrics.extrapolation.relative_l2 < 0.02
    assert "<math" in (folder / "report.html").read_text()

    # The library shares the store; and training again gives the same bytes, so that nothing after
    # it has to run.
    artifact = folder / json.loads((folder / "artifacts.json").read_text())["train"]["path"]
    artifact.unlink()
    again = runs.discover(CASE, out=tmp_path, overrides=OVERRIDES)
    assert [name for name in NAMES if not again.cached[name]] == ["train"]
    assert again.missing == result.missing
    assert artifact.exists()

    # Regression made anew gives the same too; a smaller library is another regression and selection.
    forced = runs.discover(CASE, out=tmp_path, overrides=OVERRIDES, from_stage="regress")
    assert [name for name in NAMES if not forced.cached[name]] == ["regress"]
    degree = [*OVERRIDES, "regress.library.polynomial_degree=2"]
    smaller = runs.discover(CASE, out=tmp_path, overrides=degree)
    made = [name for name in NAMES if not smaller.cached[name]]
    assert made[:2] == ["regress", "select"]
    assert made[-1] == "report"
    whys = {origin.stage: (origin.how, origin.reasons) for origin in stage_origins(tmp_path / smaller.id)}
    assert whys["train"] == ("cached", ())
    assert whys["regress"] == ("computed", ("regress.library.polynomial_degree = 2, was 3",))

    warm = discover(**call, return_state=True)
    assert task_states(warm) == {name: ["Cached"] for name in NAMES}
