"""One door: names, folders and files."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fcnet.data import sources
from fcnet.data.sources import load_data, load_rows
from fcnet.errors import FileError, InputError

X = np.linspace(0, 1, 60).reshape(30, 2)
Y = np.arange(30) % 3


def test_digits_by_name():
    assert load_data("digits").name == "digits"


def test_mnist_by_name(monkeypatch, tmp_path):
    monkeypatch.setitem(sources._NAMED, "mnist", lambda: "mnist")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert load_data("mnist") == "mnist"
    with pytest.raises(FileError, match="has no file of training images"):
        load_data("./mnist")
    with pytest.raises(FileError, match="has no file of training images"):
        load_data(Path("mnist"))


def test_a_folder_of_idx_files(shared_data):
    assert load_data(shared_data / "mnist").train.n_rows == 50_000


@pytest.mark.parametrize("kind", [str, Path])
def test_an_npz_file(tmp_path, kind):
    np.savez(tmp_path / "data.npz", X=X, y=Y)
    first = load_data(kind(tmp_path / "data.npz"))
    assert first.n_classes == 3
    other = load_data(kind(tmp_path / "data.npz"), seed=5)
    assert first.train.X.tolist() != other.train.X.tolist()


@pytest.mark.parametrize("name", ["mnist.pkl", "mnist.pkl.gz", "mnist.PKL", "mnist.pickle"])
def test_the_book_s_pickle(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(((X, Y),) * 3, protocol=2))
    assert load_data(tmp_path / name).test.n_rows == 30


@pytest.mark.parametrize("name", ["data.npz", "mnist.pkl.gz"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileError, match=f"There is no file .*{name}"):
        load_data(tmp_path / name)


@pytest.mark.parametrize("name", ["data.csv", "data.CSV", "data.csv.gz", "data.tsv", "data.parquet"])
def test_tables_are_refused(tmp_path, name):
    for source in (name, tmp_path / name):
        with pytest.raises(InputError, match=rf"{name} is a table, .* fcnet.TabularClassifier"):
            load_data(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnits", r"There is no data set, file or folder 'mnits'. Did you mean 'mnist'\? Expected 'digits', 'mnist'"),
        ("Digits", r"Did you mean 'digits'\?"),
        ("nothing like it", r"'nothing like it'. Expected 'digits', 'mnist', a folder with IDX files, a .npz file"),
        ("", "A data source is a name or a path, got an empty text. Expected 'digits'"),
        ("a\0b", "There is no data set, file or folder"),
    ],
)
def test_an_unknown_name_is_refused(source, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_data(source)


def test_a_file_of_an_unknown_kind_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"is a file of an unknown kind. Expected 'digits'"):
        load_data(path)


@pytest.mark.parametrize("source", [None, 3, b"digits", X])
def test_what_is_no_path_is_refused(source):
    with pytest.raises(InputError, match="A data source is a name or a path, got "):
        load_data(source)


def test_a_path_that_cannot_be_reached_is_refused():
    with pytest.raises(FileError, match="cannot be reached: File name too long"):
        load_data("x" * 5000)


def test_rows_of_a_npy_file(tmp_path):
    X = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "rows.npy", X)
    assert_array_equal(load_rows(tmp_path / "rows.npy"), X)


def test_pixels_of_a_npy_file_are_scaled(tmp_path):
    np.save(tmp_path / "pixels.npy", np.array([[[0, 255]], [[51, 0]]], np.uint8))
    assert_array_equal(load_rows(tmp_path / "pixels.npy"), np.array([[0, 1], [0.2, 0]], np.float32))


def test_rows_of_a_part():
    assert_array_equal(load_rows("digits", "validation"), load_data("digits").validation.X)
    with pytest.raises(InputError, match=r"Unknown part 'valid'\. Did you mean 'validation'\?"):
        load_rows("digits", "valid")


def header(shape: str, descr: str = "<f8", n_bytes: int = 24) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(n_bytes)


def packed() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, X=X)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False",
        packed(),
        b"\x93NUMPY\x09\x00",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",  # a header of 4 GiB
        b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 8192,
        b"\x93NUMPY\x01\x00\x00\x20" + b"-" * 8192,
        b'\x93NUMPY\x01\x00\x03\x00"""',
        header("(3, 2)"),
        header("(3,)", n_bytes=25),
        header("(-1, -3)"),
        header(f"({2**40}, {2**40})"),
        header(f"({2**70},)"),
        header(f"(0x{'f' * 8000},)"),
        header(f"({2**62}, {2**62}, 0)", n_bytes=0),
        header("(" + "1, " * 100 + "3)"),
        header("(True, 3)", n_bytes=25),
    ],
)
def test_damaged_npy_files(tmp_path, content):
    (tmp_path / "rows.npy").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(FileError, match=r"rows\.npy cannot be read.*Expected an array that numpy.save wrote") as caught:
        load_rows(tmp_path / "rows.npy")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    assert len(str(caught.value)) < 1000


def test_npy_files_of_objects_are_refused(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([{}, []], object), allow_pickle=True)
    with pytest.raises(FileError, match=r"rows\.npy is an array of Python objects.*a pickle can run code"):
        load_rows(tmp_path / "rows.npy")


def test_npy_files_by_python_2_and_empty_ones(tmp_path):
    (tmp_path / "rows.npy").write_bytes(header("(3L, 1L)"))
    assert load_rows(tmp_path / "rows.npy").shape == (3, 1)
    (tmp_path / "rows.npy").write_bytes(header("(0, 5)", n_bytes=0))
    with pytest.raises(InputError, match=r"rows\.npy is empty: its shape is \(0, 5\)"):
        load_rows(tmp_path / "rows.npy")
    (tmp_path / "rows.npy").write_bytes(header("(3,)", "a8"))
    with pytest.raises(FileError, match=r"rows\.npy is an array of text"):
        load_rows(tmp_path / "rows.npy")


def test_rows_stay_in_their_file(tmp_path):
    np.save(tmp_path / "rows.npy", np.asfortranarray(np.arange(12.0).reshape(3, 4)))
    rows = load_rows(str(tmp_path / "rows.npy"))
    assert not rows.flags.writeable  # a map of the file, not a copy
    assert_array_equal(rows, np.arange(12.0).reshape(3, 4))


NAMES = ["data.npz", "mnist.pkl.gz", "rows.npy"]


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileError, match=rf"{name} is a device or a pipe. Expected a file: save the data to one"):
        load_rows(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(FileError, match=rf"{name} is a device or a pipe"):
        load_rows(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_leads_nowhere_is_refused(tmp_path, name):
    for path in (tmp_path / name, f"~nobody-of-this-name/{name}", f"a\0{name}"):
        with pytest.raises(FileError, match=rf"There is no file .*{name}"):
            load_rows(path)
    (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(FileError, match="cannot be reached: Too many levels of symbolic links"):
        load_rows(tmp_path / name)
    with pytest.raises(FileError, match="cannot be reached: File name too long"):
        load_rows("x" * 5000 + name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_may_not_be_read_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    (tmp_path / name).chmod(0)
    with pytest.raises(FileError, match=rf"{name} cannot be opened: Permission denied"):
        load_rows(tmp_path / name)
