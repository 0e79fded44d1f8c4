"""IDX files: the format of MNIST, Fashion-MNIST, EMNIST and their kin, one array a file, often gzip-compressed.

A file is: two zero bytes, a byte for the type, a byte for the number of dimensions, the dimensions as 4-byte
integers, the numbers; all big-endian. Format: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of
handwritten digits".

Nothing here believes a header: memory is taken as bytes arrive, so a small file that claims to be large is refused and
costs nothing.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fcnet.data.arrays import DataSet, Part, as_rows, count_classes
from fcnet.data.files import Stream, decompressed_limit, open_content, read_some, shown, what_is_at
from fcnet.errors import FileError
from fcnet.host import room_for

PartName = Literal["train", "test"]
Kind = Literal["images", "labels"]

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_DIMENSIONS = 64
"""As many as NumPy's arrays have at most."""
_PREFIXES: dict[PartName, tuple[str, ...]] = {"train": ("train",), "test": ("t10k", "test")}
_NAMES: dict[Kind, str] = {"images": "images{}idx3-ubyte", "labels": "labels{}idx1-ubyte"}


def read_idx(path: str | Path) -> NDArray[Any]:
    """The array in an IDX file, in the machine's byte order; gzip is told by content, not by name.

    Raises:
        FileError: a file that is missing, empty, not IDX, of an unknown type, damaged, or shorter or longer than
            its header says.
    """
    path = Path(path)
    with open_content(path) as stream:
        dtype, shape = _read_header(stream, path)
        size = math.prod(shape) * dtype.itemsize
        compressed = isinstance(stream, gzip.GzipFile)
        limit = decompressed_limit(path) if compressed else size
        with room_for(f"The array in {path}", min(size, path.stat().st_size)):
            body = read_some(stream, min(size, limit) + 1)
    if size > limit and len(body) > limit:
        raise FileError(
            f"{path} grows beyond {limit} bytes, the most that fcnet decompresses a file of its size to. "
            "If you trust it, decompress it with gunzip and read that file."
        )
    if len(body) < size:
        raise FileError(
            f"{path} is truncated: its header says {_times(shape)} numbers of {dtype.itemsize} bytes, {size} bytes, "
            f"but only {len(body)} follow. Fetch the file again."
        )
    if len(body) > size:
        raise FileError(
            f"{path} has trailing bytes: its header says {_times(shape)} numbers of {dtype.itemsize} bytes, {size} "
            "bytes, but more follow. Fetch the file again, or write its header anew."
        )
    try:
        array = np.frombuffer(body, dtype).reshape(shape)
    except ValueError as error:
        raise FileError(f"{path} has a shape that NumPy cannot hold, {_times(shape)}: {error}.") from None
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_idx_folder(folder: str | Path) -> DataSet:
    """The data set in a folder of IDX files named as MNIST's: images and labels, for training and perhaps for test.

    Reads ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
    ``t10k-labels-idx1-ubyte``, each also with ``.gz``, with ``.idx3-ubyte`` after a dot, or with ``test`` in place of
    ``t10k``. Images may have any size; bytes become float32 from 0 to 1 by dividing by 255. The last sixth of the
    training rows validates: MNIST's 60,000 become 50,000 and 10,000. Without test files there is no test part.

    Raises:
        FileError: files that are missing, cannot be read, or do not fit each other.
        InputError: images that hold NaN or infinity.
    """
    folder = Path(folder)
    found = what_is_at(folder)
    if found != "folder":
        what = "not there" if found == "nothing" else "a file, not a folder"
        raise FileError(f"{folder} is {what}. Expected a folder with the IDX files of a data set.")
    X, y = _read_pair(folder, "train")
    test = None
    if find_idx(folder, "test", "images") or find_idx(folder, "test", "labels"):
        test = Part(*_read_pair(folder, "test"))
        if test.X.shape[1] != X.shape[1]:
            raise FileError(
                f"The test images in {folder} have {test.X.shape[1]} pixels, but the training images have "
                f"{X.shape[1]}. Expected images of one size."
            )
    n_train = len(X) - round(len(X) / 6)
    train = Part(X[:n_train], y[:n_train])
    validation = Part(X[n_train:], y[n_train:]) if n_train < len(X) else None
    n_classes = count_classes([train, validation, test], str(folder))
    return DataSet(str(folder), train, validation, test, n_classes)


def find_idx(folder: Path, part: PartName, kind: Kind) -> Path | None:
    """The file in the folder that holds the images or the labels of a part, or None."""
    names = _spellings(part, kind)
    return next((folder / name for name in names if what_is_at(folder / name) == "file"), None)


def as_pixels(X: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes 0 to 255 as float32 from 0 to 1."""
    return np.divide(X, np.float32(255), dtype=np.float32)


def _read_header(stream: Stream, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = read_some(stream, 4)
    if not magic:
        raise FileError(f"{path} is empty. Expected an IDX file.")
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise FileError(
            f"{path} is not an IDX file: it begins with {bytes(magic)!r}. Expected two zero bytes, the type, and "
            "the number of dimensions."
        )
    code, n_dimensions = magic[2], magic[3]
    if code not in _TYPES:
        known = ", ".join(f"0x{known:02X}" for known in _TYPES)
        raise FileError(f"{path} has the unknown IDX type code 0x{code:02X}. Expected one of: {known}.")
    if n_dimensions > _DIMENSIONS:
        raise FileError(f"{path} says that it has {n_dimensions} dimensions. Expected {_DIMENSIONS} at most.")
    words = read_some(stream, 4 * n_dimensions)
    if len(words) < 4 * n_dimensions:
        raise FileError(
            f"{path} is truncated: expected {4 * n_dimensions} bytes for the sizes of its {n_dimensions} dimensions, "
            f"found {len(words)}. Fetch the file again."
        )
    return np.dtype(_TYPES[code]), struct.unpack(f">{n_dimensions}I", words)


def _read_pair(folder: Path, part: PartName) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Images ``(n_rows, n_in)`` and their labels ``(n_rows,)``."""
    images_path, labels_path = _find(folder, part, "images"), _find(folder, part, "labels")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim < 2:
        raise FileError(
            f"{images_path} holds an array of {images.ndim} dimension(s), but images have at least 2 (n_rows, ...). "
            "Is it a file of labels under another name?"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise FileError(
            f"{labels_path} holds {labels.dtype} of shape {labels.shape}, but labels are integers of shape (n_rows,). "
            "Is it a file of images under another name?"
        )
    if len(images) != len(labels):
        raise FileError(
            f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} labels. "
            "Expected one label an image: fetch both files from one source."
        )
    if images.size == 0:
        raise FileError(f"{images_path} holds no pixels: its shape is {images.shape}. Expected at least one image.")
    if labels.min() < 0:
        raise FileError(f"{labels_path} has the label {labels.min()}. Expected classes numbered from 0.")
    rows = as_rows(images, name=str(images_path))
    return as_pixels(rows) if rows.dtype == np.uint8 else rows, labels.astype(np.int64)


def _find(folder: Path, part: PartName, kind: Kind) -> Path:
    path = find_idx(folder, part, kind)
    if path is None:
        try:
            present = sorted(shown(entry.name) for entry in folder.iterdir())
        except OSError as error:
            raise FileError(f"{folder} cannot be listed: {error.strerror}. Check who may read it.") from None
        listed = ", ".join(present[:12]) + (", ..." if len(present) > 12 else "")
        raise FileError(
            f"{folder} has no file of {'training' if part == 'train' else 'test'} {kind}. Looked for: "
            f"{', '.join(_spellings(part, kind))}. The folder holds: {listed or 'nothing'}."
        )
    return path


def _spellings(part: PartName, kind: Kind) -> list[str]:
    return [
        f"{prefix}-{_NAMES[kind].format(joint)}{suffix}"
        for prefix in _PREFIXES[part]
        for joint in ("-", ".")
        for suffix in ("", ".gz")
    ]


def _times(shape: tuple[int, ...]) -> str:
    """A shape in words, shortened where a damaged header claims very many dimensions."""
    return " x ".join(map(str, shape[:8])) + (" x ..." if len(shape) > 8 else "") if shape else "1"
