"""Any data frame or array as a Polars frame: the one form that the rest of ``tabular`` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fcnet.data.arrays import is_sparse
from fcnet.errors import InputError

if TYPE_CHECKING:
    import polars


def is_frame(X: Any) -> bool:
    """Whether X has named columns: a frame of pandas, Polars, Arrow or another that narwhals knows."""
    return hasattr(X, "columns") or hasattr(X, "column_names")


def as_frame(X: Any) -> polars.DataFrame:
    """X ``(n_rows, n_columns)`` as a Polars frame; the columns of an array are called x0, x1, ...

    Raises:
        InputError: neither a frame nor an array of two dimensions; two columns of one name.
    """
    import polars

    if isinstance(X, polars.DataFrame):
        for name, kind in X.schema.items():
            if kind.is_nested() or kind in (polars.Binary, polars.Object):
                raise InputError(
                    f"The column {name!r} is {kind}. Expected numbers, text, booleans or dates: take it apart into columns."
                )
        return X
    if isinstance(X, polars.LazyFrame):
        raise InputError("X is a LazyFrame. Expected a DataFrame: pass X.collect().")
    if is_sparse(X):
        raise InputError("X is a sparse matrix. Expected a data frame or a dense array: pass X.toarray().")
    return _from_narwhals(X) if is_frame(X) else _from_array(X)


def _from_array(X: Any) -> polars.DataFrame:
    import polars

    array = np.asarray(X)
    if array.ndim != 2:
        raise InputError(f"X has shape {array.shape}. Expected a data frame, or an array of rows and columns.")
    return polars.DataFrame([_series(f"x{place}", array[:, place]) for place in range(array.shape[1])])


def _from_narwhals(X: Any) -> polars.DataFrame:
    import narwhals
    import polars

    try:
        frame = narwhals.from_native(X, eager_only=True)
        names = [str(name) for name in frame.columns]
    except (TypeError, ValueError, KeyError) as error:  # duplicate names too
        raise InputError(f"X is no data frame that can be read: {error}") from None
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"X has more than one column {repeated[0]!r}. Expected each name once: rename or drop one.")
    columns = []
    for name, column in zip(names, frame.iter_columns(), strict=True):
        kind = column.dtype
        if isinstance(kind, narwhals.Datetime | narwhals.Date):
            if getattr(kind, "time_zone", None):
                column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            values = polars.Series(name, column.to_numpy().astype("datetime64[us]"))
        elif kind.is_numeric() and not isinstance(kind, narwhals.Decimal):
            missing = column.is_null().to_numpy().astype(bool)
            numbers = column.fill_null(0).to_numpy() if missing.any() and kind.is_integer() else column.to_numpy()
            values = polars.Series(name, np.ascontiguousarray(numbers))
            if missing.any():
                values = values.to_frame().select(
                    polars.when(~polars.Series(missing)).then(polars.col(name)).alias(name)
                )[name]
        else:
            values = _series(name, np.array(column.to_list(), dtype=object))
        columns.append(values)
    return polars.DataFrame(columns)


def _series(name: str, values: np.ndarray) -> polars.Series:
    """A column of an array; of objects, what all of them are, and else their text."""
    import polars

    if values.dtype.kind in "biuf":
        return polars.Series(name, np.ascontiguousarray(values))
    if values.dtype.kind == "M":
        return polars.Series(name, values.astype("datetime64[us]"))
    if values.dtype.kind == "c":
        raise InputError(
            f"Complex data not supported: the column {name!r} is {values.dtype}. Pass its parts as columns."
        )
    held = [None if _is_missing(value) else value for value in values.tolist()]
    present = [value for value in held if value is not None]
    if all(isinstance(value, bool | np.bool_) for value in present):
        return polars.Series(name, held, dtype=polars.Boolean if present else polars.Null)
    if all(isinstance(value, int | float | np.number) for value in present):
        return polars.Series(name, [None if value is None else float(value) for value in held], dtype=polars.Float64)
    if any(isinstance(value, dict | list | tuple | set) for value in present):
        odd = next(value for value in present if isinstance(value, dict | list | tuple | set))
        raise InputError(
            f"The column {name!r} holds a {type(odd).__name__}; its argument must be a string or a number. Expected numbers, "
            "text, booleans or dates: take it apart into columns."
        )
    if hasattr(present[0], "isoformat"):
        try:
            return polars.Series(
                name,
                np.array([np.datetime64("NaT") if v is None else np.datetime64(v) for v in held], "datetime64[us]"),
            )
        except (ValueError, TypeError):
            pass
    return polars.Series(name, [None if value is None else str(value) for value in held], dtype=polars.String)


def _is_missing(value: Any) -> bool:
    """None, NaN, and the missing values of pandas."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))
