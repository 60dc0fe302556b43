from __future__ import annotations

import threading
import warnings

import pytest

from sciml_discover.warned import warnings_told


@pytest.mark.filterwarnings("always")
def test_each_thread_gets_its_own_warnings_however_they_overlap() -> None:
    told: dict[str, list[str]] = {"first": [], "second": []}
    second_entered, first_left = threading.Event(), threading.Event()

    def first() -> None:
        with warnings_told(lambda _, text: told["first"].append(text)):
            assert second_entered.wait(10)
            warnings.warn("of the first", stacklevel=1)

    def second() -> None:
        with warnings_told(lambda _, text: told["second"].append(text)):
            second_entered.set()
            assert first_left.wait(10)
            warnings.warn("of the second", stacklevel=1)

    show = warnings.showwarning
    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    threads[0].join(10)
    first_left.set()
    threads[1].join(10)
    assert told == {"first": ["of the first"], "second": ["of the second"]}
    assert warnings.showwarning is show


@pytest.mark.filterwarnings("always")
def test_a_thread_that_asked_for_nothing_shows_its_warnings_as_before() -> None:
    told: list[str] = []
    thread = threading.Thread(target=lambda: warnings.warn("of another thread", stacklevel=1))

    def ask() -> None:
        with warnings_told(lambda _, text: told.append(text)):
            thread.start()
            thread.join(10)

    with pytest.warns(UserWarning, match="of another thread"):
        ask()
    assert told == []


@pytest.mark.filterwarnings("always")
def test_inside_each_other_the_inner_one_is_told() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with warnings_told(lambda _, text: outer.append(text)):
        with warnings_told(lambda _, text: inner.append(text)):
            warnings.warn("one", stacklevel=1)
        warnings.warn("two", stacklevel=1)
    assert (inner, outer) == (["one"], ["two"])
