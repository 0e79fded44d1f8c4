"""Compiled kernels on the disk, and what Python may call them with."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fcnet.engines import stored
from fcnet.engines.native import library
from fcnet.engines.native.ahead import entry


@pytest.fixture
def other_folder(tmp_path, monkeypatch):
    """A folder of its own for kernels, for what reads and writes their files."""
    monkeypatch.setattr(library, "folder", lambda: tmp_path / "kernels")
    return tmp_path / "kernels"


def test_what_is_written_is_read(other_folder):
    path = other_folder / "a.float32.o"
    stored.write(path, b"symbol", b"code\nof several lines")
    assert stored.read(path) == (b"symbol", b"code\nof several lines")
    assert [one.name for one in other_folder.iterdir()] == ["a.float32.o"]


def test_where_compiled_code_lies(monkeypatch, tmp_path):
    """Where it is asked for; else in the user's caches; without platformdirs, where these are on most systems. Other sources, another folder."""
    source = tmp_path / "source.py"
    source.write_text("one")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    first = stored.folder("some", [source, tmp_path / "missing.py"], ["word"])
    assert first.parent == tmp_path
    assert stored.folder("some", [source], ["word"]) == first
    assert stored.folder("some", [source], ["other"]) != first
    source.write_text("two")
    assert stored.folder("some", [source], ["word"]) != first
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert stored.folder("some", [], []).parent == Path.home() / ".cache" / "fcnet"


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"", lambda b: b + b" ", lambda b: b.replace(b"code", b"cOde")]
)
def test_a_damaged_file_is_as_none(other_folder, damage):
    path = other_folder / "a.float32.o"
    stored.write(path, b"symbol", b"code")
    path.write_bytes(damage(path.read_bytes()))
    assert stored.read(path) is None


def test_a_damaged_kernel_is_compiled_again(tmp_path):
    """And not given to the loader, which would end the process."""
    program = "from fcnet.engines.native.ahead import entry; entry('lists.count_nonzeros', 'float32')"
    name = "lists.count_nonzeros.float32.o"
    whole = (library.folder() / name).read_bytes() if library.lies_there("lists.count_nonzeros", "float32") else None
    if whole is None:
        subprocess.run([sys.executable, "-c", program], check=True)
        whole = (library.folder() / name).read_bytes()
    (library.folder() / name).write_bytes(whole[:2000])
    subprocess.run([sys.executable, "-c", program], check=True)
    assert stored.read(library.folder() / name) is not None


def test_where_nothing_can_be_written_nothing_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    stored.write(tmp_path / "file" / "a.float32.o", b"symbol", b"code")
    assert stored.read(tmp_path / "file" / "a.float32.o") is None


def counted(array, counts):
    entry("lists.count_nonzeros", "float32")(array, counts)
    return counts.tolist()


def test_an_entry_reads_arrays_where_they_are():
    whole = np.array([[0, 1, 2], [0, 0, 3], [1, 1, 1]], np.float32)
    assert counted(whole, np.zeros(3, np.int64)) == [2, 1, 3]
    assert counted(whole[1:], np.zeros(2, np.int64)) == [1, 3]
    assert counted(whole[:0], np.zeros(0, np.int64)) == []
    assert counted(np.zeros((2, 0), np.float32), np.ones(2, np.int64)) == [0, 0]


def test_bound_arguments_come_first():
    counts = np.zeros(2, np.int64)
    bound = entry("lists.count_nonzeros", "float32").bind(np.ones((2, 5), np.float32))
    bound(counts)
    assert counts.tolist() == [5, 5]


@pytest.mark.parametrize(
    "array",
    [
        np.ones((2, 3)),
        np.ones((2, 3), ">f4"),
        np.ones(3, np.float32),
        np.ones((3, 2), np.float32).T,
        np.ones((2, 6), np.float32)[:, ::2],
    ],
)
def test_an_entry_takes_no_other_array(array):
    """It would read memory that is not the array's."""
    with pytest.raises(
        TypeError, match="count_nonzeros reads an array of float32 with 2 dimensions, row after row; got"
    ):
        counted(array, np.zeros(2, np.int64))


def test_an_entry_takes_all_its_arguments():
    with pytest.raises(ValueError, match="longer"):
        entry("lists.count_nonzeros", "float32")(np.ones((2, 3), np.float32))


def test_threads_that_load_at_once_load_once():
    program = """
import threading
from fcnet.engines.native import ahead, library
threads = [threading.Thread(target=ahead.entry, args=("steps.advance", "float64")) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ahead.entry("steps.advance", "float64")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_lock_of_the_interpreter_is_free_while_a_kernel_runs():
    """Or threads of the engine would wait for each other at a barrier for ever; two of them pass one here."""
    import fcnet

    network = fcnet.Network([fcnet.FullyConnectedLayer(200, 256, fcnet.relu), fcnet.SoftmaxLayer(256, 3)], 128)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(256, 200)).astype(np.float32), rng.integers(3, size=256)
    ended = threading.Event()

    def train():
        fcnet.train(network, data, epochs=2, engine="native", n_threads=2, verbose=False)
        ended.set()

    threading.Thread(target=train, daemon=True).start()
    assert ended.wait(60)


def test_a_place_outside_an_array_is_an_error_where_bounds_are_checked(tmp_path):
    """So that ``make soak`` proves something: kernels are compiled anew for it, with checks."""
    program = """
import numpy as np
from fcnet.engines.native import library
try:
    library.Entry("lists.count_nonzeros", "float32")(np.ones((3, 5), np.float32), np.zeros(2, np.int64))
except RuntimeError as error:
    print(error)
"""
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(
        "the kernel lists.count_nonzeros failed: it read or wrote at a place outside an array"
    )
