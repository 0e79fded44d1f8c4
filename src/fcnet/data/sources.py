"""One door to every data set: a name, a folder or a file."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet.counters import check_seed
from fcnet.data.arrays import DataSet, as_rows
from fcnet.data.book import read_book_pickle
from fcnet.data.digits import digits
from fcnet.data.files import is_table, what_is_at
from fcnet.data.idx import as_pixels, read_idx_folder
from fcnet.data.mnist import mnist
from fcnet.data.npy import map_npy
from fcnet.data.npz import read_npz
from fcnet.errors import InputError, did_you_mean
from fcnet.host import room_for

_NAMED = {"digits": digits, "mnist": mnist}
_BOOK = (".pkl", ".pkl.gz", ".pickle", ".pickle.gz")
_ACCEPTED = (
    "'digits', 'mnist', a folder with IDX files, a .npz file with X and y (or X_train, y_train, ...), or the book's "
    "mnist.pkl.gz"
)


def load_data(source: str | Path, seed: int = 0) -> DataSet:
    """The data set that a name or a path stands for.

    Args:
        source: "digits", "mnist", a folder with IDX files, a ``.npz`` file, or the book's ``.pkl.gz``. A folder of the
            name "mnist" is meant by "./mnist".
        seed: decides the split of a ``.npz`` file that comes without one; the others come split.

    Raises:
        InputError: a source that is none of these.
        FileError: a file or folder that cannot be read.
        DownloadError: MNIST is not on this machine and cannot be fetched.
        OutOfMemoryError: the data does not fit into memory.
    """
    check_seed(seed)
    with room_for(f"The data in {source}"):
        return _load(source, seed)


def _load(source: str | Path, seed: int) -> DataSet:
    if isinstance(source, str) and source in _NAMED:
        return _NAMED[source]()
    if not isinstance(source, str | Path) or not str(source):
        what = "an empty text" if isinstance(source, str) else type(source).__name__
        raise InputError(f"A data source is a name or a path, got {what}. Expected {_ACCEPTED}.")
    path = Path(source)
    name = path.name.lower()
    found = what_is_at(path)
    if found == "folder":
        return read_idx_folder(path)
    if name.endswith(".npz"):
        return read_npz(path, seed)
    if name.endswith(_BOOK):
        return read_book_pickle(path)
    if is_table(name):
        raise InputError(
            f"{source} is a table, whose columns become numbers by what they hold. Train on it with fcnet.TabularClassifier or "
            "TabularRegressor, or with fcnet train and --target; a network so trained reads tables."
        )
    if found != "nothing":
        raise InputError(f"{source} is a file of an unknown kind. Expected {_ACCEPTED}.")
    raise InputError(
        f"There is no data set, file or folder {str(source)!r}.{did_you_mean(str(source), _NAMED)} "
        f"Expected {_ACCEPTED}."
    )


def load_rows(source: str | Path, part: str = "test") -> NDArray[Any]:
    """Inputs to predict for: X of a data set's part, or the rows of a ``.npy`` file, ``(n_rows, n_in)``.

    Bytes beyond 1 in a ``.npy`` file are pixels and are divided by 255, as everywhere.

    Args:
        source: as for ``load_data``, or a ``.npy`` file that holds X alone.
        part: "train", "validation" or "test", where the source has parts.

    Raises:
        InputError, FileError, DownloadError: as ``load_data``.
    """
    if not str(source).lower().endswith(".npy"):
        return load_data(source).part(part).X
    path = Path(source)
    with contextlib.suppress(RuntimeError):  # a user whom nobody knows: then it is the name of a file
        path = path.expanduser()
    with room_for(f"The data in {source}"):
        rows = as_rows(map_npy(path), name=str(path))
        return as_pixels(rows) if rows.dtype == np.uint8 and rows.max() > 1 else rows
