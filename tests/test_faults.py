"""Faults at every file operation of a checkpoint: the folder loads to the old state or to the new one, never to neither."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import fcnet
from fcnet import checkpoint as checkpoints
from fcnet import keeper as keeping
from fcnet import loop, training
from fcnet.checkpoint import Checkpoint, EpochSoFar, load_checkpoint
from fcnet.engines.contract import TrainState
from fcnet.errors import FileError
from fcnet.history import History
from fcnet.keeper import Keeper, checkpoint_files, newest_checkpoint


class Crash(BaseException):
    """The process is gone."""


OPERATIONS = ("listdir", "open", "write", "fsync", "close", "replace", "unlink")


class Disk:
    """The module ``os``, with a fault at one of its calls; knows what a power loss would take.

    Attributes:
        calls: the operations so far.
        at, fault: which call goes wrong, and how.
    """

    def __init__(self, at=-1, fault=None):
        self.at, self.fault, self.calls = at, fault, []
        self.names, self.unsynced, self.renamed = {}, set(), []

    def __getattr__(self, name):
        real = getattr(os, name)
        return (lambda *arguments: self._call(name, real, *arguments)) if name in OPERATIONS else real

    def _call(self, name, real, *arguments):
        self.calls.append(name)
        if len(self.calls) - 1 != self.at:
            return self._do(name, real, *arguments)
        if isinstance(self.fault, int):
            if name == "close":
                real(*arguments)
            raise OSError(self.fault, os.strerror(self.fault))
        if self.fault == "short write":
            if name == "write":
                return self._do(name, real, arguments[0], arguments[1][: max(1, len(arguments[1]) // 3)])
            return self._do(name, real, *arguments)
        if self.fault == "crash within" and name == "write":
            self._do(name, real, arguments[0], arguments[1][: len(arguments[1]) // 2])
        if self.fault == "crash after":
            self._do(name, real, *arguments)
        raise Crash

    def _do(self, name, real, *arguments):
        answer = real(*arguments)
        if name == "open":
            self.names[answer] = Path(arguments[0])
        elif name == "write":
            self.unsynced.add(self.names[arguments[0]])
        elif name == "fsync":
            synced = self.names[arguments[0]]
            self.unsynced.discard(synced)
            self.renamed = [pair for pair in self.renamed if pair[1].parent != synced]
        elif name == "replace":
            source, target = map(Path, arguments)
            self.renamed.append((source, target))
            if source in self.unsynced:
                self.unsynced.add(target)
        return answer

    def lose_power(self):
        """What was not synced is gone: halves of files, and names."""
        for file in self.unsynced:
            if file.exists():
                os.truncate(file, file.stat().st_size // 2)
        for source, target in self.renamed:
            target.replace(source)


def state(step):
    """A checkpoint that is told by its step."""
    arrays = {"layers.0.weights": np.full((3, 2), step, np.float32), "layers.0.biases": np.zeros(2, np.float32)}
    slots = {"velocity": {name: array + 1 for name, array in arrays.items()}}
    return Checkpoint(
        TrainState(arrays, slots, step), arrays, History("native", "cpu", None, 10), EpochSoFar(1.5, 2.0, 0.1)
    )


def write(folder, step):
    Keeper(folder)._write(state(step))


@contextlib.contextmanager
def on(disk, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "os", disk)
        patch.setattr(keeping, "os", disk)
        yield


FAULTS = [errno.ENOSPC, errno.EIO, errno.EROFS, "short write", "crash before", "crash within", "crash after"]


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: errno.errorcode.get(fault, fault))
def test_a_fault_at_every_operation(tmp_path, monkeypatch, fault, power):
    before = tmp_path / "before"
    for step in (1, 2, 3):
        write(before, step)
    counting = Disk()
    shutil.copytree(before, tmp_path / "clean")
    with on(counting, monkeypatch):
        write(tmp_path / "clean", 4)
    assert counting.calls.count("fsync") == 2
    assert set(counting.calls) == set(OPERATIONS)
    for at in range(len(counting.calls)):
        folder = tmp_path / str(at)
        shutil.copytree(before, folder)
        disk = Disk(at, fault)
        whole = False
        with on(disk, monkeypatch), contextlib.suppress(FileError, Crash):
            write(folder, 4)
            whole = True
        if power:
            disk.lose_power()
        found = newest_checkpoint(folder)
        assert found.state.step in ((4,) if whole else (3, 4)), (at, counting.calls[at])
        assert (found.state.parameters["layers.0.weights"] == found.state.step).all()
        write(folder, 5)
        assert newest_checkpoint(folder).state.step == 5
        with Keeper(folder):
            pass
        assert not list((folder / "checkpoints").glob("*.partial"))
        assert len(checkpoint_files(folder)) <= 3


def test_a_training_survives_a_disk_that_is_full_for_a_while(tmp_path, monkeypatch, capsys):
    """It goes on, says so once, tries again, and ends with the same bytes and a checkpoint of its end."""
    data = np.eye(12, dtype=np.float32), np.arange(12) % 3

    def fit(**options):
        network = fcnet.Network([fcnet.FullyConnectedLayer(12, 8), fcnet.SoftmaxLayer(8, 3)], 4)
        training.train(network, data, epochs=60, verbose=False, engine="native", device="cpu", **options)
        return {name: array.tobytes() for name, array in network.arrays.items()}

    whole = fit()
    replace, calls = os.replace, []

    def full(*arguments):
        calls.append(arguments)
        if 2 <= len(calls) < 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(*arguments)

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(keeping, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(keeping, "_SHARE", 0)

    def at_once(self, *rest, offer=Keeper.state_is_whole):
        offer(self, *rest)
        if self._writer is not None:
            self._writer.join()
        self._pause = 0.0

    monkeypatch.setattr(Keeper, "state_is_whole", at_once)
    assert fit(checkpoint=tmp_path) == whole
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if "No space left on device" in line]) == 1
    assert "Training goes on, and it is tried again." in said[0]
    assert said[-1].startswith("fcnet: checkpoints are written again, at step ")
    assert newest_checkpoint(tmp_path).state.step == 180


@pytest.mark.parametrize("harm", ["vanished", "a file in its place"])
def test_a_folder_that_vanishes(tmp_path, capsys, harm):
    folder = tmp_path / "run"

    def vanish(record):
        if record.epoch == 1:
            folder.rename(tmp_path / "gone")  # at once, whatever is being written
            if harm != "vanished":
                folder.write_text("")

    network = fcnet.Network([fcnet.SoftmaxLayer(3, 3)], 1)
    training.train(
        network, (np.eye(3), np.arange(3)), epochs=5, verbose=False, device="cpu", checkpoint=folder, callbacks=[vanish]
    )
    if harm == "vanished":
        assert newest_checkpoint(folder).state.step == 15
    else:
        assert "Training goes on" in capsys.readouterr().err


def test_the_folder_of_a_run_is_on_the_disk_before_its_checkpoints(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(keeping, "sync_folder", lambda folder: synced.append(folder))
    with Keeper(tmp_path / "runs" / "mine"):
        pass
    assert synced == [tmp_path / "runs" / "mine", tmp_path / "runs"]


def test_a_disk_that_is_full_from_the_start(tmp_path, monkeypatch):
    """The lock cannot say who holds it: refused before training, and nobody holds it then."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(
            FileError, match=r"Checkpoints cannot be written into .*: No space left on device\. Choose another folder\."
        ):
            Keeper(tmp_path).__enter__()
    with Keeper(tmp_path):
        pass


def test_numbers_that_overflow_at_the_end_of_a_chunk_are_no_checkpoint(tmp_path, monkeypatch):
    """The step's cost was finite, its update was not: nothing could go on from there."""
    monkeypatch.setattr(loop, "FIRST_CHUNK", 1)
    monkeypatch.setattr(keeping, "_SHARE", 0)
    network = fcnet.Network([fcnet.FullyConnectedLayer(2, 1, fcnet.linear)], 2)
    with pytest.raises(fcnet.DivergenceError, match="at step 1 "):
        training.train(
            network, (1e3 * np.ones((8, 2)), np.full((8, 1), 1e3)), epochs=1, optimizer=fcnet.SGD(1e38), engine="native",
            device="cpu", verbose=False, checkpoint=tmp_path, checkpoint_every="0s",
        )  # fmt: skip
    assert [load_checkpoint(file).state.step for file in checkpoint_files(tmp_path)] == [0]
