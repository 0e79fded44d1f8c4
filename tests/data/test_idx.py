"""IDX files: round trips, every way to be wrong, and bytes at random."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fcnet.data import files
from fcnet.data.idx import find_idx, read_idx, read_idx_folder
from fcnet.errors import FcnetError, FileError, InputError

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
in_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def idx_bytes(array: np.ndarray) -> bytes:
    code = CODES[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def outcome(read, path: Path):
    """What is read, or the message that says why not; any other exception fails the test."""
    try:
        return read(path)
    except FcnetError as error:
        return str(error)


def write_folder(
    folder: Path,
    n_train: int = 12,
    n_test: int | None = 4,
    shape: tuple[int, ...] = (3, 2),
    joint: str = "-",
    test: str = "t10k",
    suffix: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """A folder like MNIST's; returns all training images and labels."""
    pack = gzip.compress if suffix == ".gz" else bytes
    folder.mkdir(exist_ok=True)
    for prefix, n in (("train", n_train), (test, n_test)):
        if n is not None:
            images = np.arange(n * int(np.prod(shape)), dtype=np.uint8).reshape(n, *shape)
            labels = (np.arange(n) % 3).astype(np.uint8)
            write(folder / f"{prefix}-images{joint}idx3-ubyte{suffix}", pack(idx_bytes(images)))
            write(folder / f"{prefix}-labels{joint}idx1-ubyte{suffix}", pack(idx_bytes(labels)))
    images = np.arange(n_train * int(np.prod(shape)), dtype=np.uint8).reshape(n_train, int(np.prod(shape)))
    return images, np.arange(n_train) % 3


arrays = st.sampled_from(list(CODES)).flatmap(
    lambda code: hnp.arrays(code, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


@in_tmp_path
@given(arrays, st.booleans())
def test_what_is_written_is_read(tmp_path, array, compressed):
    content = idx_bytes(array)
    path = write(tmp_path / "some.name", gzip.compress(content) if compressed else content)
    found = read_idx(path)
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable


@in_tmp_path
@given(st.data())
def test_mutated_files_end_in_an_array_or_a_clear_error(tmp_path, data):
    content = bytearray(idx_bytes(np.arange(12, dtype=data.draw(st.sampled_from(list(CODES)))).reshape(3, 2, 2)))
    if data.draw(st.booleans()):
        content = bytearray(gzip.compress(bytes(content), mtime=0))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    path = write(tmp_path / "mutated", bytes(content[:cut]) + data.draw(st.binary(max_size=3)))
    result = outcome(read_idx, path)
    assert isinstance(result, np.ndarray) or str(path) in result


@in_tmp_path
@given(st.binary(max_size=64))
def test_any_bytes_end_in_an_array_or_a_clear_error(tmp_path, content):
    for head in (b"", b"\0\0\x08\x01", b"\x1f\x8b\x08"):
        path = write(tmp_path / "any", head + content)
        result = outcome(read_idx, path)
        assert isinstance(result, np.ndarray) or str(path) in result


IMAGE = idx_bytes(np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty. Expected an IDX file"),
        (b"\0\0", r"is not an IDX file: it begins with b'\\x00\\x00'"),
        (b"PK\x03\x04 and so on", "is not an IDX file: it begins with b'PK.*Expected two zero bytes"),
        (b"\0\0\x0a\x01\0\0\0\0", "unknown IDX type code 0x0A. Expected one of: 0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E"),
        (b"\0\0\x08\x03\0\0\0\x01", "is truncated: expected 12 bytes for the sizes of its 3 dimensions, found 4"),
        (IMAGE[:-2], "is truncated: its header says 2 x 3 numbers of 1 bytes, 6 bytes, but only 4 follow"),
        (IMAGE + b"\0", "has trailing bytes: its header says 2 x 3 numbers of 1 bytes, 6 bytes, but more follow"),
        (gzip.compress(IMAGE, mtime=0)[:-9], "is a damaged gzip file"),
        (gzip.compress(IMAGE, mtime=0)[:-8] + b"\0" * 8, "is a damaged gzip file: CRC check failed"),
        (gzip.compress(IMAGE, mtime=0) + b"rubbish", "is a damaged gzip file"),
        (b"\x1f\x8b", "is a damaged gzip file"),
        (gzip.compress(IMAGE[:-2], mtime=0), "is truncated: .* 6 bytes, but only 4 follow"),
        (gzip.compress(IMAGE + b"\0", mtime=0), "has trailing bytes"),
        (b"\0\0\x08\x41" + b"\0\0\0\x01" * 65 + b"\0", "says that it has 65 dimensions. Expected 64 at most"),
        (b"\0\0\x08\x04\0\0\0\0" + b"\xff" * 12, "has a shape that NumPy cannot hold, 0 x 4294967295 x"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, content, message):
    with pytest.raises(FileError, match=message):
        read_idx(write(tmp_path / "file", content))


def test_a_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"There is no file .*missing. Check the path"):
        read_idx(tmp_path / "missing")
    with pytest.raises(FileError, match=r"is a folder. Expected a file"):
        read_idx(tmp_path)
    with pytest.raises(FileError, match="There is no file"):
        read_idx("a\0b")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_small_file_that_claims_to_be_large_costs_nothing(tmp_path, pack):
    path = write(tmp_path / "large", pack(b"\0\0\x0e\x02\0\x10\0\0\0\x10\0\0" + b"\0" * 28))
    tracemalloc.start()
    with pytest.raises(FileError, match="8796093022208 bytes, but only 28 follow"):
        read_idx(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_bomb_is_not_decompressed_beyond_its_claim(tmp_path):
    path = write(tmp_path / "bomb", gzip.compress(b"\0\0\x08\x01\0\0\0\x04" + b"\0" * (64 << 20)))
    tracemalloc.start()
    with pytest.raises(FileError, match="trailing bytes"):
        read_idx(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_gzip_file_that_grows_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DECOMPRESSED_LIMIT", 2000)
    content = idx_bytes(np.zeros(2001, np.uint8))
    assert len(read_idx(write(tmp_path / "plain", content))) == 2001
    with pytest.raises(FileError, match=r"grows beyond 2000 bytes.*decompress it with gunzip"):
        read_idx(write(tmp_path / "packed", gzip.compress(content)))
    less_packed = gzip.compress(content, compresslevel=0)  # what grows a little may grow beyond the limit
    assert len(read_idx(write(tmp_path / "packed", less_packed))) == 2001


@pytest.mark.parametrize("joint", ["-", "."])
@pytest.mark.parametrize("test", ["t10k", "test"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_is_read_in_every_spelling(tmp_path, joint, test, suffix):
    images, labels = write_folder(tmp_path, joint=joint, test=test, suffix=suffix)
    data = read_idx_folder(str(tmp_path))
    assert data.name == str(tmp_path)
    assert data.n_classes == 3
    assert data.n_in == 6
    assert [part.n_rows for part in (data.train, data.validation, data.test)] == [10, 2, 4]
    X = np.concatenate([data.train.X, data.validation.X])
    assert X.dtype == np.float32
    np.testing.assert_array_equal(X, images.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(np.concatenate([data.train.y, data.validation.y]), labels)
    assert data.train.y.dtype == np.int64
    assert data.train.weights is None


def test_without_test_files_there_is_no_test_part(tmp_path):
    write_folder(tmp_path, n_test=None)
    assert read_idx_folder(tmp_path).test is None


def test_too_few_rows_for_a_sixth_leave_no_validation_part(tmp_path):
    write_folder(tmp_path, n_train=2)
    data = read_idx_folder(tmp_path)
    assert data.train.n_rows == 2
    assert data.validation is None


def test_classes_are_counted_over_all_parts(tmp_path):
    write_folder(tmp_path)
    write(tmp_path / "t10k-labels-idx1-ubyte", idx_bytes(np.array([0, 7, 0, 0], np.uint8)))
    assert read_idx_folder(tmp_path).n_classes == 8


def test_one_label_does_not_decide_that_there_are_billions_of_classes(tmp_path):
    write_folder(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    write(labels, idx_bytes(np.array([0, 65_535, 0, 0], np.int32)))
    assert read_idx_folder(tmp_path).n_classes == 65_536
    write(labels, idx_bytes(np.array([0, 2**31 - 1, 0, 0], np.int32)))
    with pytest.raises(
        InputError, match=r"has the label 2147483647 in 16 rows\. Expected classes .* without large gaps"
    ):
        read_idx_folder(tmp_path)


def test_pixels_of_other_types_stay_as_they_are(tmp_path):
    write_folder(tmp_path, n_test=None)
    images = np.linspace(0, 9, 12 * 4, dtype=np.float64).reshape(12, 2, 2)
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(images))
    X = read_idx_folder(tmp_path).train.X
    np.testing.assert_array_equal(X, images.reshape(12, 4)[:10])


def test_a_missing_training_file_lists_what_was_looked_for_and_what_is_there(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    message = (
        "has no file of training labels. Looked for: train-labels-idx1-ubyte, train-labels-idx1-ubyte.gz, "
        r"train-labels.idx1-ubyte, .*The folder holds: t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, train-images"
    )
    with pytest.raises(FileError, match=message):
        read_idx_folder(tmp_path)


def test_half_a_test_pair_is_refused(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileError, match="has no file of test images"):
        read_idx_folder(tmp_path)


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileError, match="The folder holds: nothing"):
        read_idx_folder(tmp_path)
    with pytest.raises(FileError, match=r"nowhere is not there. Expected a folder"):
        read_idx_folder(tmp_path / "nowhere")
    with pytest.raises(FileError, match="is a file, not a folder"):
        read_idx_folder(write(tmp_path / "file", b""))
    with pytest.raises(FileError, match="cannot be reached: File name too long"):
        read_idx_folder("x" * 5000)


def test_a_pipe_among_the_files_is_not_read(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    os.mkfifo(tmp_path / "train-labels-idx1-ubyte")
    (tmp_path / "evil\x1b[2J").touch()
    with pytest.raises(FileError, match="has no file of training labels") as caught:
        read_idx_folder(tmp_path)
    assert str(caught.value).isprintable()
    with pytest.raises(FileError, match="is a device or a pipe"):
        read_idx(tmp_path / "train-labels-idx1-ubyte")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-images-idx3-ubyte", np.zeros(12, np.uint8), "holds an array of 1 dimension.*a file of labels"),
        ("train-labels-idx1-ubyte", np.zeros((12, 2), np.uint8), r"labels are integers of shape \(n_rows,\)"),
        ("train-labels-idx1-ubyte", np.zeros(12, np.float32), "holds float32 of shape"),
        ("train-labels-idx1-ubyte", np.zeros(11, np.uint8), "holds 12 images, but .* holds 11 labels"),
        ("train-labels-idx1-ubyte", np.full(12, -1, np.int8), "has the label -1. Expected classes numbered from 0"),
        ("train-images-idx3-ubyte", np.zeros((12, 0, 2), np.uint8), r"holds no pixels: its shape is \(12, 0, 2\)"),
        ("t10k-images-idx3-ubyte", np.zeros((4, 3, 3), np.uint8), "have 9 pixels, but the training images have 6"),
        ("t10k-labels-idx1-ubyte", np.zeros(5, np.uint8), "holds 4 images, but .* holds 5 labels"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, name, array, message):
    write_folder(tmp_path)
    write(tmp_path / name, idx_bytes(array))
    with pytest.raises(FileError, match=message):
        read_idx_folder(tmp_path)


def test_empty_files_of_images_and_labels_are_refused(tmp_path):
    write_folder(tmp_path, n_train=0)
    with pytest.raises(FileError, match=r"holds no pixels: its shape is \(0, 3, 2\)"):
        read_idx_folder(tmp_path)


def test_pixels_that_are_not_finite_are_refused(tmp_path):
    write_folder(tmp_path)
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(np.full((12, 3, 2), np.nan, np.float32)))
    with pytest.raises(InputError, match="train-images-idx3-ubyte contains NaN"):
        read_idx_folder(tmp_path)


def test_real_mnist(shared_data):
    data = read_idx_folder(shared_data / "mnist")
    assert [part.n_rows for part in (data.train, data.validation, data.test)] == [50_000, 10_000, 10_000]
    assert data.train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.n_classes == 10
    assert data.n_in == 784
    assert data.train.X.min() == 0.0
    assert data.train.X.max() == 1.0
    assert find_idx(shared_data / "mnist", "test", "labels").name == "t10k-labels-idx1-ubyte.gz"
