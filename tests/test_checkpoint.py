"""Checkpoints: training that was killed ends with the same bits; nothing else is ever gone on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sciml_discover import payload
from sciml_discover.base import Options, Progress, nobody_watches
from sciml_discover.checkpoint import Checkpoints, Saved, fingerprint, tensors_of, with_tensors
from sciml_discover.objectives import DerivativeMatching, MultipleShooting
from sciml_discover.optimizers import Adam
from sciml_discover.training import NetworkOptions, TrainOptions, TrainStage, train
from tests.problems import LOGISTIC

ROOT = Path(__file__).resolve().parents[1]

KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path

from sciml_discover import payload
from sciml_discover.objectives import MultipleShooting
from sciml_discover.optimizers import Adam, GaussNewton, Lbfgs
from sciml_discover.training import NetworkOptions, TrainOptions, TrainStage, train
from tests.problems import LOGISTIC

shooting = MultipleShooting(segment_length=3, rounds=2)
optimizers = Adam(iterations=24, learning_rate=0.03), Lbfgs(iterations=8), GaussNewton(iterations=4)
options = TrainOptions(
    starts=3,
    keep=0.6,
    network=NetworkOptions(hidden=(3,)),
    stages=tuple(TrainStage(objective=shooting, optimizer=one) for one in optimizers),
)
folder, data = Path(sys.argv[1]) / "work", LOGISTIC.data(0.02)


def run(watch, folder):
    return train(
        LOGISTIC.system, data, options, seed=0, watch=watch, checkpoint=folder, checkpoint_seconds=0.0
    )


steps = []
whole = run(lambda event: steps.append((event.message, event.step)), None)
report = {"whole": len(steps)}
for kind in ("adam", "lbfgs", "gauss_newton"):
    of_kind = [step for message, step in steps if message.endswith(kind)]
    last = of_kind[len(of_kind) // 2]

    def kill(event):
        if event.step == last and event.message.endswith(kind):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        run(kill, folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    left = sorted(path.name for path in folder.iterdir())
    seen = []
    again = run(seen.append, folder)
    shutil.rmtree(folder)
    report[kind] = {
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "left": left,
        "first": seen[0].message,
        "skipped": seen[1].step >= last - 1,
        "same": payload.encode(again) == payload.encode(whole),
    }
print(json.dumps(report))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_training_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report.pop("whole") > 20
    assert set(report) == {"adam", "lbfgs", "gauss_newton"}
    for kind, found in report.items():
        assert found == {
            "killed": True,
            "left": ["checkpoint.safetensors"],
            "first": "going on from a checkpoint",
            "skipped": True,
            "same": True,
        }, kind


class Stop(Exception):
    """Somebody stopped the training."""


def stopped(folder: Path, options: TrainOptions, *, seed: int = 0) -> None:
    """Train until the third stage has begun."""

    def watch(event: Progress) -> None:
        if event.step > 8:
            raise Stop

    with pytest.raises(Stop):
        train(LOGISTIC.system, LOGISTIC.data(), options, seed=seed, watch=watch, checkpoint=folder)


QUICK = TrainOptions(
    starts=2,
    network=NetworkOptions(hidden=(2,)),
    stages=(
        TrainStage(objective=DerivativeMatching(), optimizer=Adam(iterations=4)),
        TrainStage(objective=DerivativeMatching(), optimizer=Adam(iterations=4)),
        TrainStage(objective=MultipleShooting(segment_length=1), optimizer=Adam(iterations=4)),
    ),
)


def test_a_checkpoint_of_other_work_is_never_used(tmp_path: Path) -> None:
    stopped(tmp_path, QUICK)
    written = (tmp_path / "checkpoint.safetensors").read_bytes()
    others = {
        "seed": {"seed": 1},
        "options": {"options": QUICK.model_copy(update={"starts": 1})},
        "data": {"data": LOGISTIC.data(seed=5)},
        "system": {"system": replace(LOGISTIC.system, time_unit="year")},
    }
    same = {"system": LOGISTIC.system, "data": LOGISTIC.data(), "options": QUICK, "seed": 0}
    for name, other in ({"same": {}} | others).items():
        (tmp_path / "checkpoint.safetensors").parent.mkdir(exist_ok=True)
        (tmp_path / "checkpoint.safetensors").write_bytes(written)
        seen: list[Progress] = []
        given = same | other
        train(
            given["system"], given["data"], given["options"],
            seed=given["seed"], watch=seen.append, checkpoint=tmp_path,
        )  # fmt: skip
        assert (seen[0].message == "going on from a checkpoint") == (name == "same"), name
        assert (seen[0 if name != "same" else 1].step > 8) == (name == "same"), name


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "garbage"])
def test_a_damaged_checkpoint_is_told_of_and_left_aside(tmp_path: Path, damage: str) -> None:
    stopped(tmp_path, QUICK)
    path = tmp_path / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-5] ^= 1
    path.write_bytes(
        {"cut": content[:-100], "empty": b"", "flipped": content, "garbage": b"\x08" + b"x" * 40}[damage]
    )
    seen: list[Progress] = []
    again = train(LOGISTIC.system, LOGISTIC.data(), QUICK, seed=0, watch=seen.append, checkpoint=tmp_path)
    assert seen[0].message.startswith("the checkpoint is damaged (")
    assert "beginning anew" in seen[0].message
    assert payload.encode(again) == payload.encode(train(LOGISTIC.system, LOGISTIC.data(), QUICK, seed=0))


def test_work_goes_on_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    seen: list[Progress] = []
    files = Checkpoints(tmp_path / "file", "key", 0.0, "train", seen.append)
    assert files.read() is None
    files.write(Saved({}, {}))
    files.write(Saved({}, {}))
    assert [event.message[:27] for event in seen] == [
        "the checkpoint cannot be read"[:27],
        "no checkpoint can be written"[:27],
    ]
    assert (tmp_path / "file").read_text() == "no folder"


def test_what_is_written_is_read_and_not_more_often_than_wanted(tmp_path: Path) -> None:
    seen: list[Progress] = []
    often, seldom = (
        Checkpoints(tmp_path / "work", "key", seconds, "train", seen.append) for seconds in (0.0, 1e9)
    )
    assert often.read() is None
    assert seen == []
    assert often.due
    assert not seldom.due
    assert not Checkpoints(None, "key", 0.0, "train", seen.append).due
    tensors = {
        "wide": np.arange(6.0).reshape(2, 3).T,
        "flag": np.array(True),
        "none": np.zeros((0, 4)),
        "count": np.array(3),
    }
    often.write(Saved({"stage": 2, "names": ["a"]}, tensors))
    found = seldom.read()
    assert found is not None
    assert found.notes == {"stage": 2, "names": ["a"]}
    for name, array in tensors.items():
        np.testing.assert_array_equal(found.tensors[name], array)
        assert found.tensors[name].dtype == array.dtype
        assert found.tensors[name].shape == array.shape


@dataclass(frozen=True)
class Inner:
    one: torch.Tensor


@dataclass(frozen=True)
class Outer:
    inner: Inner
    two: torch.Tensor


def test_tensors_of_dataclasses_come_back() -> None:
    value = Outer(Inner(torch.arange(3.0)), torch.tensor(True))
    tensors = tensors_of(value, "state")
    assert list(tensors) == ["state.inner.one", "state.two"]
    again = with_tensors(Outer(Inner(torch.zeros(9)), torch.tensor(False)), tensors, "state")
    assert torch.equal(again.inner.one, value.inner.one)
    assert again.two.item() is True
    again.inner.one[0] = 7.0  # a copy
    assert value.inner.one[0] == 0.0
    with pytest.raises(KeyError):
        with_tensors(value, {}, "state")


class Words(Options):
    word: str = "a"
    """A word."""


def test_a_fingerprint_knows_values_order_and_types() -> None:
    values = [
        (1,), (1.0,), ("1",), (True,), ((1, 2),), (1, 2), ((2, 1),), ({"a": 1, "b": 2},), ({"b": 2, "a": 1},),
        (np.array([1.0, 2.0]),), (np.array([1, 2]),), (np.array([[1.0, 2.0]]),), (np.array([1.0, np.nan]),),
        (Words(),), (Words(word="b"),), (LOGISTIC.system,), (LOGISTIC.data(),), (LOGISTIC.data(seed=1),),
    ]  # fmt: skip
    digests = [fingerprint(*value) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [fingerprint(*value) for value in values]
    assert fingerprint(LOGISTIC.data()) == fingerprint(LOGISTIC.data())


def test_a_store_that_was_deleted_meanwhile_comes_back_as_private_as_it_was(tmp_path: Path) -> None:
    store = tmp_path / "runs" / ".store"
    (tmp_path / "runs").mkdir(mode=0o755)
    Checkpoints(store / "checkpoints" / "train-1", "key", 0.0, "train", nobody_watches).write(Saved({}, {}))
    for folder in (store, store / "checkpoints", store / "checkpoints" / "train-1"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "runs").stat().st_mode & 0o777 == 0o755
