from __future__ import annotations

import os
import threading

import pytest
import torch
from threadpoolctl import threadpool_info

from sciml_discover.threads import THREAD_VARIABLES, at_most_threads, usable_cores


@pytest.fixture
def three_torch_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_torch_threads")
def test_what_is_loaded_and_what_will_be_is_limited_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    in_thread: list[int] = []
    with at_most_threads(2):
        assert {os.environ[name] for name in THREAD_VARIABLES} <= {"1", "2"}
        assert os.environ["OMP_NUM_THREADS"] == "2"
        assert torch.get_num_threads() == 2
        assert all(pool["num_threads"] <= 2 for pool in threadpool_info())
        thread = threading.Thread(target=lambda: in_thread.append(torch.get_num_threads()))
        thread.start()
        thread.join(10)
    assert in_thread == [2]
    assert torch.get_num_threads() == 3
    assert os.environ["OMP_NUM_THREADS"] == "8"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.usefixtures("three_torch_threads")
def test_fewer_threads_stay_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "many")
    with at_most_threads(16):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("1", "16")
        assert torch.get_num_threads() == 3
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
