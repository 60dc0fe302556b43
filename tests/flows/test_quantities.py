from __future__ import annotations

import pytest

from flows.quantities import seconds, seconds_text, size, size_text
from sciml_discover.errors import InputError


def test_times_and_sizes_are_read_as_a_person_writes_them() -> None:
    assert [seconds(text, "--x") for text in ("7d", "1.5h", "30 min", "2W", "0s")] == [
        604800,
        5400,
        1800,
        1209600,
        0,
    ]
    assert [size(text, "--x") for text in ("2GB", "1.5 kb", "1GiB", "0B")] == [2 * 10**9, 1500, 2**30, 0]


@pytest.mark.parametrize("text", ["", "7", "d", "-7d", "7 moons", "1e9d", "nan d", "7d7d", "7m"])
def test_anything_else_is_wrong_input(text: str) -> None:
    with pytest.raises(InputError, match="--x"):
        seconds(text, "--x")


def test_times_and_sizes_are_shown_in_a_unit_that_they_fill() -> None:
    shown = [seconds_text(count) for count in (0, 59.9, 60, 3 * 3600, 200_000)]
    assert shown == ["0 s", "59 s", "1 min", "3 h", "2 d"]
    assert [size_text(count) for count in (0, 999, 1000, 2_340_000)] == ["0 B", "999 B", "1.0 kB", "2.3 MB"]
