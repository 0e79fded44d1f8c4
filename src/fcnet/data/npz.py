"""NumPy's ``.npz`` files: one set of rows to be split, or parts that are split already (Keras's ``mnist.npz`` is one).

Nothing in a file is executed (no pickled objects), and no memory is taken because a header says so: the size that an
array's header claims must be the size of its place in the archive, and memory is taken as bytes arrive.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet.data.arrays import DataSet, Part, as_rows, check_finite, count_classes
from fcnet.data.files import decompressed_limit, open_file, read_some, shown
from fcnet.data.idx import as_pixels
from fcnet.data.npy import HEAD, read_header
from fcnet.data.split import hold_out, split
from fcnet.errors import FcnetError, FileError

_FIELDS = ("X", "y", "sample_weight")
_SUFFIXES = {
    "": "whole",
    "_train": "train",
    "_validation": "validation",
    "_val": "validation",
    "_valid": "validation",
    "_test": "test",
}
_PLACES = {(field + suffix).lower(): (part, field) for suffix, part in _SUFFIXES.items() for field in _FIELDS}
"""Where an array belongs, by its name in lower case."""
_EXPECTED = "X and y; or X_train and y_train, and perhaps X_validation, y_validation, X_test and y_test"

Found = dict[str, tuple[str, NDArray[Any]]]
"""The arrays of a part: by field, the name in the file and the array."""


def read_npz(path: str | Path, seed: int = 0) -> DataSet:
    """The data set in a ``.npz`` file.

    The file holds either X and y, which are split at random by class (see ``split``); or X_train and y_train, and
    perhaps X_validation (X_val, X_valid) and X_test with theirs. Without validation rows, a sixth of the training rows
    is held out at random. To each X and y belongs perhaps a sample_weight of the same suffix. X may be x.

    Bytes that go beyond 1 are pixels and become float32 from 0 to 1 by dividing by 255; other numbers stay as they are.
    An integer y, ``(n_rows,)`` or ``(n_rows, 1)``, holds labels; any other y holds values and becomes float64
    ``(n_rows, n_out)``.

    Args:
        path: the file.
        seed: decides which rows go where, where the file does not.

    Raises:
        FileError: a file that is missing or damaged, or whose arrays are unknown, of objects or text, or do not fit
            each other.
        InputError: NaN or infinity, or too few rows to split.
    """
    path = Path(path)
    found = _read_arrays(path)
    pixels = any(
        X.dtype == np.uint8 and X.size > 0 and X.max() > 1 for _, X in (arrays["X"] for arrays in found.values())
    )
    parts = {name: _part(arrays, pixels, path) for name, arrays in found.items()}
    n_classes = _check_alike(parts, found, path)
    if "whole" in parts:
        whole = parts["whole"]
        return split(whole.X, whole.y, whole.weights, seed=seed, name=str(path), n_classes=n_classes)
    train, validation = parts["train"], parts.get("validation")
    if validation is None:
        train, validation = hold_out(train, 1 / 6, seed, f"{found['train']['X'][0]} in {path}")
    return DataSet(str(path), train, validation, parts.get("test"), n_classes)


def _read_arrays(path: Path) -> dict[str, Found]:
    """The arrays of each part, every part with its X and y."""
    with open_file(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = _places(archive.infolist(), path)
                _check_growth(members.values(), path)
                found: dict[str, Found] = {}
                for (part, field), member in members.items():
                    array = _read_array(archive, member, path)
                    found.setdefault(part, {})[field] = (_name(member), array)
        except (FcnetError, MemoryError):
            raise
        except Exception as error:  # zipfile meets damage with errors of a dozen kinds
            raise FileError(
                f"{path} is not a .npz file, or it is damaged: {type(error).__name__}: {shown(str(error))}. "
                "Expected a file written by numpy.savez."
            ) from None
    return found


def _places(members: list[zipfile.ZipInfo], path: Path) -> dict[tuple[str, str], zipfile.ZipInfo]:
    """Which member holds which field of which part."""
    places: dict[tuple[str, str], zipfile.ZipInfo] = {}
    listed = ", ".join(shown(_name(member)) for member in members[:12]) + (", ..." if len(members) > 12 else "")
    for member in members:
        place = _PLACES.get(_name(member).lower())
        if place is None:
            raise FileError(
                f"{path} holds an array of the unknown name {_name(member)[:200]!r}. Found: {listed}. Expected: {_EXPECTED}; "
                "each perhaps with its sample_weight."
            )
        if place in places:
            raise FileError(
                f"{path} holds both {_name(places[place])!r} and {_name(member)!r}, which mean the same. Expected one."
            )
        places[place] = member
    parts = {part for part, _ in places}
    if not parts or (parts != {"whole"} and ("whole" in parts or "train" not in parts)):
        raise FileError(f"{path} holds {listed or 'no arrays'}. Expected either {_EXPECTED}.")
    for part, field in places:
        for needed in ("X", "y"):
            if (part, needed) not in places:
                name = _name(places[part, field])
                suffix = name[len(field) :]
                raise FileError(f"{path} holds {name} but no {needed}{suffix}. Expected: {_EXPECTED}.")
    return places


def _check_growth(members: Iterable[zipfile.ZipInfo], path: Path) -> None:
    """Refuse what would fill the memory; an archive that lies about its sizes is found out as its bytes come."""
    grown, limit = sum(member.file_size for member in members), decompressed_limit(path)
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if grown > limit and not stored:
        raise FileError(
            f"{path} grows to {grown} bytes, but fcnet decompresses a file of its size to {limit} at most. If you trust "
            "it, save it uncompressed, with numpy.savez."
        )


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    name = _name(member)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FileError(f"{name} in {path} is compressed in a way that NumPy does not write. Save it with numpy.savez.")
    with archive.open(member) as stream:
        head = read_some(stream, HEAD)
        header = read_header(head, f"{name} in {path}")
        if header.start + header.size != member.file_size:
            raise FileError(
                f"{name} in {path} is damaged: its header says shape {header.shape} of {header.dtype}, {header.size} "
                f"bytes, but the archive has {member.file_size - header.start} for it. Save the file again."
            )
        body = head[header.start :]
        body += read_some(stream, header.size - len(body))
    if len(body) != header.size:
        raise FileError(
            f"{name} in {path} is truncated: expected {header.size} bytes, found {len(body)}. Save the file again."
        )
    array = np.frombuffer(body, header.dtype).reshape(header.shape, order="F" if header.fortran_order else "C")
    return np.asarray(array, header.dtype.newbyteorder("="), order="C")


def _part(arrays: Found, pixels: bool, path: Path) -> Part:
    """One part, checked in itself."""
    (X_name, X), (y_name, y) = arrays["X"], arrays["y"]
    rows = as_rows(X, name=f"{X_name} in {path}")
    if pixels and rows.dtype != np.uint8:
        raise FileError(
            f"{X_name} in {path} holds {rows.dtype}, but another X of the file holds pixels as uint8. Expected one "
            "type: save all as uint8 from 0 to 255, or all as floats from 0 to 1."
        )
    if y.ndim == 0 or len(y) != len(rows):
        raise FileError(
            f"{X_name} in {path} has {len(rows)} rows, but {y_name} has shape {y.shape}. Expected one target a row."
        )
    weights = None
    if "sample_weight" in arrays:
        weights = _weights(*arrays["sample_weight"], len(rows), path)
    return Part(as_pixels(rows) if pixels else rows, _targets(y, f"{y_name} in {path}"), weights)


def _targets(y: NDArray[Any], name: str) -> NDArray[Any]:
    """Labels ``(n_rows,)`` of int64, or values ``(n_rows, n_out)`` of float64."""
    if y.ndim > 2 or 0 in y.shape:
        raise FileError(f"{name} has shape {y.shape}. Expected labels (n_rows,) or values (n_rows, n_out).")
    if y.dtype.kind not in "iu" or (y.ndim == 2 and y.shape[1] > 1):
        values = _as_float64(y, name)
        return values.reshape(len(y), -1)
    lowest, highest = int(y.min()), int(y.max())
    if lowest < 0 or highest > np.iinfo(np.int64).max:
        wrong = lowest if lowest < 0 else highest
        raise FileError(
            f"{name} has the label {wrong}. Expected classes numbered from 0; or save y as floats, if it holds values."
        )
    return y.reshape(-1).astype(np.int64)


def _weights(name: str, weights: NDArray[Any], n_rows: int, path: Path) -> NDArray[np.float64]:
    if weights.shape != (n_rows,):
        raise FileError(f"{name} in {path} has shape {weights.shape}. Expected one number a row: ({n_rows},).")
    weights = _as_float64(weights, f"{name} in {path}")
    if (weights < 0).any() or not weights.any():
        raise FileError(f"{name} in {path} must be 0 or above, and not all 0.")
    return weights


def _as_float64(numbers: NDArray[Any], name: str) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # a long double beyond float64 becomes infinity, which the next line refuses
        numbers = numbers.astype(np.float64)
    check_finite(numbers, name)
    return numbers


def _check_alike(parts: dict[str, Part], found: dict[str, Found], path: Path) -> int | None:
    """How many classes the parts have together; refused where one part is of another size or kind than the others."""
    first_name = "whole" if "whole" in parts else "train"
    first = parts[first_name]
    for name, part in parts.items():
        for field, shape, expected in (("X", part.X.shape, first.X.shape), ("y", part.y.shape, first.y.shape)):
            if shape[1:] != expected[1:]:
                raise FileError(
                    f"{found[name][field][0]} in {path} has {_width(shape)}, but {found[first_name][field][0]} has "
                    f"{_width(expected)}. Expected the same in every part."
                )
    if first.kind == "values":
        return None
    return count_classes(parts.values(), str(path))


def _width(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} number(s) a row" if len(shape) > 1 else "class labels"
