"""The verbs of all stages as stand-ins that answer at once, to test whoever drives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciml_discover import readers, regressors, report, residual_samples, selection, training, validation
from sciml_discover.base import Progress
from sciml_discover.regressors import HoleSupports, Supports
from tests.artifacts import SmallRun, small_run

EXPERIMENT = """\
title = "Hare and lynx"
seed = 3

[data]
files = ["rows.csv"]

[system.states]
hare = { positive = true }
lynx = { positive = true }

[system.parameters]
alpha = { value = 1.0, bounds = [0.0, 3.0] }
delta = { value = 1.8, fixed = true }

[system.missing]
predation = ["hare", "lynx"]
growth = ["hare", "lynx"]

[system.equations]
hare = "alpha*hare - predation"
lynx = "growth - delta*lynx"
"""


def write_experiment(folder: Path, text: str = EXPERIMENT) -> Path:
    """Write the experiment of the stand-ins, with a file of rows beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text("time,hare,lynx\n0,1,2\n1,2,3\n2,3,4\n")
    path = folder / "experiment.toml"
    path.write_text(text)
    return path


class FakeVerbs:
    """Stand-ins whose results depend on their options, as those of the real verbs do.

    Attributes:
        calls: names of the stages whose verb was called, in order.
        before: called with the name of a stage before its verb answers; may raise.
        status: the verdict.
    """

    def __init__(self, run: SmallRun) -> None:
        self.run = run
        self.calls: list[str] = []
        self.before: Callable[[str], object] = lambda _: None
        self.status = "accepted"

    def _begin(self, name: str) -> None:
        self.calls.append(name)
        self.before(name)

    def prepare_data(self, *_: Any) -> readers.PreparedData:
        self._begin("data")
        return self.run.data

    def train(
        self,
        system: Any,
        data: Any,
        options: training.TrainOptions,
        *,
        seed: int,
        device: str,
        watch: Any,
        checkpoint: Path,
    ) -> training.TrainingResult:
        self._begin("train")
        watch(Progress("train", "fitting", 1, 2, 0.5))
        assert checkpoint.name.startswith("train-")
        assert (system.state_names, device) == (("hare", "lynx"), "cpu")
        np.testing.assert_array_equal(data.train.trajectories[0].times, np.arange(17) / 4)
        return dataclasses.replace(self.run.trained, message=f"{options.starts} starts, seed {seed}")

    def sample(self, *_: Any, **__: Any) -> residual_samples.ResidualSamples:
        self._begin("sample")
        return self.run.samples

    def regress(self, _: Any, __: Any, options: regressors.RegressOptions, **___: Any) -> Supports:
        self._begin("regress")
        terms = tuple(f"hare**{power}" for power in range(options.library.polynomial_degree + 1))
        ones = np.ones((1, len(terms)))
        holes = (
            HoleSupports(hole, ("hare",), terms, ones, ones, np.zeros((1, 0)), np.zeros(1), ("stlsq",))
            for hole in ("predation", "growth")
        )
        return Supports(tuple(holes))

    def select(self, *arguments: Any, **_: Any) -> selection.RankedLaws:
        self._begin("select")
        assert isinstance(arguments[3], Supports)
        return self.run.laws

    def validate(self, *_: Any, **__: Any) -> validation.ValidationReport:
        self._begin("validate")
        return dataclasses.replace(self.run.validation, status=self.status)

    def render(self, **arguments: Any) -> str:
        self._begin("report")
        return f"<html>{arguments['title']}</html>"


def install(monkeypatch: pytest.MonkeyPatch) -> FakeVerbs:
    """Put the stand-ins in the place of the verbs."""
    fakes = FakeVerbs(small_run())
    monkeypatch.setattr(readers, "prepare_data", fakes.prepare_data)
    monkeypatch.setattr(training, "train", fakes.train, raising=False)
    monkeypatch.setattr(residual_samples, "sample_residual", fakes.sample, raising=False)
    monkeypatch.setattr(regressors, "regress", fakes.regress, raising=False)
    monkeypatch.setattr(selection, "select", fakes.select, raising=False)
    monkeypatch.setattr(validation, "validate", fakes.validate, raising=False)
    monkeypatch.setattr(report, "render_report", fakes.render)
    return fakes
