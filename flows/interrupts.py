"""Ctrl-C that is never lost."""

from __future__ import annotations

import signal
import sys
import threading

AGAIN_SECONDS = 0.05


def _interrupt() -> None:
    # A signal to the thread, because that wakes it from whatever it waits for.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


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
