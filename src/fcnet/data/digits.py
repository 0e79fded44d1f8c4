"""The digits that come with scikit-learn: 1,797 images of 8 x 8 pixels, for a first network without a download.

Source: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning Repository, 1998
(its test set).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from fcnet.data.arrays import DataSet
from fcnet.data.files import DECOMPRESSED_LIMIT, open_content, read_some
from fcnet.data.split import split
from fcnet.errors import FileError

_SHAPE = (1797, 65)


def digits() -> DataSet:
    """1,797 digits in 10 classes: 1,197 rows to train, 300 to validate, 300 to test; 64 pixels from 0 to 1, float32.

    The table is read from the installed scikit-learn without importing it. Its pixels, 0 to 16, are divided by 16.

    Raises:
        FileError: scikit-learn is not installed, or its table is missing or damaged.
    """
    path = _table()
    with open_content(path) as stream:
        text = read_some(stream, DECOMPRESSED_LIMIT).decode("latin-1")
    try:
        table = np.array([line.split(",") for line in text.splitlines()], dtype=np.float64)
    except ValueError as error:
        raise FileError(f"{path} is not a table of numbers: {error}. Install scikit-learn again.") from None
    pixels, labels = table[:, :-1] if table.ndim == 2 else table, table[..., -1:]
    fits = table.shape == _SHAPE and np.isin(pixels, np.arange(17)).all() and np.isin(labels, np.arange(10)).all()
    if not fits:
        raise FileError(
            f"{path} is not the table of digits: its shape is {table.shape}. Expected {_SHAPE}, 64 pixels from 0 to 16 "
            "and a label from 0 to 9 a row. Install scikit-learn again."
        )
    X = pixels.astype(np.float32) / np.float32(16)
    y = labels[:, 0].astype(np.int64)
    return split(X, y, seed=0, validation=300 / 1797, test=300 / 1797, name="digits", n_classes=10)


def _table() -> Path:
    """Where the installed scikit-learn keeps its digits."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise FileError(
            "The digits come with scikit-learn, which is not installed. Install it: python -m pip install scikit-learn"
        )
    path = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if not path.is_file():
        raise FileError(f"The installed scikit-learn has no {path}. Install scikit-learn again.")
    return path
