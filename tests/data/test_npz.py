""".npz files: both layouts, every way to be wrong, and bytes at random."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fcnet.data import files
from fcnet.data.arrays import DataSet
from fcnet.data.npz import read_npz
from fcnet.errors import FcnetError, FileError, InputError

in_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
X = np.linspace(-1, 1, 60).reshape(12, 5)
Y = np.arange(12) % 3


def save(tmp_path: Path, **arrays) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return path


def save_members(tmp_path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy_bytes(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def outcome(read, path: Path):
    """What is read, or the message that says why not; any other exception fails the test."""
    try:
        return read(path)
    except FcnetError as error:
        return str(error)


def everything(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    parts = [part for part in (data.train, data.validation, data.test) if part is not None]
    return np.concatenate([part.X for part in parts]), np.concatenate([part.y for part in parts])


def test_one_set_of_rows_is_split(tmp_path):
    path = save(tmp_path, X=np.arange(60.0)[:, None], y=np.arange(60) % 3)
    data = read_npz(str(path))
    assert data.name == str(path)
    assert data.n_classes == 3
    assert [part.n_rows for part in (data.train, data.validation, data.test)] == [40, 10, 10]
    rows, labels = everything(data)
    assert sorted(rows[:, 0]) == list(range(60))
    np.testing.assert_array_equal(labels, rows[:, 0] % 3)
    assert labels.dtype == np.int64
    assert read_npz(path, seed=1).test.X.tolist() != data.test.X.tolist()


def test_parts_stay_as_they_are(tmp_path):
    path = save(tmp_path, X_train=X, y_train=Y, X_val=X[:4], y_val=Y[:4], X_test=X[:2], y_test=np.array([0, 6]))
    data = read_npz(path)
    np.testing.assert_array_equal(data.train.X, X)
    np.testing.assert_array_equal(data.train.y, Y)
    np.testing.assert_array_equal(data.validation.X, X[:4])
    np.testing.assert_array_equal(data.test.y, [0, 6])
    assert data.n_classes == 7


@pytest.mark.parametrize("suffix", ["validation", "val", "valid"])
@pytest.mark.parametrize("name", ["X", "x"])
def test_spellings(tmp_path, suffix, name):
    arrays = {f"{name}_train": X, "y_train": Y, f"{name}_{suffix}": X, f"y_{suffix}": Y}
    data = read_npz(save(tmp_path, **arrays))
    assert data.validation.n_rows == 12
    assert data.test is None


def test_the_layout_of_keras(tmp_path):
    pixels = np.arange(24 * 4, dtype=np.uint8).reshape(24, 2, 2)
    labels = (np.arange(24) % 4).astype(np.uint8)
    path = save(tmp_path, x_train=pixels, y_train=labels, x_test=pixels[:5], y_test=labels[:5])
    data = read_npz(path)
    assert [part.X.shape for part in (data.train, data.validation, data.test)] == [(20, 4), (4, 4), (5, 4)]
    assert data.train.X.dtype == np.float32
    np.testing.assert_array_equal(data.test.X, pixels[:5].reshape(5, 4).astype(np.float32) / np.float32(255))
    assert np.bincount(data.validation.y).tolist() == [1, 1, 1, 1]


def test_without_validation_rows_some_training_rows_are_held_out(tmp_path):
    data = read_npz(save(tmp_path, X_train=X, y_train=Y))
    assert (data.train.n_rows, data.validation.n_rows, data.test) == (10, 2, None)
    assert sorted(everything(data)[0].tolist()) == sorted(X.tolist())


def test_weights_go_with_their_rows(tmp_path):
    weights = np.arange(12, dtype=np.float32)
    data = read_npz(save(tmp_path, X=weights[:, None], y=Y, sample_weight=weights))
    for part in (data.train, data.validation, data.test):
        assert part.weights.dtype == np.float64
        np.testing.assert_array_equal(part.weights, part.X[:, 0])
    data = read_npz(save(tmp_path, X_train=X, y_train=Y, sample_weight_train=weights, X_val=X, y_val=Y))
    np.testing.assert_array_equal(data.train.weights, weights)
    assert data.validation.weights is None


@pytest.mark.parametrize("y", [np.linspace(0, 1, 12), np.linspace(0, 1, 12)[:, None].astype(np.float32)])
def test_real_targets_are_values(tmp_path, y):
    data = read_npz(save(tmp_path, X_train=X, y_train=y, X_val=X, y_val=y))
    assert data.n_classes is None
    assert data.train.y.dtype == np.float64
    np.testing.assert_array_equal(data.train.y, y.reshape(12, 1))


def test_integers_in_several_columns_are_values(tmp_path):
    data = read_npz(save(tmp_path, X=X, y=np.stack([Y, Y], axis=1)))
    assert data.n_classes is None
    assert data.train.y.shape == (8, 2)


@pytest.mark.parametrize("y", [Y.astype(np.uint8), Y.astype(">i2"), Y[:, None], Y.astype(np.uint64)])
def test_integer_targets_are_labels(tmp_path, y):
    data = read_npz(save(tmp_path, X_train=X, y_train=y, X_val=X, y_val=y))
    assert data.n_classes == 3
    assert data.train.y.dtype == np.int64
    np.testing.assert_array_equal(data.train.y, Y)


def test_bytes_of_0_and_1_are_no_pixels(tmp_path):
    ones = (np.arange(60).reshape(12, 5) % 2).astype(np.uint8)
    data = read_npz(save(tmp_path, X_train=ones, y_train=Y, X_val=X, y_val=Y))
    np.testing.assert_array_equal(data.train.X, ones)


def test_one_part_with_pixels_makes_all_parts_pixels(tmp_path):
    data = read_npz(
        save(tmp_path, X_train=np.full((12, 5), 255, np.uint8), y_train=Y, X_val=np.ones((12, 5), np.uint8), y_val=Y)
    )
    assert data.train.X.max() == 1.0
    assert data.validation.X.max() == np.float32(1 / 255)


@in_tmp_path
@given(
    hnp.arrays(
        st.sampled_from(["u2", ">i4", "i8", "f2", ">f4", "f8", "?"]),
        st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3)),
        elements={"allow_nan": False, "allow_infinity": False},
    ),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0)]),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_what_is_written_is_read(tmp_path, array, fortran_order, version, compression):
    stored = np.asfortranarray(array) if fortran_order else array
    y = npy_bytes(np.zeros(len(array), int))
    content = {"X_train": npy_bytes(stored, version), "y_train": y, "X_val": npy_bytes(stored), "y_val": y}
    path = save_members(tmp_path, {f"{name}.npy": member for name, member in content.items()}, compression)
    found = read_npz(path).train.X
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, array.reshape(len(array), -1))


@in_tmp_path
@given(st.data())
def test_mutated_files_end_in_a_data_set_or_a_clear_error(tmp_path, data):
    compressed = data.draw(st.booleans())
    path = tmp_path / "data.npz"
    arrays = {"X": X, "y": Y, "sample_weight": np.ones(12)}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    result = outcome(read_npz, path)
    assert isinstance(result, DataSet) or str(path) in result


@in_tmp_path
@given(st.text("{}()[]':,<>|=ifubOSUVM0123456789 LTrueFalsdcrhpotn_\\", max_size=60))
def test_any_header_ends_in_a_data_set_or_a_clear_error(tmp_path, text):
    head = header("{'descr': '<f8', 'fortran_order': False, 'shape': " + text + "}\n")
    for member in (head, header(text)):
        path = save_members(tmp_path, {"X.npy": member + bytes(24), "y.npy": npy_bytes(np.arange(3))})
        result = outcome(read_npz, path)
        assert isinstance(result, DataSet) or str(path) in result


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file at all", npy_bytes(X)])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"is not a .npz file, or it is damaged.*numpy.savez"):
        read_npz(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = save(tmp_path, X=X, y=Y)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FileError, match=r"is not a .npz file, or it is damaged"):
        read_npz(path)


def test_a_flipped_bit_is_found(tmp_path):
    path = save(tmp_path, X=X, y=Y)
    content = bytearray(path.read_bytes())
    content[content.index(X[5].tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="Bad CRC-32"):
        read_npz(path)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"There is no file .*data.npz"):
        read_npz(tmp_path / "data.npz")
    with pytest.raises(FileError, match=r"is a folder. Expected a file"):
        read_npz(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds no arrays. Expected either X and y; or X_train and y_train"),
        ({"data": X, "target": Y}, "unknown name 'data'. Found: data, target. Expected: X and y; or"),
        ({"X": X}, "holds X but no y. Expected: X and y"),
        ({"y": Y}, "holds y but no X"),
        ({"X": X, "sample_weight": Y}, "holds X but no y"),
        ({"X_train": X, "y_train": Y, "X_test": X}, "holds X_test but no y_test"),
        ({"X_train": X, "y_train": Y, "y_val": Y}, "holds y_val but no X_val"),
        ({"X_test": X, "y_test": Y}, "holds X_test, y_test. Expected either X and y; or X_train"),
        ({"X": X, "y": Y, "X_test": X, "y_test": Y}, "holds X, y, X_test, y_test. Expected either"),
        ({"X": X, "x": X, "y": Y}, "holds both 'X' and 'x', which mean the same. Expected one"),
        ({"X_train": X, "y_train": Y, "X_val": X, "X_valid": X}, "holds both 'X_val' and 'X_valid'"),
        ({"X": X, "y": Y[:5]}, r"X in .*data.npz has 12 rows, but y has shape \(5,\). Expected one target a row"),
        ({"X": X, "y": np.int64(3)}, r"y has shape \(\)"),
        ({"X": X, "y": np.zeros((12, 2, 2))}, r"y in .* has shape \(12, 2, 2\). Expected labels \(n_rows,\) or values"),
        ({"X": X, "y": np.zeros((12, 0))}, r"y in .* has shape \(12, 0\)"),
        ({"X": X, "y": Y - 1}, "has the label -1. Expected classes numbered from 0; or save y as floats"),
        ({"X": X, "y": Y.astype(np.uint64) + np.uint64(2**63)}, "has the label 92233720368547758"),
        ({"X": X, "y": np.array(list("abcabcabcabc"))}, r"y in .* is an array of text.*return_inverse=True"),
        ({"X": X, "y": np.array([b"a"] * 12)}, "is an array of text"),
        ({"X": X, "y": np.array([{}] * 12)}, "y in .* is an array of Python objects.*a pickle can run code"),
        ({"X": X.astype(complex), "y": Y}, "X in .* is an array of complex128. Expected integers or real numbers"),
        ({"X": X.astype("datetime64[s]"), "y": Y}, "is an array of datetime64"),
        ({"X": X, "y": np.zeros(12, [("a", "f4")])}, "is an array of .*Expected integers or real numbers"),
        ({"X": X, "y": Y, "sample_weight": np.ones(5)}, r"sample_weight in .* has shape \(5,\).*one number a row"),
        ({"X": X, "y": Y, "sample_weight": -np.ones(12)}, "sample_weight in .* must be 0 or above, and not all 0"),
        ({"X": X, "y": Y, "sample_weight": np.zeros(12)}, "sample_weight in .* must be 0 or above, and not all 0"),
        (
            {"X_train": X, "y_train": Y, "X_test": X[:, :3], "y_test": Y},
            r"X_test in .* has 3 number\(s\) a row, but X_train has 5 number\(s\) a row",
        ),
        (
            {"X_train": X, "y_train": Y, "X_test": X, "y_test": Y + 0.5},
            r"y_test in .* has 1 number\(s\) a row, but y_train has class labels. Expected the same in every part",
        ),
        (
            {"X_train": np.full((12, 5), 9, np.uint8), "y_train": Y, "X_test": X, "y_test": Y},
            "X_test in .* holds float64, but another X of the file holds pixels as uint8. Expected one type",
        ),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path, arrays, message):
    with pytest.raises(FileError, match=message):
        read_npz(save(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.full((12, 5), np.nan), "y": Y}, r"X in .*data.npz contains NaN \(first at row 0, column 0\)"),
        ({"X": np.zeros((0, 5)), "y": Y[:0]}, "X in .*data.npz is empty"),
        ({"X": np.float64(1), "y": Y}, r"X in .*data.npz is empty: its shape is \(\)"),
        ({"X": X, "y": np.full(12, np.inf)}, "y in .*data.npz contains infinity"),
        ({"X": X, "y": np.full(12, np.finfo(np.longdouble).max)}, "y in .*data.npz contains infinity"),
        ({"X": X, "y": Y, "sample_weight": np.full(12, np.nan)}, "sample_weight in .*data.npz contains NaN"),
        ({"X": X[:2], "y": Y[:2]}, r"data.npz has 2 row\(s\), too few to split"),
        ({"X_train": X[:1], "y_train": Y[:1]}, r"X_train in .*data.npz has 1 row\(s\), too few to hold some out"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        read_npz(save(tmp_path, **arrays))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_claims_too_much_costs_nothing(tmp_path, compression):
    claim = header("{'descr': '<f8', 'fortran_order': False, 'shape': (1048576, 1048576), }\n")
    path = save_members(tmp_path, {"X.npy": claim + bytes(80), "y.npy": npy_bytes(Y)}, compression)
    tracemalloc.start()
    with pytest.raises(
        FileError, match=r"says shape \(1048576, 1048576\) of float64, 8796093022208 bytes, but .* 80 for it"
    ):
        read_npz(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_an_archive_that_claims_as_much_as_the_header_costs_nothing(tmp_path):
    """The archive's own table of sizes lies too: the bytes that come decide."""
    claim = header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000, 100000), }\n")
    path = save_members(tmp_path, {"X.npy": claim + bytes(80), "y.npy": npy_bytes(Y)}, zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    true_size = len(claim) + 80
    false_size = len(claim) + 800_000_000
    assert content.count(true_size.to_bytes(4, "little")) == 2
    path.write_bytes(content.replace(true_size.to_bytes(4, "little"), false_size.to_bytes(4, "little")))
    tracemalloc.start()
    with pytest.raises(FileError, match=r"X in .* is truncated: expected 800000000 bytes, found 80"):
        read_npz(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_an_archive_that_grows_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DECOMPRESSED_LIMIT", 1 << 20)
    zeros = np.zeros((1 << 18, 1))
    y = np.arange(1 << 18)
    assert read_npz(save(tmp_path, X=zeros, y=y)).n_in == 1
    np.savez_compressed(tmp_path / "data.npz", X=zeros, y=np.zeros(1 << 18, np.uint8))
    tracemalloc.start()
    with pytest.raises(FileError, match=r"grows to 2359\d\d\d bytes, but .* 1048576 at most.*with numpy.savez"):
        read_npz(tmp_path / "data.npz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_bomb_that_hides_its_size_is_found_out(tmp_path):
    path = save_members(
        tmp_path, {"X.npy": npy_bytes(np.zeros((8 << 20, 1))), "y.npy": npy_bytes(Y)}, zipfile.ZIP_DEFLATED
    )
    true_size = len(npy_bytes(np.zeros((8 << 20, 1)))).to_bytes(4, "little")
    content = path.read_bytes()
    assert content.count(true_size) == 2
    path.write_bytes(content.replace(true_size, (1000).to_bytes(4, "little")))
    tracemalloc.start()
    with pytest.raises(FileError, match="is damaged: BadZipFile: Bad CRC-32"):
        read_npz(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    "names", [["/X", "y"], ["../../X", "y"], ["X.npy/", "y"], ["X", "X\x1b]0;evil\x07", "y"], ["a" * 60_000]]
)
def test_names_are_looked_up_and_shown_without_control_characters(tmp_path, names):
    path = save_members(tmp_path, {name: npy_bytes(X) for name in names})
    with pytest.raises(FileError, match="holds an array of the unknown name") as caught:
        read_npz(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.npz"]


def test_encrypted_arrays_are_refused(tmp_path):
    path = save_members(tmp_path, {"X.npy": npy_bytes(X), "y.npy": npy_bytes(Y)})
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"X\.npy.* is encrypted"):
        read_npz(path)


def test_one_label_does_not_decide_that_there_are_billions_of_classes(tmp_path):
    with pytest.raises(InputError, match=r"data.npz has the label 4611686018427387904 in 12 rows\. Expected classes"):
        read_npz(save(tmp_path, X=X, y=Y * 2**61))
    assert read_npz(save(tmp_path, X=np.zeros((70_000, 1), bool), y=np.arange(70_000))).n_classes == 70_000


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"", "is not a .npz file, or it is damaged"),
        (b"\x93NUMPY\x03\x00" + bytes(20), r"format \(3, 0\); expected \(1, 0\) or \(2, 0\)"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(20), "is not a .npz file, or it is damaged"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -3), }") + bytes(24), r"says shape \(-1, -3\)"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }") + b"cos\nsystem\n", "of Python objects"),
        (header("9" * 9000), "is not a .npz file, or it is damaged"),
        (header("-" * 9000), "is not a .npz file, or it is damaged: ValueError: a header is nested too deeply"),
        (header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': (0x{'f' * 9000},), }}"), "4300 digits"),
        (header("__import__('os').system('true')"), "is not a .npz file, or it is damaged"),
    ],
)
def test_a_wrong_member_is_refused(tmp_path, member, message):
    path = save_members(tmp_path, {"X.npy": member, "y.npy": npy_bytes(np.arange(3))})
    with pytest.raises(FileError, match=message) as caught:
        read_npz(path)
    assert len(str(caught.value)) < 1000


def test_a_header_by_python_2_is_read(tmp_path):
    X_member = header("{'descr': '<f8', 'fortran_order': False, 'shape': (12L, 5L), }\n") + X.tobytes()
    data = read_npz(save_members(tmp_path, {"X.npy": X_member, "y.npy": npy_bytes(Y)}))
    assert sorted(everything(data)[0].tolist()) == sorted(X.tolist())


def test_other_ways_of_compression_are_refused(tmp_path):
    path = save_members(tmp_path, {"X.npy": npy_bytes(X), "y.npy": npy_bytes(Y)}, zipfile.ZIP_BZIP2)
    with pytest.raises(FileError, match="is compressed in a way that NumPy does not write"):
        read_npz(path)
