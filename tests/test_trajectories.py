"""Hold-out: which rows are kept, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sciml_discover.errors import InputError
from sciml_discover.trajectories import Dataset, HoldoutOptions, Trajectory, split_holdout


def trajectory(name: str, rows: int, columns: int = 1) -> Trajectory:
    times = np.arange(rows, dtype=float)
    return Trajectory(name, times, np.stack([np.sin(times + column) for column in range(columns)], axis=1))


def dataset(*rows: int, columns: int = 1) -> Dataset:
    names = tuple("xyz"[:columns])
    return Dataset(
        names, tuple(trajectory(f"site {index}", count, columns) for index, count in enumerate(rows))
    )


def lengths(data: Dataset | None) -> dict[str, int]:
    return {item.name: len(item.times) for item in data.trajectories} if data else {}


def test_counts_measured_values_only() -> None:
    data = dataset(6, columns=2)
    data.trajectories[0].values[2:4, 1] = np.nan
    assert data.n_observed == 10


def test_nothing_held_out() -> None:
    data = dataset(6)
    assert split_holdout(data, None) == (data, None)


@pytest.mark.parametrize(
    ("options", "train", "held"),
    [
        ({"rows": 4}, {"site 0": 17, "site 1": 6}, {"site 0": 4, "site 1": 4}),
        ({"fraction": 0.2}, {"site 0": 17, "site 1": 8}, {"site 0": 4, "site 1": 2}),
        ({"fraction": 0.04}, {"site 0": 20, "site 1": 10}, {"site 0": 1}),
        ({"trajectories": ("site 1",)}, {"site 0": 21}, {"site 1": 10}),
    ],
)
def test_rows_are_split_and_none_is_lost(
    options: dict[str, Any], train: dict[str, int], held: dict[str, int]
) -> None:
    data = dataset(21, 10)
    kept, holdout = split_holdout(data, HoldoutOptions(**options))
    assert lengths(kept) == train
    assert lengths(holdout) == held
    assert holdout is not None
    for item in data.trajectories:
        parts = [part for half in (kept, holdout) for part in half.trajectories if part.name == item.name]
        np.testing.assert_array_equal(np.concatenate([part.times for part in parts]), item.times)
        np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), item.values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 3}, "3 rows to train on after the hold-out"),
        ({"rows": 30}, "0 rows to train on after the hold-out"),
        ({"fraction": 0.01}, "hold-out rows without a single measured value"),
        ({"trajectories": ("site 7",)}, "no trajectory 'site 7'"),
        ({"trajectories": ("site 0",)}, "every trajectory held out"),
    ],
)
def test_refuses_a_useless_split(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_holdout(dataset(6), HoldoutOptions(**options))


@pytest.mark.parametrize("options", [{}, {"rows": 3, "fraction": 0.2}])
def test_refuses_none_or_two_ways_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="one of fraction, rows, trajectories"):
        HoldoutOptions(**options)


def test_refuses_holdout_rows_that_are_all_missing() -> None:
    data = dataset(8)
    data.trajectories[0].values[6:] = np.nan
    with pytest.raises(InputError, match="without a single measured value"):
        split_holdout(data, HoldoutOptions(rows=2))


def test_refuses_a_held_out_trajectory_of_which_nothing_is_scored() -> None:
    options = HoldoutOptions(trajectories=("site 1",))
    with pytest.raises(InputError, match=r"after the rows that initial states are fitted to \(2\)"):
        split_holdout(dataset(6, 2), options)
    data = dataset(6, 3, columns=2)
    assert split_holdout(data, options)[1] is not None
    data.trajectories[1].values[2, 0] = np.nan
    assert split_holdout(data, options)[1] is not None
    data.trajectories[1].values[2] = np.nan
    with pytest.raises(InputError, match="Hold out a longer trajectory"):
        split_holdout(data, options)


def test_one_scored_value_of_all_held_out_trajectories_is_enough() -> None:
    _, held = split_holdout(dataset(6, 2, 3), HoldoutOptions(trajectories=("site 1", "site 2")))
    assert lengths(held) == {"site 1": 2, "site 2": 3}


def test_refuses_constant_and_empty_columns() -> None:
    data = dataset(8, columns=2)
    data.trajectories[0].values[:, 1] = 3.5
    with pytest.raises(InputError, match=r"constant column: every training value of 'y' is 3\.5"):
        split_holdout(data, None)
    data.trajectories[0].values[:, 1] = np.nan
    with pytest.raises(InputError, match="0 measured values of 'y'"):
        split_holdout(data, None)


def test_a_column_that_changes_only_in_the_holdout_is_constant() -> None:
    data = dataset(8)
    data.trajectories[0].values[:6] = 1.0
    with pytest.raises(InputError, match="constant column"):
        split_holdout(data, HoldoutOptions(rows=2))


@pytest.mark.parametrize("options", [HoldoutOptions(rows=2), HoldoutOptions(trajectories=("b",))])
def test_controls_are_split_with_their_rows(options: HoldoutOptions) -> None:
    times = np.arange(8.0)
    items = tuple(
        Trajectory(name, times, np.sin(times)[:, None] + shift, times[:, None] + shift)
        for name, shift in (("a", 0.0), ("b", 10.0))
    )
    train, holdout = split_holdout(Dataset(("x",), items, ("u",)), options)
    assert holdout is not None
    for part in (train, holdout):
        assert part.controls == ("u",)
        for item in part.trajectories:
            shift = {"a": 0.0, "b": 10.0}[item.name]
            np.testing.assert_array_equal(item.controls[:, 0], item.times + shift)
    assert Trajectory("c", times, np.zeros((8, 1))).controls.shape == (8, 0)
