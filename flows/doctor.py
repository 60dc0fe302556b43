"""What must be right on a machine before runs are left alone on it, checked one after the other."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flows.api import prefect_api
from flows.quantities import size_text
from flows.server import ServerError
from flows.staying_server import StayingServer
from sciml_discover.atomic import write_atomically
from sciml_discover.errors import InputError
from sciml_discover.locks import hold, hold_if_free
from sciml_discover.run_folders import store_in, writable_folder
from sciml_discover.stages import choose_device

DISTRIBUTION = "sciml-discover"
LEAST_FREE = 10**9
"""Bytes. A run takes some megabytes; results and Prefect's database grow over weeks."""
ANSWER_SECONDS = 10


@dataclass(frozen=True)
class Check:
    """One line of the doctor.

    Attributes:
        name: what was looked at.
        found: what was found.
        do: what must be done; empty if it is right as it is.
    """

    name: str
    found: str
    do: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing must be done."""
        return not self.do


def checks(out: Path) -> Iterator[Check]:
    """Yield one check after the other, the slow ones last.

    Args:
        out: the folder of all runs; it is made if it is not there, as a run would.
    """
    yield check_python()
    yield check_packages()
    folder = check_folder(out)
    yield folder
    if folder.ok:
        yield check_locks(out)
        yield check_store(out)
        yield check_space(out)
    yield check_cuda()
    if folder.ok:
        server = check_server(out)
        yield server
        if server.ok:
            yield check_schedule(out)


def check_python() -> Check:
    """Check the version of Python."""
    running = ".".join(map(str, sys.version_info[:3]))
    wanted = metadata.metadata(DISTRIBUTION)["Requires-Python"]
    right = SpecifierSet(wanted).contains(running, prereleases=True)
    return Check("python", running, "" if right else f"Use a Python {wanted}.")


def check_packages() -> Check:
    """Check that every package that this one needs is there, in a version that it works with."""
    needed = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or []]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong, wanted = [], []
    for one in needed:
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            version = ""
        if not version or not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} {version or 'is missing'}")
            wanted.append(f"'{one.name}{one.specifier}'")
    version = metadata.version(DISTRIBUTION)
    if wrong:
        return Check("packages", ", ".join(wrong), f"python -m pip install {' '.join(wanted)}")
    return Check("packages", f"{DISTRIBUTION} {version}, and the {len(needed)} that it needs, as pinned")


def check_folder(out: Path) -> Check:
    """Check that runs can be written."""
    try:
        writable_folder(out)
    except InputError as error:
        return Check("folder", error.found, "Make it writable, or choose another with --out.")
    return Check("folder", f"{out.resolve()} can be written to")


def check_locks(out: Path) -> Check:
    """Check that files can be replaced at once, and that a lock excludes others, which some network drives forget."""
    do = "Choose a folder on another file system with --out."
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=out) as folder:
            write_atomically(Path(folder) / "file", b"old")
            write_atomically(Path(folder) / "file", b"new")
            lock = Path(folder) / "lock"
            with hold(lock), hold_if_free(lock) as free:
                if free:
                    return Check("locks", "a lock excludes nobody on this file system", do)
    except OSError as error:
        return Check("locks", f"the file system refuses ({error})", do)
    return Check("locks", "files are replaced at once, locks exclude others")


def check_store(out: Path) -> Check:
    """Check that the store, if there is one, is its owner's alone."""
    root = store_in(out).root
    if not root.exists():
        return Check("store", "none yet")
    mode = root.stat().st_mode & 0o777
    return Check("store", f"mode {mode:04o}", f"chmod 700 {root}" if mode & 0o077 else "")


def check_space(out: Path) -> Check:
    """Check that the disk is not nearly full."""
    free = shutil.disk_usage(out).free
    do = f"Make room: `{DISTRIBUTION} cache prune --older-than 7d` deletes old results."
    return Check("disk", f"{size_text(free)} free", do if free < LEAST_FREE else "")


def check_cuda() -> Check:
    """Check that torch can use the GPU if there is one that runs would choose."""
    try:
        device = choose_device("auto")
    except metadata.PackageNotFoundError:
        return Check("cuda", "torch is missing", "Install it, as said above.")
    if device == "cpu":
        return Check("cuda", "no GPU that torch was built for is visible: runs use the CPU")
    import torch

    if torch.cuda.is_available():
        return Check("cuda", f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    found = f"there is a GPU, but torch {torch.__version__} cannot use it"
    return Check("cuda", found, "Update the driver, install a torch that fits it, or run with --device cpu.")


def check_server(out: Path) -> Check:
    """Check that a local Prefect server starts, or that the one of ``PREFECT_API_URL`` answers."""
    url, begun = os.environ.get("PREFECT_API_URL", ""), time.perf_counter()
    if url:
        do = "Start that server, or unset PREFECT_API_URL: then each run starts its own."
        if not url.startswith(("http://", "https://")):
            return Check("server", f"PREFECT_API_URL is {url!r}, no address", do)
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=ANSWER_SECONDS):
                return Check("server", f"{url} answers")
        except (OSError, ValueError) as error:
            return Check("server", f"{url} does not answer ({error})", do)
    try:
        with prefect_api(out) as server:
            if server is not None:
                server.wait()
    except ServerError as error:
        return Check("server", str(error), "Read that log; the packages above may be to blame.")
    if isinstance(server, StayingServer):
        return Check("server", f"one that stays up answers at {server.url}")
    return Check("server", f"an own local server starts in {time.perf_counter() - begun:.1f} s")


def check_schedule(out: Path) -> Check:
    """Check that the server plans the runs of a schedule; one that fires once a year is made and deleted."""
    do = (
        "The packages above may be to blame: versions that do not fit together stop schedules without a word."
    )
    begun = time.perf_counter()
    try:
        with prefect_api(out, plans=True) as server:
            if server is not None:
                server.wait()
            from flows.deployments import a_schedule_fires

            if not a_schedule_fires():
                return Check("schedule", "the server does not plan the runs of a new schedule", do)
    except Exception as error:  # whatever Prefect and what it stands on may raise
        return Check("schedule", f"a schedule cannot be tried ({type(error).__name__}: {error})", do)
    return Check("schedule", f"a schedule would fire: planned in {time.perf_counter() - begun:.1f} s")
