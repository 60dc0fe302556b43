"""What the command line and a flow in the same process share, beside the flow's own parameters.

A flow's parameters are plain JSON, so that a schedule can give them too. Who watches the progress,
and since when the clock runs, are no such thing: they travel in a context variable, and a flow that
a worker starts simply finds the default.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from sciml_discover.base import Watch, nobody_watches


@dataclass
class Session:
    """One call of the command line.

    Attributes:
        watch: who is told of the progress.
        begun: when the server was started, by `time.perf_counter`.
        imports: seconds of slow imports since then, the share that is not Prefect's.
    """

    watch: Watch = nobody_watches
    begun: float = field(default_factory=time.perf_counter)
    imports: float = 0.0

    def shares(self) -> dict[str, float]:
        """Return the seconds from `begun` until now, shared between imports and Prefect."""
        waited = time.perf_counter() - self.begun
        return {"imports": round(self.imports, 4), "prefect": round(waited - self.imports, 4)}


session: ContextVar[Session | None] = ContextVar("session", default=None)


def current_session() -> Session | None:
    """Return the session of the command line, or None where a flow runs without it.

    Flows call this instead of naming the variable: Prefect pickles a flow's function, with the
    globals that it names, for each worker process, and a context variable cannot be pickled.
    """
    return session.get()
