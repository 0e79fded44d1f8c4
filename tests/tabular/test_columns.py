"""Columns as features: what each is taken for, and what becomes of it."""

from __future__ import annotations

import datetime
import json

import numpy as np
import polars
import pytest
from scipy import sparse

from fcnet.data.table import read_table
from fcnet.errors import InputError
from fcnet.tabular.columns import Columns, column_of, describe, id_like
from fcnet.tabular.frames import as_frame
from fcnet.tabular.leaks import leaking
from fcnet.tabular.values import days_of, text_of


def series(values, **options):
    return polars.Series("c", values, **options)


def test_a_number_is_scaled_by_median_and_quartiles_and_bent():
    column = column_of(series([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (column.kind, column.center, column.scale, column.width) == ("number", 3.0, 0.5, 1)
    u = (np.array([3.0, 5.0, 1e300, -1e6]) - 3.0) * 0.5
    expected = 10.0 * np.arcsinh(np.clip(u, -1e100, 1e100) / 10.0)
    np.testing.assert_allclose(column.encode(series([3.0, 5.0, 1e300, -1e6]), 1)[:, 0], expected, rtol=1e-5)
    assert u[1] == 1.0
    before = Columns.from_json({
        "columns": [{"kind": "number", "name": "c", "missing": 0, "distinct": 5, "center": 3.0, "scale": 0.5, "flag": False, "knots": []}],
        "n_rows": 5, "sparse": False,
    })  # fmt: skip
    bounded = [0.0, 1.0 / np.sqrt(1 + 1 / 9), 3.0, -3.0]  # as files before version 4 have it
    np.testing.assert_allclose(
        before.encode(polars.DataFrame({"c": [3.0, 5.0, 1e300, -1e6]}))[:, 0], bounded, rtol=1e-5
    )
    assert column_of(series([0, 0, 0, 0, 0, 0, 0, 8])).scale == 0.25  # quartiles that are equal: half of the range


def test_a_number_in_linear_pieces():
    column = column_of(series([0.0, 1.0, 1.0, 2.0, 4.0, 8.0, None]), pieces=2)
    assert (column.knots, column.width) == ((0.0, 1.0, 8.0), 4)
    encoded = column.encode(series([0.0, 0.5, 1.0, 4.5, 8.0, 1e9, None]), 1)
    np.testing.assert_allclose(
        encoded[:, 1:3], [[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1], [1, 1], [1, 0.5 / 7]], atol=1e-6
    )
    assert encoded[:, 3].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert "2 linear pieces, a flag where missing" in column.treatment
    assert column_of(series([1.0, 2.0, 1.0]), pieces=2).knots == ()  # two values are one piece
    assert column_of(series([0, 0, 0, 0, 0, 0, 9, 5]), pieces=4).knots == (0.0, 5.0, 9.0)
    assert not set(np.diff(column_of(series([1e300, -1e300, 0.0, 1.0]), pieces=16).knots)) & {0.0, np.inf}


def test_missing_numbers_are_the_median_with_a_flag():
    column = column_of(series([1.0, None, float("nan"), 3.0]))
    assert (column.missing, column.width) == (2, 2)
    assert column.encode(series([None, 2.0, float("nan")]), 1).tolist() == [[0, 1], [0, 0], [0, 1]]
    assert column_of(series([1.0, 2.0])).encode(series([None], dtype=polars.Float64), 1).tolist() == [[0]]


def test_categories():
    few = column_of(series(["a", "b", "b", "c", None, "NA"]))
    assert (few.kind, few.values, few.missing, few.rare) == ("category", ("b", "a", "c"), 2, False)
    assert few.encode(series(["a", "z", None, "b "]), 1).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    names = [f"often {n % 20}" for n in range(200)] + [f"once {n}" for n in range(30)]
    many = column_of(series(names))
    assert (len(many.values), many.rare, many.width, many.distinct) == (20, True, 21, 50)
    encoded = many.encode(series(["often 3", "once 3", "never seen", None]), 1)
    assert encoded.sum(axis=1).tolist() == [1, 1, 1, 0]
    assert encoded[1:3, -1].tolist() == [1, 1]


def test_two_values_are_minus_one_and_one():
    column = column_of(series(["yes", "no", None, "yes"]))
    assert (column.kind, column.values) == ("boolean", ("no", "yes"))
    assert column.encode(series(["no", "yes", None, "?", "maybe"]), 1)[:, 0].tolist() == [-1, 1, 0, 0, 0]
    truth = column_of(series([True, False, None]))
    assert truth.encode(series(["True", "FALSE", None, "1"]), 1)[:, 0].tolist() == [1, -1, 0, 1]


def test_dates():
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(n) for n in range(100)]
    column = column_of(series(days))
    assert (column.kind, column.hours, column.width) == ("date", False, 5)
    encoded = column.encode(series(days), 1)
    assert (np.diff(encoded[:, 0]) > 0).all()
    np.testing.assert_allclose(encoded[:7, 3:], encoded[7:14, 3:], atol=2e-5)  # a week later
    np.testing.assert_array_equal(column.encode(series(["2024-01-01", None]), 1)[0], encoded[0])
    hours = column_of(series([datetime.datetime(2024, 1, 1, n) for n in range(24)] + [None]))
    assert (hours.hours, hours.flag, hours.width) == (True, True, 8)


@pytest.mark.parametrize(
    ("written", "order"),
    [
        ("%Y-%m-%d", "clear"),
        ("%Y-%m-%dT%H:%M:%SZ", "clear"),
        ("%d.%m.%y", "clear"),
        ("%B %d, %Y", "clear"),
        ("%m/%d/%Y", "month first"),
        ("%m/%d/%y %I:%M %p", "month first"),
        ("%d/%m/%Y %H:%M", "day first"),
    ],
)
def test_dates_as_text(written, order):
    """As a frame holds them whose reader was not told: each written as another would be."""
    moments = [datetime.datetime(2024, 1, 1, 3) + datetime.timedelta(n) for n in range(100)]
    column = column_of(series([moment.strftime(written) for moment in moments] + [None]))
    assert (column.kind, column.order, column.flag) == ("date", order, True)
    at_night = moments if column.hours else [moment.date() for moment in moments]
    alone = column.encode(series([moments[4].strftime(written)]), 1)  # 5 January or 1 May
    np.testing.assert_array_equal(alone, column.encode(series(at_night[4:5]), 1))
    found = Columns((column,), 101, False)
    assert Columns.from_json(found.to_json()) == found


def test_dates_that_could_be_others_stay_names():
    assert column_of(series([f"{1 + n % 12}/{1 + n % 7}/2024" for n in range(168)])).kind == "category"
    assert column_of(series(["1/13/2024", "13/1/2024", "5/5/2024"])).kind == "category"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([None, None], "empty"),
        ([float("nan"), None], "empty"),
        (["NA", " "], "empty"),
        ([1, 1], "constant"),
        (["a", "a"], "constant"),
        (list(range(100)), "id-like"),
        (list(range(0, 300, 3)), "id-like"),
        ([(7 * n) % 101 for n in range(101)], "id-like"),
        ([f"name {n}" for n in range(100)], "id-like"),
        ([n * n % 997 for n in range(60)], "number"),
        ([float(n) for n in range(100)], "number"),
    ],
)
def test_what_is_not_used(values, kind):
    assert column_of(polars.Series("c", values, strict=False)).kind == kind


BAD = [
    (series([1.5, 2.0]), ["2", "x\x1b[2J"], "The column 'c' holds .* in row 12, and had a number"),
    (series([1.5, 2.0]), [1.0, float("inf")], "contains infinity .* row 12"),
    (series([datetime.date(2024, 1, 1), None]), [3, 4], "'c' holds a number in row 11, and had a date"),
    (series([datetime.date(2024, 1, 1), None]), ["2024-01-01", "soon"], "holds 'soon' in row 12"),
    (
        series(["1/31/2024", "2/1/2024"]),
        ["1/2/2024", "31/1/2024"],
        "'31/1/2024' in row 12, .* a date such as 2/29/2024",
    ),
    (series([1.5, 2.0]), [datetime.date(2024, 1, 1)], "holds a date in row 11"),
    (series([True, False]), ["true", "maybe"], "holds 'maybe' in row 12, and had true or false"),
    (series(["a", "b", "c"]), [None, 3, 4], "holds '3' in row 12, and had a name"),
]


@pytest.mark.parametrize(("training", "given", "message"), BAD)
def test_another_type_is_refused_by_row(training, given, message):
    with pytest.raises(InputError, match=message) as raised:
        describe(training.to_frame()).encode(series(given).to_frame(), 11)
    assert "\x1b" not in str(raised.value)


def test_one_new_name_may_look_like_a_number():
    column = column_of(series(["a", "b", "c"]))
    assert column.encode(series(["12"]), 1).tolist() == [[0, 0, 0]]
    with pytest.raises(InputError, match="in row 1, and had a name in each"):
        column.encode(series(["12"] * 10), 1)
    with pytest.raises(InputError, match="in row 1, and had a name in each"):
        column.encode(series([12]), 1)


def test_a_table():
    frame = polars.DataFrame({"a": [1, 2, 4, 8], "b": ["x", "y", "z", None], "c": [0, 0, 0, 0]})
    columns = describe(frame)
    features = columns.encode(frame)
    assert features.dtype == np.float32
    assert features.shape == (4, columns.width) == (4, 4)
    other_order = frame.select("b", more=5, a="a")
    np.testing.assert_array_equal(columns.encode(other_order), features)
    with pytest.raises(InputError, match=r"The table lacks the column b, .* It has a, c\."):
        columns.encode(frame.drop("b"))
    text = columns.summary()
    assert "a       number    4         0        1         (x - 3) * 0.3077, logarithmic tails" in text
    assert text.endswith("4 features of 2 columns, from 4 rows")
    with pytest.raises(InputError, match="No column is left to learn from: c is constant"):
        describe(frame.select("c"))
    with pytest.raises(InputError, match="no column 'd' to drop"):
        describe(frame, ["d"])


def test_wide_features_are_sparse_and_the_same():
    draw = np.random.default_rng(0)
    frame = polars.DataFrame({
        "many": [f"v{n}" for n in draw.integers(0, 400, 5000)],
        "x": draw.normal(size=5000),
        "flag": draw.integers(0, 2, 5000) > 0,
    }).with_columns(polars.when(polars.col("x") > 1).then(None).otherwise(polars.col("x")).alias("x"))  # fmt: skip
    columns = describe(frame)
    assert columns.sparse
    features = columns.encode(frame)
    assert sparse.issparse(features)
    assert features.has_canonical_format
    dense = Columns(columns.columns, columns.n_rows, False).encode(frame)
    np.testing.assert_array_equal(features.toarray(), dense)


def test_json_there_and_back():
    frame = polars.DataFrame({
        "number": [1.0, 2.0, None], "boolean": [True, False, True], "category": ["a", "b", "c"], "empty": [None] * 3,
        "date": [datetime.date(2024, 1, n) for n in (1, 2, 3)],
    })  # fmt: skip
    columns = describe(frame, pieces=2)
    text = json.dumps(columns.to_json())
    assert Columns.from_json(json.loads(text)) == columns
    for damage in (
        '"scale"',
        '"values": [',
        '"n_rows": 3',
        '"number", "',
        '"width"',
        "null",
        '"center": 1.5',
        '"knots": [',
        '"tails": "logarithmic"',
        '"order": "clear"',
    ):
        for put in ('"x"', "{}", "1", '"n_rows": "', '"kind": {}, "', "1e999"):
            try:
                damaged = json.loads(text.replace(damage, put))
            except ValueError:
                continue
            if damage in text:
                with pytest.raises(InputError):
                    Columns.from_json(damaged)
    for nothing in (
        None,
        3,
        [],
        {},
        {"columns": [], "n_rows": 1, "sparse": False},
        {"columns": [3], "n_rows": 1, "sparse": True},
    ):
        with pytest.raises(InputError):
            Columns.from_json(nothing)


def test_the_same_value_is_the_same_text():
    assert text_of(series([3, None])).to_list() == ["3", None]
    assert text_of(series([3.0, 2.5, None, float("nan")])).to_list() == ["3", "2.5", None, None]
    assert text_of(series([" 3", "NA", ""])).to_list() == ["3", None, None]
    assert text_of(series([True])).to_list() == ["true"]


def test_times_with_a_zone_are_moments():
    moment = datetime.datetime(2024, 6, 1, 12, tzinfo=datetime.UTC)
    there = series([moment]).dt.convert_time_zone("Asia/Tokyo")
    assert days_of(there, 1) == days_of(series([moment]), 1) == days_of(series(["2024-06-01 12:00"]), 1)


# --- Frames -------------------------------------------------------------------------------------------------------------


def test_frames_of_every_kind_are_the_same():
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    mine = polars.DataFrame({
        "i": [1, 2, None], "x": [0.5, None, 2.0], "t": ["a", None, "b"], "b": [True, False, None],
        "d": [datetime.datetime(2024, 1, 1, 5), None, datetime.datetime(2024, 2, 1)],
    })  # fmt: skip
    table = pandas.DataFrame({
        "i": pandas.array([1, 2, None], dtype="Int64"), "x": [0.5, np.nan, 2.0], "t": pandas.Categorical(["a", None, "b"]),
        "b": pandas.array([True, False, None], dtype="boolean"), "d": pandas.to_datetime(mine["d"].to_list()),
    })  # fmt: skip
    columns = describe(mine)
    expected = columns.encode(mine)
    for other in (
        table,
        mine.to_arrow(),
        pyarrow.Table.from_pandas(table),
        table.astype({"t": object, "x": "float32"}),
    ):
        found = as_frame(other)
        assert describe(found) == columns
        np.testing.assert_array_equal(columns.encode(found), expected)


def test_arrays():
    frame = as_frame(np.array([[1, "a", None], [2.5, "b", True]], dtype=object))
    assert [str(kind) for kind in frame.dtypes] == ["Float64", "String", "Boolean"]
    assert as_frame(np.ones((2, 3), np.float32)).columns == ["x0", "x1", "x2"]
    for bad, message in (
        (np.ones(3), r"shape \(3,\)"),
        (np.ones((2, 2), complex), "Complex data not supported"),
        (np.array([[{}, 1]], dtype=object), "holds a dict"),
        (sparse.eye(3), "is a sparse matrix"),
        (polars.LazyFrame({"a": [1]}), "is a LazyFrame"),
        (polars.DataFrame({"a": [[1]]}), "The column 'a' is List"),
    ):
        with pytest.raises(InputError, match=message):
            as_frame(bad)
    pandas = pytest.importorskip("pandas")
    with pytest.raises(InputError, match="a"):
        as_frame(pandas.DataFrame([[1, 2]], columns=["a", "a"]))


# --- Leaks --------------------------------------------------------------------------------------------------------------


def test_leaks_are_found_and_good_columns_are_not():
    draw = np.random.default_rng(0)
    n = 2000
    y = draw.integers(0, 3, n)
    x = y + draw.normal(0, 0.7, n)
    frame = polars.DataFrame({
        "copy": [f"k{label}" for label in y], "scaled": y * 7.0, "good": x, "noise": draw.normal(size=n),
        "after": [float(value) if label == 1 and value > 1 else None for label, value in zip(y, x, strict=True)],
        "some": [float(value) if value > 0.3 else None for value in draw.random(n)],
    })  # fmt: skip
    assert leaking(describe(frame), frame, y).keys() == {"copy", "scaled", "after"}
    values = draw.normal(size=n)
    frame = polars.DataFrame(
        {"copy": values * 3 + 1, "good": values + draw.normal(0, 0.3, n), "noise": draw.normal(size=n)}
    )
    assert leaking(describe(frame), frame, values).keys() == {"copy"}


def test_names_of_rows_do_not_leak():
    draw = np.random.default_rng(0)
    frame = polars.DataFrame({"code": [f"c{n // 2}" for n in range(400)], "x": draw.normal(size=400)})
    assert leaking(describe(frame), frame, draw.integers(0, 2, 400)) == {}


def test_real_tables(shared_data):
    titanic = read_table(shared_data / "tables" / "titanic.csv")
    columns = describe(titanic.drop("survived"))
    kinds = {column.name: column.kind for column in columns.columns}
    assert kinds["name"] == "id-like"
    assert (kinds["age"], kinds["sex"], kinds["embarked"], kinds["cabin"]) == (
        "number",
        "boolean",
        "category",
        "category",
    )
    assert id_like(columns) == ["name"]
    assert leaking(columns, titanic, titanic["survived"].to_numpy()).keys() == {"boat", "body"}
    for name, target in (
        ("adult", "income"),
        ("letter", "letter"),
        ("abalone", "rings"),
        ("california_housing_mixed", "median_house_value"),
    ):
        frame = read_table(shared_data / "tables" / f"{name}.csv")
        y = frame[target]
        places = y.to_numpy() if y.dtype.is_float() else np.unique(y.to_numpy().astype(str), return_inverse=True)[1]
        columns = describe(frame.drop(target, "__split__", strict=False))
        assert id_like(columns) == []
        assert leaking(columns, frame, places) == {}
        features = columns.encode(frame)
        assert features.shape == (frame.height, columns.width)
        assert np.isfinite(features.data if columns.sparse else features).all()
