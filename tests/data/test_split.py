"""Random splits: nothing lost, nothing twice, every class in its proportion, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fcnet.data.arrays import Part
from fcnet.data.split import folds, hold_out, split
from fcnet.errors import InputError


def rows_of(data) -> list[np.ndarray]:
    """The row numbers in each part, where X holds them."""
    return [part.X[:, 0] for part in (data.train, data.validation, data.test)]


def cut(y, **options):
    y = np.asarray(y)
    X = np.arange(len(y), dtype=np.float64)[:, None]
    n_classes = int(y.max()) + 1 if y.ndim == 1 else None
    return split(X, y, **{"name": "rows", "n_classes": n_classes, **options})


labels = st.lists(st.integers(0, 4), min_size=3, max_size=200)
shares = st.floats(0.02, 0.6)


@given(labels, shares, shares, st.integers(0, 2**64 - 1))
def test_every_row_lands_in_one_part_with_its_target(y, validation, test, seed):
    n_validation, n_test = max(1, round(len(y) * validation)), max(1, round(len(y) * test))
    assume(n_validation + n_test < len(y))
    data = cut(y, validation=validation, test=test, seed=seed)
    train_rows, validation_rows, test_rows = rows_of(data)
    assert (len(validation_rows), len(test_rows)) == (n_validation, n_test)
    assert sorted([*train_rows, *validation_rows, *test_rows]) == list(range(len(y)))
    for part in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(part.y, np.asarray(y)[part.X[:, 0].astype(int)])
    assert data.n_classes == max(y) + 1


@given(labels, shares, shares, st.integers(0, 1000))
def test_every_part_holds_the_classes_in_proportion(y, validation, test, seed):
    assume(max(1, round(len(y) * validation)) + max(1, round(len(y) * test)) < len(y))
    data = cut(y, validation=validation, test=test, seed=seed)
    counts = np.bincount(y, minlength=5)
    n_present = np.count_nonzero(counts)
    for part in (data.train, data.validation, data.test):
        expected = counts * (part.n_rows / len(y))
        found = np.bincount(part.y, minlength=5)
        assert (np.abs(found - expected) <= 1 + counts * n_present / len(y)).all()


def test_equal_classes_are_split_equally():
    data = cut(np.repeat(np.arange(10), 60))
    assert np.bincount(data.test.y).tolist() == [10] * 10
    assert np.bincount(data.validation.y).tolist() == [10] * 10
    assert np.bincount(data.train.y).tolist() == [40] * 10


def test_a_class_of_one_row_is_for_training():
    y = np.zeros(60, np.int64)
    y[17] = 1
    for seed in range(20):
        assert 17 in rows_of(cut(y, seed=seed))[0]


def test_a_seed_decides_the_split():
    y = np.arange(100) % 2
    first, again, other = (rows_of(cut(y, seed=seed)) for seed in (3, 3, 4))
    for rows, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(rows, same)
    assert first[0].tolist() != other[0].tolist()


def test_the_order_is_random_within_each_part():
    data = cut(np.repeat(np.arange(4), 100))
    for rows in rows_of(data):
        assert rows.tolist() != sorted(rows)
    assert np.abs(np.diff(data.train.y)).mean() == pytest.approx(1.25, abs=0.25)  # as in independent draws


def test_values_are_split_by_rows_alone():
    y = np.linspace(0, 1, 60)[:, None]
    data = cut(y)
    assert [part.n_rows for part in (data.train, data.validation, data.test)] == [40, 10, 10]
    assert data.train.kind == "values"
    assert data.n_classes is None
    np.testing.assert_array_equal(data.test.y, y[data.test.X[:, 0].astype(int)])


def test_weights_go_with_their_rows():
    weights = np.arange(30, dtype=np.float64)
    X = np.arange(30, dtype=np.float64)[:, None]
    data = split(X, np.zeros(30, np.int64), weights, name="weighted", n_classes=1)
    for part in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(part.weights, part.X[:, 0])
    assert cut(np.zeros(30, int)).train.weights is None


def test_three_rows_are_enough():
    data = cut([0, 1, 2])
    assert [part.n_rows for part in (data.train, data.validation, data.test)] == [1, 1, 1]


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_rows_are_refused(n):
    with pytest.raises(InputError, match=rf"rows has {n} row\(s\), too few to split .* Expected at least 3"):
        cut(np.zeros(n, int))


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), "a sixth", None])
def test_a_share_outside_0_and_1_is_refused(share):
    for name in ("validation", "test"):
        with pytest.raises(InputError, match=f"{name} must be a share of the rows between 0 and 1"):
            cut(np.zeros(30, int), **{name: share})


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(InputError, match=r"validation=0.5 and test=0.5 leave no training row of the 30 in rows"):
        cut(np.zeros(30, int), validation=0.5, test=0.5)


def test_arrays_of_unequal_length_are_refused():
    X = np.zeros((5, 1))
    with pytest.raises(InputError, match=r"table has 5 rows in X, 4 in y\. Expected as many in each"):
        split(X, np.zeros(4, np.int64), name="table", n_classes=1)
    with pytest.raises(InputError, match=r"table has 5 rows in X, 5 in y and 3 in weights"):
        split(X, np.zeros(5, np.int64), np.ones(3), name="table", n_classes=1)


def test_a_wrong_seed_is_refused():
    with pytest.raises(InputError, match="seed must be an integer"):
        cut(np.zeros(30, int), seed=0.5)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=100), st.floats(0.05, 0.6), st.integers(0, 1000))
def test_hold_out_cuts_a_part_in_two_and_keeps_the_order(y, fraction, seed):
    n_held = max(1, round(len(y) * fraction))
    assume(n_held < len(y))
    y = np.asarray(y)
    part = Part(np.arange(len(y))[:, None], y, np.arange(len(y), dtype=np.float64))
    rest, held = hold_out(part, fraction, seed)
    assert held.n_rows == n_held
    assert sorted([*rest.X[:, 0], *held.X[:, 0]]) == list(range(len(y)))
    for piece in (rest, held):
        assert (np.diff(piece.X[:, 0]) > 0).all()
        np.testing.assert_array_equal(piece.y, y[piece.X[:, 0]])
        np.testing.assert_array_equal(piece.weights, piece.X[:, 0])
    counts, found = np.bincount(y), np.bincount(held.y, minlength=y.max() + 1)
    assert (np.abs(found - counts * n_held / len(y)) <= 1 + counts * len(counts) / len(y)).all()


def test_hold_out_refuses_what_leaves_nothing():
    part = Part(np.zeros((4, 1)), np.zeros(4, np.int64))
    with pytest.raises(InputError, match=r"fraction=0.9 holds out all 4 rows"):
        hold_out(part, 0.9)
    with pytest.raises(InputError, match=r"X_train has 1 row\(s\), too few to hold some out"):
        hold_out(Part(np.zeros((1, 1)), np.zeros(1, np.int64)), 0.5, name="X_train")
    with pytest.raises(InputError, match="fraction must be a share"):
        hold_out(part, 2)


def test_folds_are_equally_large_and_hold_the_classes_in_proportion():
    y = np.repeat([0, 1, 2], [60, 30, 15])
    fold = folds(y, 5, seed=3)
    counts = np.array([np.bincount(y[fold == number], minlength=3) for number in range(5)])
    assert (counts == [12, 6, 3]).all()
    assert (fold == folds(y, 5, seed=3)).all()
    assert (fold != folds(y, 5, seed=4)).any()
    assert np.bincount(folds(np.zeros((11, 1)), 4)).tolist() == [3, 3, 3, 2]
