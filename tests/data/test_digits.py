"""scikit-learn's digits, read without scikit-learn."""

from __future__ import annotations

import gzip
import importlib.machinery
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from fcnet.data.digits import digits
from fcnet.errors import FileError


def test_digits():
    data = digits()
    parts = data.train, data.validation, data.test
    assert data.name == "digits"
    assert data.n_classes == 10
    assert [part.X.shape for part in parts] == [(1197, 64), (300, 64), (300, 64)]
    for part in parts:
        assert part.X.dtype == np.float32
        assert (part.X.min(), part.X.max()) == (0.0, 1.0)
        assert part.y.dtype == np.int64
        assert part.weights is None
    for part in (data.validation, data.test):
        assert np.bincount(part.y).min() >= 28
        assert np.bincount(part.y).max() <= 32


def test_the_rows_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    data = digits()
    found = sorted(
        (*(part.X[row] * 16).tolist(), int(part.y[row]))
        for part in (data.train, data.validation, data.test)
        for row in range(part.n_rows)
    )
    assert found == sorted((*pixels, int(label)) for pixels, label in zip(X.tolist(), y, strict=True))


def test_two_calls_agree():
    np.testing.assert_array_equal(digits().train.X, digits().train.X)


def test_scikit_learn_is_not_imported():
    program = "import sys; from fcnet.data.digits import digits; digits(); print('sklearn' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileError, match=r"come with scikit-learn, which is not installed. Install it: python -m pip"):
        digits()


def installed(monkeypatch, folder, content: bytes | None) -> None:
    """Stand another scikit-learn in for the installed one."""
    spec = importlib.machinery.ModuleSpec("sklearn", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    if content is not None:
        (folder / "datasets" / "data").mkdir(parents=True)
        (folder / "datasets" / "data" / "digits.csv.gz").write_bytes(content)


def test_a_missing_table_is_named(tmp_path, monkeypatch):
    installed(monkeypatch, tmp_path, None)
    with pytest.raises(FileError, match=r"has no .*digits.csv.gz. Install scikit-learn again"):
        digits()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is not the table of digits: its shape is \(0,\)"),
        ("1,2\n3,4\n", r"is not the table of digits: its shape is \(2, 2\). Expected \(1797, 65\)"),
        ("1,2\n3\n", "is not a table of numbers"),
        ("<html></html>", "is not a table of numbers"),
        ((",".join(["17"] * 65) + "\n") * 1797, "64 pixels from 0 to 16 and a label from 0 to 9"),
        ((",".join(["0"] * 64 + ["10"]) + "\n") * 1797, "64 pixels from 0 to 16 and a label from 0 to 9"),
    ],
)
def test_another_table_is_refused(tmp_path, monkeypatch, text, message):
    installed(monkeypatch, tmp_path, gzip.compress(text.encode()))
    with pytest.raises(FileError, match=message):
        digits()
