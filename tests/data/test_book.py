"""The book's pickle: made as Python 2 and Python 3 make it, attacked, and mutated."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcnet.data import book
from fcnet.data.arrays import DataSet
from fcnet.data.book import read_book_pickle
from fcnet.errors import FcnetError, FileError, InputError

in_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def pairs(n_in: int = 4, dtype: str = "f4") -> tuple:
    """Three pairs (X, y), as the book's file has them."""
    return tuple(
        ((np.arange(n * n_in).reshape(n, n_in) / (n * n_in)).astype(dtype), np.arange(n, dtype=np.int64) % 3)
        for n in (6, 2, 3)
    )


def by_python_2(data: tuple, protocol: int) -> bytes:
    """The pickle of nested tuples of arrays that Python 2 and its NumPy write, with text for an array's bytes."""
    out = io.BytesIO()

    def text(content: bytes) -> bytes:
        if protocol:
            return b"T" + struct.pack("<I", len(content)) + content
        quoted = "".join(
            chr(byte) if 32 <= byte < 127 and chr(byte) not in "'\\" else f"\\x{byte:02x}" for byte in content
        )
        return f"S'{quoted}'\n".encode()

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value) if protocol else f"I{value}\n".encode()

    def value(item) -> None:
        if isinstance(item, tuple):
            out.write(b"(")
            for part in item:
                value(part)
            out.write(b"t")
            return
        dtype = item.dtype.str
        out.write(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR")
        out.write(b"(" + number(1) + b"(" + b"".join(number(n) for n in item.shape) + b"t")
        out.write(b"cnumpy\ndtype\n(" + text(dtype[1:].encode()) + number(0) + number(1) + b"tR")
        out.write(b"(" + number(3) + text(dtype[:1].encode()) + b"NNN" + number(-1) + number(-1) + number(0) + b"tb")
        out.write(number(0) + text(item.tobytes()) + b"tb")

    if protocol:
        out.write(b"\x80" + bytes([protocol]))
    value(data)
    out.write(b".")
    return out.getvalue()


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "mnist.pkl.gz"
    path.write_bytes(content)
    return path


def outcome(read, path: Path):
    """What is read, or the message that says why not; any other exception fails the test."""
    try:
        return read(path)
    except FcnetError as error:
        return str(error)


def check(data: DataSet, expected: tuple) -> None:
    assert data.n_classes == 3
    for part, (X, y) in zip((data.train, data.validation, data.test), expected, strict=True):
        assert part.X.dtype == np.float32
        assert part.X.flags.writeable
        assert part.y.dtype == np.int64
        np.testing.assert_array_equal(part.X, X.astype(np.float32))
        np.testing.assert_array_equal(part.y, y)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_a_pickle_by_python_2(tmp_path, protocol, pack, dtype):
    content = by_python_2(pairs(dtype=dtype), protocol)
    path = write(tmp_path, pack(content))
    check(read_book_pickle(str(path)), pairs(dtype=dtype))
    for (X, y), (same_X, same_y) in zip(pickle.loads(content, encoding="latin1"), pairs(dtype=dtype), strict=True):
        np.testing.assert_array_equal(X, same_X)
        np.testing.assert_array_equal(y, same_y)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_a_pickle_by_python_3(tmp_path, protocol):
    data = read_book_pickle(write(tmp_path, gzip.compress(pickle.dumps(pairs(), protocol=protocol))))
    check(data, pairs())
    assert data.name == str(tmp_path / "mnist.pkl.gz")
    old = pickle.dumps(pairs(), protocol=protocol).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    check(read_book_pickle(write(tmp_path, old)), pairs())


def test_lists_in_place_of_tuples_and_fortran_order(tmp_path):
    content = pickle.dumps([[np.asfortranarray(X), y.astype(">i2")] for X, y in pairs()], protocol=2)
    check(read_book_pickle(write(tmp_path, content)), pairs())


class Asks:
    """An object whose pickle calls something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Asks(os.system, "touch {}"), r"refused: the pickle asks for (posix|nt).system"),
        (Asks(eval, "1"), r"refused: the pickle asks for (__builtin__|builtins).eval"),
        (Asks(np.load, "x"), r"refused: the pickle asks for numpy.*load"),
        (Asks(np.zeros, (1 << 40,)), "refused: the pickle asks for numpy.*zeros"),
        (Counter(), "refused: the pickle asks for collections.Counter"),
        (np.float64(1), "refused: the pickle asks for numpy._core.multiarray.scalar"),
    ],
)
def test_a_pickle_that_asks_for_anything_else_is_refused(tmp_path, item, message, protocol):
    path = write(tmp_path, gzip.compress(pickle.dumps((*pairs()[:2], item), protocol=protocol)))
    with pytest.raises(FileError, match=message + ".*could run code"):
        read_book_pickle(path)


@pytest.mark.parametrize(
    "name",
    ["numpy\nndarray.tofile", "numpy.core\nmultiarray._reconstruct", "numpy\nload", "a\n" + "b" * 999, "\x1b[2J\nb"],
)
def test_names_are_admitted_whole_and_messages_are_short(tmp_path, name):
    with pytest.raises(FileError, match="refused: the pickle asks for") as caught:
        read_book_pickle(write(tmp_path, f"c{name}\n.".encode()))
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty. Expected the book's pickle"),
        (b"\x80", "is not a pickle of NumPy arrays, or it is damaged"),
        (b"hello", "is not a pickle of NumPy arrays, or it is damaged"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (pickle.dumps(pairs(), protocol=2)[:-40], "is not a pickle of NumPy arrays, or it is damaged"),
        (gzip.compress(pickle.dumps(pairs(), protocol=2), mtime=0)[:-20], "is a damaged gzip file"),
        (pickle.dumps(pairs(), protocol=4), r"is a pickle of protocol 4. Expected 0 to 3: .*protocol=2"),
        (pickle.dumps(3, protocol=2), "holds an object of type int. Expected three pairs"),
        (pickle.dumps({}, protocol=2), "is not a pickle of NumPy arrays"),
        (RECONSTRUCT + b".", "holds what numpy.core.multiarray._reconstruct makes. Expected three pairs"),
        (b"(NNNt" + b"R.", "it calls what is not a name|is not a pickle of NumPy arrays"),
        (RECONSTRUCT + b"NR.", "it calls what is not a name"),
        (RECONSTRUCT + b")b.", "it sets the state of what is not an array"),
        (RECONSTRUCT + b"(NtRNb.", "it sets the state of what is not an array"),
        (b"K\x01.rubbish", "holds an object of type int"),
        (b"\x82\x01.", "is not a pickle of NumPy arrays"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, content, message):
    with pytest.raises(FileError, match=message):
        read_book_pickle(write(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileError, match="There is no file"):
        read_book_pickle(tmp_path / "mnist.pkl.gz")


X, Y = pairs()[0]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (X, "records of the training part of .* are what numpy._core.multiarray._reconstruct makes. Expected a pair"),
        ((X, Y, Y), "records of the training part of .* are a tuple of 3. Expected a pair"),
        ((None, Y), "X of the training part of .* is an object of type NoneType. Expected a NumPy array"),
        ((X, Y.tolist()), "y of the training part of .* is a list of 6. Expected a NumPy array"),
        ((Y.reshape(3, 2), Y), r"X of .* is int64 of shape \(3, 2\). Expected floats of shape \(n_rows, n_in\)"),
        ((X[0], Y), r"X of .* is float32 of shape \(4,\)"),
        ((X[:, :, None], Y), r"X of .* is an array of a shape that is neither"),
        ((X, Y + 0.5), "y of .* is float64 of shape .* Expected 6 integer labels, one a row of X"),
        ((X, Y[:5]), r"y of .* is int64 of shape \(5,\). Expected 6 integer labels"),
        ((X, Y - 1), "has the label -1. Expected classes numbered from 0"),
        ((X, Y.astype(np.uint64) + np.uint64(2**63)), "has the label 92233720368547758"),
        ((X, np.array([None] * 6)), "y of .* is an array whose type is O8. Expected integers or floats"),
        ((X.astype(complex), Y), "X of .* is an array whose type is c16"),
        ((np.zeros((6, 4), [("a", "f4")]), Y), "it has the instruction 125, which no array of numbers needs"),
        ((X[:, :3], Y), "X of the validation part of .* has 4 numbers a row, but X of the training part has 3"),
    ],
)
def test_contents_that_do_not_fit_are_refused(tmp_path, pair, message):
    _, validation, test = pairs()
    with pytest.raises(FileError, match=message):
        read_book_pickle(write(tmp_path, pickle.dumps((pair, validation, test), protocol=3)))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(tmp_path, wrong):
    _, validation, test = pairs()
    X = np.full((6, 4), wrong)
    with pytest.raises(InputError, match=r"X of the training part of .* contains (NaN|infinity)"):
        read_book_pickle(write(tmp_path, pickle.dumps(((X, Y), validation, test), protocol=2)))


def with_first_array(state: bytes) -> bytes:
    """A pickle of three pairs that all hold an array of this state."""
    array = RECONSTRUCT + b"(cnumpy\nndarray\n(I0\ntS'b'\ntR" + state + b"b"
    return b"(" + (b"(" + array * 2 + b"t") * 3 + b"t."


FLOATS = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
BILLION = b")" + b"2\x86" * 64  # a tuple of a tuple ... of nothing, written out 2**64 times


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"(I1\nt", "is an array without its contents"),
        (b")", "is an array without its contents"),
        (
            b"(I1\n(I1048576\nI1048576\nt" + FLOATS + b"I0\nS'abcd'\nt",
            r"4398046511104 bytes, but the pickle holds 4 for it",
        ),
        (b"(I1\n(I-1\nI-1\nt" + FLOATS + b"I0\nS'abcd'\nt", "is an array of a shape that is neither"),
        (b"(I1\n" + b"(" + b"I1\n" * 70 + b"t" + FLOATS + b"I0\nS'abcd'\nt", "is an array of a shape that is neither"),
        (
            b"(I1\n(I0x" + b"f" * 9000 + b"\nI1\nt" + FLOATS + b"I0\nS'abcd'\nt",
            "is an array of a shape that is neither",
        ),
        (b"(I1\nN" + FLOATS + b"I0\nS'abcd'\nt", "is an array of a shape that is neither"),
        (b"(I1\n" + BILLION + FLOATS + b"I0\nS'abcd'\nt", "is an array of a shape that is neither"),
        (b"(I1\n(I1\nI1\ntNI0\nS'abcd'\nt", "is an array without a type"),
        (b"(I1\n(I1\nI1\nt" + FLOATS + b"I0\nNt", "is an array with an object of type NoneType in place of its bytes"),
        (b"(I1\n(I1\nI1\nt" + FLOATS + b"I0\n" + BILLION + b"t", "is an array with a tuple of 2 in place of its bytes"),
        (
            b"(I1\n(I1\nI1\nt" + FLOATS + b"I0\nV\\u1234\nt",
            "is an array with an object of type str in place of its bytes",
        ),
        (
            b"(I1\n(I1\nI1\ntcnumpy\ndtype\n(" + BILLION + b"I0\nI1\ntRI0\nS'abcd'\nt",
            "is an array whose type is a tuple of 2. Expected integers or floats",
        ),
        (b"(I1\n(I1\nI1\ntcnumpy\ndtype\n(S'f4,f8'\ntRI0\nS'abcd'\nt", "is an array whose type is f4,f8"),
    ],
)
def test_an_array_that_lies_is_refused_at_once(tmp_path, state, message):
    path = write(tmp_path, with_first_array(state))
    started = time.monotonic()
    tracemalloc.start()
    with pytest.raises(FileError, match=message):
        read_book_pickle(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "content",
    [
        b"Nr\xff\xff\xff\xff.",  # place 2**32 - 1 of the memo
        b"T\xff\xff\xff\x7fabc",  # text of 2 GiB
        b"B\xff\xff\xff\xffabc",  # bytes of 4 GiB
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x00.",  # a bytearray of 2**56
        b"\x8b\xff\xff\xff\x7f1",  # an integer of 2 GiB
        b"\x82\x01.",  # a registered extension
        BILLION + b"}" + BILLION + b"Ns.",  # a key that takes forever to hash
        b"]" * 200_000 + b".",  # objects without end
    ],
)
def test_a_bomb_is_refused_at_once(tmp_path, content):
    path = write(tmp_path, gzip.compress(content))
    tracemalloc.start()
    with pytest.raises(FileError, match=r"holds an object of type NoneType|is not a pickle of NumPy arrays"):
        read_book_pickle(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def test_a_file_that_grows_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "_SIZE_LIMIT", 1000)
    path = write(tmp_path, gzip.compress(b"\x80\x02" + b"N" * 10_000_000 + b"."))
    with pytest.raises(FileError, match="has more than 1000 bytes when decompressed"):
        read_book_pickle(path)


@in_tmp_path
@given(st.data())
def test_mutated_files_end_in_a_data_set_or_a_clear_error(tmp_path, data):
    protocol = data.draw(st.integers(0, 3))
    by = data.draw(st.sampled_from([by_python_2, pickle.dumps])) if protocol in (0, 2) else pickle.dumps
    content = bytearray(by(pairs(), protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = write(tmp_path, bytes(content))
    result = outcome(read_book_pickle, path)
    assert isinstance(result, DataSet) or str(path) in result


@in_tmp_path
@given(
    st.lists(
        st.sampled_from([*(bytes([code]) for code in book._Unpickler.dispatch), RECONSTRUCT, FLOATS])
        | st.binary(max_size=4)
    )
)
def test_any_instructions_end_in_a_clear_error(tmp_path, instructions):
    path = write(tmp_path, b"".join(instructions))
    with pytest.raises(FcnetError, match=r"mnist\.pkl\.gz"):
        read_book_pickle(path)
