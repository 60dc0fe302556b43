"""How the process of a command ends: Ctrl-C is never lost, and nobody waits for a server that is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading

AGAIN_SECONDS = 0.05

GOES_ON = "What is finished is kept; the same command goes on from there."
"""For whoever interrupts a command, or loses its server."""

_in_haste = threading.Event()


def keep_interrupts() -> None:
    """See to it that Ctrl-C ends what runs, even if it comes while an object is finalized.

    Python only reports an exception from a finalizer, and goes on. Imports of large packages are full
    of finalizers: of forty runs that were interrupted while they began, three went on to the end.
    """
    report = sys.unraisablehook

    def again(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # Not from here: what is raised in this hook is lost as well.
            threading.Timer(AGAIN_SECONDS, _interrupt).start()
        else:
            report(unraisable)

    sys.unraisablehook = again


def make_haste() -> None:
    """Let the process end without waiting for threads: Prefect's would try to reach its server for minutes."""
    _in_haste.set()


def leave(status: object, *, interrupted: int) -> None:
    """End the process at once after Ctrl-C or `make_haste`; otherwise let it end, and nothing change its status.

    Args:
        status: the exit status that it is about to have.
        interrupted: the one that says Ctrl-C.
    """
    if isinstance(status, int) and (status == interrupted or _in_haste.is_set()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    # All is done and told: Ctrl-C while Python takes itself down would only say otherwise.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt() -> None:
    # A signal to the thread, because that wakes it from whatever it waits for.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
