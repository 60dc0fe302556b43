from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import doctor
from flows.cli import app
from flows.doctor import Check
from flows.server import ServerError
from sciml_discover.run_folders import store_in


def install(monkeypatch: pytest.MonkeyPatch, requires: list[str], versions: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor.metadata, "requires", lambda _: requires)
    monkeypatch.setattr(doctor.metadata, "version", version)


def test_packages_are_checked_against_the_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = ["fastapi>=0.139,<0.151", "torch<2.14,>=2.6", 'ruff>=9; extra == "dev"']
    right = {"sciml-discover": "1.0", "fastapi": "0.150.2", "torch": "2.13.1+cpu"}
    install(monkeypatch, requires, right)
    assert doctor.check_packages() == Check(
        "packages", "sciml-discover 1.0, and the 2 that it needs, as pinned"
    )
    install(monkeypatch, requires, {"sciml-discover": "1.0", "fastapi": "0.156.0"})
    wrong = doctor.check_packages()
    assert wrong.found == "fastapi 0.156.0, torch is missing"
    assert wrong.do == "python -m pip install 'fastapi<0.151,>=0.139' 'torch<2.14,>=2.6'"


def test_an_old_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_python().ok
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 4))
    assert doctor.check_python() == Check("python", "3.10.4", "Use a Python >=3.11.")


def test_a_folder_that_cannot_be_written_to_ends_what_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(doctor, "check_cuda", lambda: Check("cuda", "none"))
    found = {check.name: check for check in doctor.checks(tmp_path / "file" / "runs")}
    assert list(found) == ["python", "packages", "folder", "cuda"]
    assert not found["folder"].ok
    assert "--out" in found["folder"].do


def test_locks_are_tried_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_locks(tmp_path).ok

    @contextlib.contextmanager
    def without_effect(_: Path) -> Iterator[bool]:
        yield True

    monkeypatch.setattr(doctor, "hold_if_free", without_effect)
    assert "excludes nobody" in doctor.check_locks(tmp_path).found

    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(doctor, "write_atomically", refuse)
    refused = doctor.check_locks(tmp_path)
    assert "no locks available" in refused.found
    assert refused.do
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_others_can_read_and_a_full_disk_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store_in(tmp_path).root
    assert doctor.check_store(tmp_path).ok
    root.mkdir()
    root.chmod(0o755)
    assert doctor.check_store(tmp_path) == Check("store", "mode 0755", f"chmod 700 {root}")
    root.chmod(0o700)
    assert doctor.check_store(tmp_path).ok
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=10**8))
    full = doctor.check_space(tmp_path)
    assert full.found == "100.0 MB free"
    assert "cache prune" in full.do


def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(doctor, "choose_device", lambda _: "cpu")
    assert doctor.check_cuda().ok
    monkeypatch.setattr(doctor, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cpu" in doctor.check_cuda().do
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    assert doctor.check_cuda() == Check("cuda", f"H200, torch {torch.__version__}")


def test_a_server_that_does_not_start_or_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    nowhere = doctor.check_server(tmp_path)
    assert "http://127.0.0.1:9/api does not answer" in nowhere.found
    assert "unset PREFECT_API_URL" in nowhere.do
    monkeypatch.setenv("PREFECT_API_URL", "file:///etc/passwd")
    assert "no address" in doctor.check_server(tmp_path).found

    class Broken:
        url = "http://127.0.0.1:1/api"

        def __init__(self, _: Path) -> None: ...

        def wait(self) -> None:
            raise ServerError("the local Prefect server did not start; see server.log")

        def stop(self) -> None: ...

    monkeypatch.delenv("PREFECT_API_URL")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("flows.api.LocalServer", Broken)
    broken = doctor.check_server(tmp_path)
    assert "server.log" in broken.found
    assert broken.do
    assert "PREFECT_API_URL" not in os.environ


def test_the_command_says_each_line_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Check("disk", "1 B free", "Make room.")
    monkeypatch.setattr(doctor, "checks", lambda out: iter([Check("folder", str(out)), bad]))
    done = CliRunner().invoke(app, ["doctor", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [f"✔ folder: {tmp_path}", "✘ disk: 1 B free", "  do: Make room."]
    as_json = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert [check["ok"] for check in as_json] == [True, False]
    monkeypatch.setattr(doctor, "checks", lambda _: iter([Check("disk", "9 GB free")]))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


@pytest.mark.usefixtures("prefect_home")
def test_a_real_server_starts_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    assert doctor.check_server(tmp_path).found.startswith("an own local server starts in ")


def test_a_schedule_is_tried_with_an_own_server_where_none_stays(prefect_home: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    code = (
        "import sys; from pathlib import Path; from flows.doctor import check_schedule\n"
        "print(check_schedule(Path(sys.argv[1])).found)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**environment, "PREFECT_HOME": str(prefect_home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("a schedule would fire: planned in "), done.stdout + done.stderr


@pytest.mark.usefixtures("lasting")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_schedule_is_tried_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.orchestration import get_client

    assert doctor.check_schedule(tmp_path).found.startswith("a schedule would fire: planned in ")
    with get_client(sync_client=True) as client:
        assert not [one for one in client.read_deployments() if one.name.startswith("doctor")]
        assert not [flow for flow in client.read_flows() if flow.name == "doctor"]
    monkeypatch.setattr("flows.deployments.a_schedule_fires", lambda: False)
    silent = doctor.check_schedule(tmp_path)
    assert "does not plan" in silent.found
    assert silent.do


def test_a_schedule_that_cannot_be_tried_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> bool:
        raise RuntimeError("no such table")

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr("flows.deployments.a_schedule_fires", refuse)
    assert "RuntimeError: no such table" in doctor.check_schedule(tmp_path).found
