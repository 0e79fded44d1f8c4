"""What a caller may hand over as data, and what is refused at the door."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
import scipy.sparse

from fcnet.data.arrays import DataSet, Part, as_part, as_rows, check_finite, check_range
from fcnet.errors import FcnetError, InputError

X = np.arange(12.0).reshape(4, 3)
Y = np.array([0, 1, 1, 0])


def part(X=X, y=Y, *weights, n_in=3, n_out=2, kind=None):
    return as_part((X, y, *weights), n_in, n_out, "training data", kind)


# --- X -----------------------------------------------------------------------------------------------------------------


def test_rows_are_not_copied():
    assert as_rows(X, 3) is not None
    assert np.shares_memory(as_rows(X, 3), X)
    assert np.shares_memory(part().X, X)


def test_images_are_read_as_rows():
    images = np.random.default_rng(0).random((5, 28, 28))
    rows = as_rows(images, 784)
    assert rows.shape == (5, 784)
    assert np.shares_memory(rows, images)
    np.testing.assert_array_equal(rows[3], images[3].ravel())


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float16", "float32", "float64"])
def test_any_type_of_number(dtype):
    assert as_rows(np.ones((2, 3), dtype), 3).dtype == dtype


def test_one_dimension_is_one_number_a_row():
    assert as_rows(np.arange(5), 1).shape == (5, 1)


def test_lists():
    read = part([[0, 1, 2], [3, 4, 5]], [1, 0])
    assert read.X.shape == (2, 3)
    assert read.y.tolist() == [1, 0]
    assert read.kind == "labels"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones((4, 5)), "X has shape (4, 5): 5 numbers a row, but the network's first layer reads n_in=3."),
        (
            np.ones((4, 28, 28)),
            "X has shape (4, 28, 28): 784 numbers a row, but the network's first layer reads n_in=3.",
        ),
        (np.ones(4), "X has shape (4,): 1 numbers a row, but the network's first layer reads n_in=3."),
        (np.ones((0, 3)), "X is empty: its shape is (0, 3). Expected at least one row."),
        ([], "X is empty: its shape is (0,). Expected at least one row."),
        (np.ones((3, 0)), "X is empty: its shape is (3, 0)."),
        (7.0, "X is empty: its shape is ()."),
        (
            scipy.sparse.eye_array(4).tocsr(),
            "X has shape (4, 4): 4 numbers a row, but the network's first layer reads n_in=3.",
        ),
        (scipy.sparse.csr_array((0, 3)), "X is empty: its shape is (0, 3)."),
        (scipy.sparse.csr_array([[0, 0, 0], [0, 1, np.inf]]), "X contains infinity (first at row 1, column 2)."),
        (scipy.sparse.coo_array(np.eye(3, dtype=complex)), "X must hold numbers, got an array of complex128."),
        ([["a", "b", "c"]], "X must hold numbers, got an array of <U1. Encode text and categories as numbers first."),
        (np.array([[1, None, 3]], dtype=object), "X must hold numbers, got an array of object."),
        (np.ones((2, 3), complex), "X must hold numbers, got an array of complex128."),
        (np.zeros((2, 3), "datetime64[s]"), "X must hold numbers, got an array of datetime64[s]."),
        ([[1, 2, 3], [4, 5]], "X is not an array: its rows have different lengths."),
        (None, "X must hold numbers, got an array of object."),
    ],
)
def test_refused_rows(bad, message):
    with pytest.raises(InputError, match=re.escape(message)):
        as_rows(bad, 3)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "dok", "lil", "bsr"])
def test_a_sparse_matrix_stays_sparse_and_as_it_was(form):
    dense = np.array([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]])
    given = scipy.sparse.csr_array(dense).asformat(form)
    rows = as_rows(given, 3)
    assert rows.format == "csr"
    assert rows.has_canonical_format
    np.testing.assert_array_equal(rows.toarray(), dense)


def test_a_sparse_matrix_with_places_given_twice_is_summed_in_a_copy():
    given = scipy.sparse.csr_array((np.array([3.0, 1.0, 1.0]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    rows = as_rows(given, 3)
    np.testing.assert_array_equal(rows.toarray(), [[1.0, 0.0, 4.0]])
    assert given.nnz == 3


def test_a_sparse_number_beyond_float32_is_named():
    with pytest.raises(InputError, match=r"X contains 1e\+60 \(first beyond float32 in row 1\)"):
        check_range(as_rows(scipy.sparse.csr_array([[1.0, 0.0], [0.0, 1e60]])), "float32", "X")


@pytest.mark.parametrize(
    ("number", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")], ids=["nan", "inf", "-inf"]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinity_are_placed(number, word, dtype):
    bad = np.ones((6, 3), dtype)
    bad[4, 2] = bad[5, 0] = number
    message = f"X of the training data contains {word} (first at row 4, column 2). Remove such rows, or fill"
    with pytest.raises(InputError, match=re.escape(message)):
        part(bad, np.zeros(6, int))


def test_nan_is_found_beyond_the_first_block(monkeypatch):
    monkeypatch.setattr("fcnet.data.arrays._BLOCK", 8)
    bad = np.ones((100, 3))
    bad[77, 1] = np.nan
    with pytest.raises(InputError, match=r"NaN \(first at row 77, column 1\)"):
        check_finite(bad, "X")
    with pytest.raises(InputError, match=r"NaN \(first at row 77\)"):
        check_finite(bad[:, 1], "X")


def test_large_arrays_are_neither_copied_nor_checked_at_once():
    large = np.ones((500_000, 32), np.float32)  # 64 MB
    y = np.zeros(len(large), np.int64)
    tracemalloc.start()
    read = as_part((large, y), 32, 2, "training data")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.shares_memory(read.X, large)
    assert peak < 0.4 * large.nbytes


# --- y ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [Y, Y.astype("uint8"), Y.astype("float32"), Y.astype(bool), Y[:, None], Y.tolist()])
def test_labels(y):
    read = part(y=y)
    assert read.kind == "labels"
    assert read.y.dtype == np.int64
    assert read.y.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("dtype", ["float64", "int8", "bool"])
def test_one_hot_targets_are_labels(dtype):
    read = part(y=np.eye(2, dtype=dtype)[Y])
    assert read.kind == "labels"
    assert read.y.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    "y",
    [
        np.array([[0.9, 0.1], [0.2, 0.8], [1.0, 0.0], [0.0, 1.0]]),  # soft labels
        np.array([[1, 1], [0, 0], [1, 0], [0, 1]]),  # several classes at once, or none
        np.array([[2.0, -1.0]] * 4),
    ],
)
def test_values(y):
    read = part(y=y)
    assert read.kind == "values"
    np.testing.assert_array_equal(read.y, y)


def test_one_output_reads_values():
    for y in ([0.5, 1.5, 2.5, 3.5], [[0.5], [1.5], [2.5], [3.5]], [0, 1, 1, 0], [[1], [1], [1], [1]]):
        read = part(y=y, n_out=1)
        assert read.kind == "values"
        assert read.y.shape == (4, 1)
        np.testing.assert_array_equal(read.y.ravel(), np.ravel(y))


def test_validation_follows_the_training_data():
    one_hot = np.eye(2)[Y]
    assert part(y=one_hot, kind="values").kind == "values"  # the training data holds soft labels
    assert part(y=one_hot, kind="labels").kind == "labels"
    assert part(y=one_hot).kind == "labels"
    message = "y of the training data holds values, but the training data holds class labels. Expected the same kind."
    with pytest.raises(InputError, match=re.escape(message)):
        part(y=np.full((4, 2), 0.5), kind="labels")


@pytest.mark.parametrize(
    ("y", "n_out", "message"),
    [
        ([0, 1, 2, 1], 2, "y of the training data has the label 2 in row 2, but the network's 2 outputs stand for labels 0 to 1."),
        ([0, 1, 2, 1], 2, "Give the last layer n_out=3, or number the classes from 0."),
        ([0, -1, 1, 1], 2, "y of the training data has the label -1 in row 1, but the network's 2 outputs"),
        ([1, 0.5, 1, 0], 2, "y of the training data must hold integer class labels 0 to 1, got 0.5 in row 1."),
        ([1, 1e300, 1, 0], 2, "must hold integer class labels 0 to 1, got 1e+300 in row 1."),
        ([1, 0, 1, 0.5], 2, "For regression, end the network with a layer of n_out=1, or pass y of shape (n_rows, n_out)."),
        ([1, np.nan, 0, 0], 2, "y of the training data contains NaN (first at row 1)."),
        ([1, np.inf, 0, 0], 1, "y of the training data contains infinity (first at row 1)."),
        (["a", "b", "a", "b"], 2, "y of the training data must hold numbers (class labels 0, 1, ... or values), got an array of <U1."),
        (["a", "b", "a", "b"], 2, "numpy.unique(y, return_inverse=True)"),
        (np.array([0, 1, None, 1]), 2, "y of the training data must hold numbers (class labels 0, 1, ... or values), got an array of object."),
        ([[1], [2, 3], [4], [5]], 2, "y of the training data is not an array: its rows have different lengths."),
        ([0, 1, 1], 2, "The training data has 4 rows in X but y has shape (3,). Expected one target a row."),
        (1, 2, "The training data has 4 rows in X but y has shape (). Expected one target a row."),
        ([], 2, "The training data has 4 rows in X but y has shape (0,)."),
        (np.ones((4, 3)), 2, "y of the training data has shape (4, 3), but the network writes n_out=2 numbers a row."),
        (np.ones((4, 3)), 2, "Expected labels (n_rows,) or values (n_rows, 2)."),
        (np.ones((4, 2, 1)), 2, "y of the training data has shape (4, 2, 1), but the network writes n_out=2 numbers a row."),
        (np.ones((4, 2)), 1, "y of the training data has shape (4, 2), but the network writes n_out=1 numbers a row."),
    ],
)  # fmt: skip
def test_refused_targets(y, n_out, message):
    with pytest.raises(InputError, match=re.escape(message)):
        part(y=y, n_out=n_out)


def test_unsigned_labels_that_wrap_are_out_of_range():
    with pytest.raises(InputError, match="in row 0, but the network's 2 outputs"):
        part(y=np.array([2**64 - 1, 0, 0, 0], np.uint64))


# --- Row weights --------------------------------------------------------------------------------------------------------


def test_row_weights():
    read = part(X, Y, [0, 1, 2, 3])
    assert read.weights.dtype == np.float64
    assert read.weights.tolist() == [0, 1, 2, 3]
    assert part(X, Y, None).weights is None
    assert part().weights is None


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1, 1], "sample_weight of the training data must be 4 numbers, one a row, got int64 of shape (3,)."),
        (np.ones((4, 1)), "must be 4 numbers, one a row, got float64 of shape (4, 1)."),
        (1.0, "must be 4 numbers, one a row, got float64 of shape ()."),
        (["1", "1", "1", "1"], "must be 4 numbers, one a row, got <U1 of shape (4,)."),
        ([[1], [1, 1], [1], [1]], "sample_weight of the training data is not an array"),
        ([1, -1, 1, 1], "sample_weight of the training data must be 0 or above, and not all 0."),
        ([0, 0, 0, 0], "sample_weight of the training data must be 0 or above, and not all 0."),
        ([1, np.nan, 1, 1], "sample_weight of the training data contains NaN (first at row 1)."),
        ([1, 1, np.inf, 1], "sample_weight of the training data contains infinity (first at row 2)."),
    ],
)
def test_refused_row_weights(weights, message):
    with pytest.raises(InputError, match=re.escape(message)):
        part(X, Y, weights)


# --- Parts and sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (X, "ndarray"),
        ((X,), "a tuple of 1"),
        ([X, Y, None, None], "a list of 4"),
        ({"X": X}, "dict"),
        (None, "NoneType"),
    ],
)
def test_refused_data(data, found):
    message = f"validation data must be (X, y) or (X, y, sample_weight), got {found}."
    with pytest.raises(InputError, match=re.escape(message)):
        as_part(data, 3, 2, "validation data")


def test_a_list_of_all_parts_in_place_of_one_is_refused():
    with pytest.raises(InputError, match="X of the training data is not an array"):
        as_part([(X, Y), (X, Y), (X, Y)], 3, 2, "training data")


def test_a_part_passes_through():
    read = as_part(Part(X, Y, np.ones(4)), 3, 2, "training data")
    assert np.shares_memory(read.X, X)
    assert read.n_rows == 4
    with pytest.raises(InputError, match="n_in=7"):
        as_part(Part(X, Y), 7, 2, "training data")


def test_a_refusal_is_a_value_error_too():
    assert issubclass(InputError, FcnetError)
    assert issubclass(InputError, ValueError)


def test_data_set():
    train, test = Part(X, Y), Part(X[:2], Y[:2])
    data = DataSet("shapes", train, None, test, 2)
    assert data.n_in == 3
    assert data.part("train") is train
    assert data.part("test") is test
    with pytest.raises(InputError, match=r"shapes has no validation part\. It has: train, test\."):
        data.part("validation")
    with pytest.raises(InputError, match=r"Unknown part 'tests'\. Did you mean 'test'\? Expected one of: train, val"):
        data.part("tests")
