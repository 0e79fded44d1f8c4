"""One door: names, folders and files."""

from __future__ import annotations

import pickle
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
        with pytest.raises(InputError, match=rf"{name} is a table, which is not read yet. Save .*numpy.savez"):
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


@pytest.mark.parametrize(
    "content", [b"", b"no array", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False"]
)
def test_damaged_npy_files(tmp_path, content):
    (tmp_path / "rows.npy").write_bytes(content)
    with pytest.raises(FileError, match=r"rows\.npy cannot be read"):
        load_rows(tmp_path / "rows.npy")


def test_npy_files_of_objects_are_refused(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([{}, []], object), allow_pickle=True)
    with pytest.raises(FileError, match="cannot be read"):
        load_rows(tmp_path / "rows.npy")
