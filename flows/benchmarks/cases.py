"""The table of all cases: what is run, over how many seeds, for how long at most, and what it has to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flows.benchmarks import costs, devices, fits
from flows.benchmarks.measurement import Measurement
from flows.benchmarks.targets import (
    Target,
    at_least,
    at_most,
    faster_than,
    grows_linearly,
    median_at_most,
)

LARGEST = 100_000
"""Points of the largest problem whose cost is measured."""

Measure = Callable[[int, str, Mapping[str, str]], Measurement]
"""``(seed, preset, settings) -> Measurement``."""


@dataclass(frozen=True)
class Variant:
    """One way to run a case, a row of the table.

    Attributes:
        preset: of the training; None is the one that the user asks for.
        name: of the row, where the preset does not say it.
        settings: whatever else the case wants to know, as text.
        targets: what this row has to reach.
    """

    preset: str | None = None
    name: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()

    def label(self, preset: str) -> str:
        """Return the name of the row if the user asks for a preset."""
        return self.name or self.preset or preset


@dataclass(frozen=True)
class Case:
    """One line of the benchmark.

    Attributes:
        name: for the command line.
        title: what is fitted, in one line.
        measure: does it, in a process of its own.
        seeds: how many, from zero on.
        seconds: a run that takes longer is stopped and counts as a failure.
        variants: rows of the table.
        peers: names of the other tools that run beside the first variant, with the same seed.
        noise: handed to the peers.
    """

    name: str
    title: str
    measure: Measure
    seeds: int
    seconds: float
    variants: tuple[Variant, ...]
    peers: tuple[str, ...] = ()
    noise: float = 0.0


def _cost_rows() -> tuple[Variant, ...]:
    """Return every method, width and size; the largest size has something to reach."""

    def name(method: str, width: int, points: int) -> str:
        return f"{method}, {width} wide, {points} points"

    def targets(method: str, width: int, points: int) -> tuple[Target, ...]:
        if points < LARGEST:
            return ()
        smaller = name(method, width, points // 10)
        growth = grows_linearly("iteration", smaller, 10.0)
        return (at_most("iteration", 20.0), at_most("peak_gigabytes", 4.0), growth)

    return tuple(
        Variant(
            name=name(method, width, points),
            settings={"method": method, "wide": str(width), "points": str(points)},
            targets=targets(method, width, points),
        )
        for method in costs.METHODS
        for width in (16, 64)
        for points in (100, 1_000, 10_000, LARGEST)
    )


_ALL = (
    Case(
        name="lotka_volterra",
        title="Lotka-Volterra, 21 points, 0.5 %, both interactions hidden",
        measure=fits.lotka_volterra,
        seeds=20,
        seconds=300.0,
        variants=(
            Variant(
                targets=(
                    at_most("learnt_error", 0.03),
                    median_at_most("learnt_error", 0.01),
                    faster_than("train", "diffrax_recipe", "train", 1 / 20),
                    faster_than("train", "diffrax_levenberg_marquardt", "train", 1 / 10),
                    faster_than("train", "diffrax_levenberg_marquardt", "train_again", 1.0),
                ),
            ),
            Variant(
                "multiple_shooting",
                targets=(
                    at_most("learnt_error", 0.03, share=0.9),
                    faster_than("train", "diffrax_recipe", "train", 1 / 5),
                ),
            ),
        ),
        peers=("diffrax_recipe", "diffrax_levenberg_marquardt"),
        noise=0.005,
    ),
    Case(
        name="scenario_2",
        title="Lotka-Volterra, y seen 6 times, delta learnt",
        measure=fits.scenario_2,
        seeds=20,
        seconds=120.0,
        variants=(
            Variant(
                targets=(
                    at_most("x_error", 0.7, share=0.9),
                    at_least("coverage", 0.9, share=0.9),
                    at_least("band_width", 0.3, share=0.9),
                    at_least("not_identifiable", 1, share=0.9),
                )
            ),
        ),
    ),
    Case(
        name="lorenz",
        title="Lorenz, 1000 points, 1 %, x*y hidden",
        measure=fits.lorenz,
        seeds=5,
        seconds=600.0,
        variants=(
            Variant(targets=(at_most("learnt_error", 0.02, share=0.8),)),
            Variant("single_shooting"),
        ),
    ),
    Case(
        name="robertson",
        title="Robertson to 1e5, 40 points, 1 % per value, k3*y2*y3 hidden, 8 starts",
        measure=fits.robertson,
        seeds=10,
        seconds=120.0,
        variants=(
            Variant(
                targets=(
                    at_most("worst_error", 0.04, share=0.9),
                    median_at_most("worst_error", 0.02),
                    median_at_most("train_seconds", 20.0),
                )
            ),
        ),
    ),
    Case(
        name="van_der_pol_stiff",
        title="van der Pol, stiffness 1000, two periods, 1 % per value, damping hidden",
        measure=fits.van_der_pol_stiff,
        seeds=5,
        seconds=180.0,
        variants=(
            Variant(
                targets=(
                    at_most("period_error", 0.02, share=0.8),
                    median_at_most("train_seconds", 60.0),
                )
            ),
        ),
    ),
    Case(
        name="cart_parameter",
        title="Cart, friction hidden, stiffness learnt from 3x the truth",
        measure=fits.cart_parameter,
        seeds=10,
        seconds=120.0,
        variants=(Variant(targets=(at_most("parameter_error", 0.05),)),),
    ),
    Case(
        name="driven_oscillator",
        title="Driven oscillator, 400 points, only the position seen, 1 %, cubic spring hidden",
        measure=fits.driven_oscillator,
        seeds=20,
        seconds=180.0,
        variants=(Variant(targets=(at_most("cubic_error", 0.05, share=0.9),)),),
    ),
    Case(
        name="cost",
        title="Lorenz, seconds of one iteration of one start, and peak memory",
        measure=costs.iteration_cost,
        seeds=1,
        seconds=300.0,
        variants=_cost_rows(),
    ),
    Case(
        name="batch",
        title="Lotka-Volterra, 21 points, direct collocation, 50 iterations, 64 starts against 1",
        measure=costs.batch_cost,
        seeds=1,
        seconds=300.0,
        variants=(
            Variant(
                name=costs.METHODS[0],
                settings={"method": costs.METHODS[0]},
                targets=(at_most("ratio_64_to_1", 16.0), at_most("milliseconds_per_start", 0.5)),
            ),
        ),
    ),
    Case(
        name="gpu",
        title="GPU against CPU, every objective, float64; 4096 segments x 64 starts",
        measure=devices.gpu_against_cpu,
        seeds=1,
        seconds=600.0,
        variants=(
            Variant(
                name="cuda",
                settings={"device": "cuda"},
                targets=(at_most("worst_difference", 1e-8), at_least("speedup", 5.0)),
            ),
        ),
    ),
)

CASES: dict[str, Case] = {case.name: case for case in _ALL}
"""Every case by its name."""
