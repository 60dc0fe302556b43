"""How many threads compute: one for many small tensors, and no more than there are cores for many runs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from sciml_discover.base import lazy_import

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

P = ParamSpec("P")
R = TypeVar("R")


def single_threaded(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that runs with one torch thread and then restores the former number.

    A fit makes hundreds of thousands of operations on tensors of a few kilobytes. Threads cannot help there, and as
    soon as something else runs on the machine their spinning at barriers makes a fit ten times slower (measured:
    3 s against 30 s on two busy cores).
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(before)

    return wrapped


THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What the libraries below numpy, scipy and torch read when they are loaded."""


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """Let no numerical library use more than ``count`` threads, here and in processes that are begun inside.

    What reads the environment when it is loaded is told by the environment; what is loaded already
    is told directly, torch too. Numbers that are smaller before stay so, and all are restored.

    Args:
        count: the most threads of each library.
    """
    from threadpoolctl import threadpool_info, threadpool_limits

    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    loaded = [{**one, "num_threads": min(one["num_threads"], count)} for one in threadpool_info()]
    imported = sys.modules.get("torch")
    torch_threads = imported.get_num_threads() if imported else count
    with threadpool_limits(limits=loaded):
        os.environ.update({name: _at_most(text, count) for name, text in before.items()})
        if imported:
            imported.set_num_threads(min(torch_threads, count))
        try:
            yield
        finally:
            for name, text in before.items():
                if text is None:
                    del os.environ[name]
                else:
                    os.environ[name] = text
            if imported:
                imported.set_num_threads(torch_threads)


def _at_most(text: str | None, count: int) -> str:
    """Return the smaller of a number in the environment, if it is one, and ``count``."""
    return str(min(int(text), count) if text is not None and text.isdecimal() else count)
