"""Whole discoveries from a table: without the law in the library they end rejected, and say why; with it, accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from sciml_discover import discover
from sciml_discover.result import DiscoveryResult

TIMES = np.arange(0.0, 6.01, 0.15)
FED, USED, HALF = 0.1, 1.2, 0.4
"""The supply of a substrate, its fastest consumption, and the amount at which consumption is half as fast."""

NOISE = 0.02

EXPERIMENT = f"""\
title = "Consumption of a substrate"

[data]
files = ["rows.csv"]
holdout = {{ rows = 5 }}

[data.noise]
sd = {NOISE}

[system.states]
s = {{ positive = true }}

[system.parameters]
feed = {{ value = {FED}, fixed = true }}

[system.missing]
uptake = ["s"]

[system.equations]
s = "feed - uptake"

[train]
starts = 2
network = {{ hidden = [6] }}

[regress]
library = {{ polynomial_degree = 1 }}
regressors = [{{ kind = "best_subset" }}]
"""

SATURATING = (
    'regress.library.templates=["input/(K + input)"]',
    "regress.library.inner={ K = {} }",
)
"""What the library lacks."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose law, ``USED*s/(HALF + s)``, is not in its library, and a folder for its runs."""
    folder = tmp_path_factory.mktemp("substrate")
    solved = solve_ivp(
        lambda _, s: FED - USED * s / (HALF + s), (0.0, 6.0), [3.0], t_eval=TIMES, rtol=1e-9, atol=1e-9
    )
    values = solved.y[0] + NOISE * np.random.default_rng(0).standard_normal(len(TIMES))
    rows = "\n".join(f"{time:.2f},{value:.9f}" for time, value in zip(TIMES, values, strict=True))
    (folder / "rows.csv").write_text(f"time,s\n{rows}\n", encoding="utf-8")
    (folder / "experiment.toml").write_text(EXPERIMENT, encoding="utf-8")
    return folder


def run(folder: Path, *overrides: str) -> DiscoveryResult:
    return discover(folder / "experiment.toml", out=folder / "runs", overrides=overrides, device="cpu")


@pytest.fixture(scope="module")
def rejected(folder: Path) -> DiscoveryResult:
    return run(folder)


@pytest.fixture(scope="module")
def accepted(folder: Path, rejected: DiscoveryResult) -> DiscoveryResult:
    assert rejected.id
    return run(folder, *SATURATING)


def failed(result: DiscoveryResult) -> set[str]:
    return {reason.name for reason in result.reasons if not reason.passed}


def test_a_law_that_the_library_lacks_is_rejected_and_the_reasons_are_named(
    rejected: DiscoveryResult,
) -> None:
    assert rejected.status == "rejected"
    assert not rejected.accepted
    assert {"chi_square", "whiteness"} <= failed(rejected)
    by_name = {reason.name: reason for reason in rejected.reasons}
    for name in ("chi_square", "whiteness"):
        reason = by_name[name]
        assert reason.value is not None
        assert reason.threshold is not None
        assert reason.value < reason.threshold
        assert reason.message
    # The law is told all the same.
    assert set(rejected.equations) == {"s"}
    assert {term.term for term in rejected.missing["uptake"].terms} <= {"1", "s"}
    assert rejected.metrics.train is not None


def test_with_the_law_in_the_library_the_same_rows_are_accepted(accepted: DiscoveryResult) -> None:
    assert accepted.status == "accepted"
    assert failed(accepted) == set()
    assert {reason.name for reason in accepted.reasons} == {"chi_square", "whiteness", "holdout", "skill"}
    [term] = accepted.missing["uptake"].terms
    assert term.term == "s/(K + s)"
    half = term.parameters["K"]
    for value, stderr, truth in (
        (term.coefficient, term.stderr, USED),
        (half.value, half.stderr, HALF),
    ):
        assert value is not None
        assert stderr is not None
        assert abs(value - truth) < 4 * stderr < truth
    assert accepted.cached["train"]


def test_noise_told_too_large_hides_the_misfit_but_not_its_pattern(folder: Path) -> None:
    blurred = run(folder, f"data.noise.sd={6 * NOISE}")
    assert blurred.status == "rejected"
    assert "whiteness" in failed(blurred)
    assert "chi_square" not in failed(blurred)
