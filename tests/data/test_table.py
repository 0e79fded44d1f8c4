"""Tables: what is read, and every bad one with its message."""

from __future__ import annotations

import contextlib
import gzip
import random
import tracemalloc

import polars
import pytest

from fcnet.data import delimited, files, parquet
from fcnet.data.files import is_table
from fcnet.data.table import as_times, order_of_times, read_batches, read_table
from fcnet.errors import FcnetError, FileError, InputError


def table(folder, content, name="t.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_types_are_those_of_all_values(tmp_path):
    path = table(
        tmp_path,
        'i,x,b,day,t,zip,none,"a, b"\n'
        '1,1.5,true,2024-02-29,"say ""hi"", all",007,,é\n'
        "-2,NaN,False,2024-03-01 10:00:00,?,12345,NA, x \n",
    )
    frame = read_table(path)
    assert frame.columns == ["i", "x", "b", "day", "t", "zip", "none", "a, b"]
    assert [str(kind) for kind in frame.dtypes[:3]] == ["Int64", "Float64", "Boolean"]
    assert str(frame["day"].dtype).startswith("Datetime")
    assert frame["none"].dtype == polars.Null
    assert frame.row(0)[4:6] == ('say "hi", all', "007")
    assert frame.row(1)[:3] == (-2, None, False)
    assert frame["t"].to_list() == ['say "hi", all', None]
    assert frame["a, b"].to_list() == ["é", "x"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_and_line_ends(tmp_path, separator, end):
    text = end.join(separator.join(row) for row in (("a", "b"), ("1", '"x\ny"'), ("2", "z")))
    assert read_table(table(tmp_path, "\ufeff" + text)).rows() == [(1, "x\ny"), (2, "z")]


def test_gzip_and_blank_lines(tmp_path):
    assert read_table(table(tmp_path, gzip.compress(b"a,b\n1,2\n\n3,4\r\n\r\n\n"), "t.csv.gz").resolve()).rows() == [
        (1, 2),
        (3, 4),
    ]


def test_one_column_keeps_its_missing_rows(tmp_path):
    assert read_table(table(tmp_path, "a\n1\n\n3\n"))["a"].to_list() == [1, None, 3]


BAD = {
    "empty": (b"", "is empty. Expected a line of column names"),
    "blank": (b"\n\n", "is empty"),
    "no rows": (b"a,b\n", "has a line of column names and no rows"),
    "long row": (b"a,b\n1,2\n1,2,3\n", "row 2 has 3 fields, expected 2"),
    "short row": (b"a,b\n1,2\n1,2\n1\n", "row 3 has 1 field, expected 2"),
    "Latin-1": ("a,b\n1,2\ncafé,2\n".encode("latin-1"), "row 2 holds the byte 0xe9, which is not text in UTF-8"),
    "Latin-1 names": ("caf\u00e9,b\n1,2\n".encode("latin-1"), "its column names holds the byte 0xe9"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "is UTF-16, not text in UTF-8"),
    "binary": (b"a,b\n\x00\x01,2\n", "is binary data"),
    "same name": (b"a,b,a\n1,2,3\n", "the column name 'a' stands at columns 1 and 3"),
    "no name": (b"a,,c\n1,2,3\n", "column 2 has no name"),
    "quote": (b'a,b\n1,2\n5" pipe,2\n6" pipe,3\n', r'row 2 has a quote \("\) in the middle of a field'),
    "open quote": (b'a,b\n1,2\n"x,2\n', "a quote that opens in row 2 or a later one is never closed"),
    "gzip": (gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-12], "is a damaged gzip file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables(tmp_path, name):
    content, message = BAD[name]
    path = table(tmp_path, content)
    with pytest.raises(FileError, match=message) as raised:
        read_table(path)
    assert str(path) in str(raised.value)


def test_rows_are_counted_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK", 64)
    rows = [f'{n},"{"x" * (n % 50)}\n",{n}' for n in range(500)]
    path = table(tmp_path, "a,b,c\n" + "\n".join(rows))
    assert read_table(path)["a"].to_list() == list(range(500))
    rows[321] += ",1"
    with pytest.raises(FileError, match="row 322 has 4 fields"):
        read_table(table(tmp_path, "a,b,c\n" + "\n".join(rows)))


def test_a_quote_that_is_never_closed_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK", 1 << 10)
    monkeypatch.setattr(delimited, "RECORD_LIMIT", 1 << 12)
    with pytest.raises(FileError, match="never closed"):
        read_table(table(tmp_path, 'a\n"' + "x\n" * 100_000))


def test_batches_take_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK", 1 << 18)
    path = table(tmp_path, "a,b\n" + "1.25,some text that is not short\n" * 300_000)
    tracemalloc.start()
    rows = sum(frame.height for frame in read_batches(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 300_000
    assert peak < 16 * delimited.BLOCK


def test_anything_ends_in_a_table_or_an_error(tmp_path):
    draw = random.Random(0)
    seeds = [b'a,b\n1,"x\n""y"\n3,4\n', b"a\n1\n", b"x;y\r\n1,5;2\r\n"]
    for _ in range(400):
        content = bytearray(draw.choice(seeds) * draw.randint(1, 3))
        for _ in range(draw.randint(1, 5)):
            content[draw.randrange(len(content))] = draw.choice(b'",;\n\r\0\xffa1')
        with contextlib.suppress(FcnetError):
            read_table(table(tmp_path, bytes(content)))


def test_what_is_a_table():
    assert is_table("A.CSV")
    assert not is_table("a.npz")
    with pytest.raises(InputError, match="is no table by its name"):
        next(read_batches("a.xls"))
    with pytest.raises(FileError, match="There is no file"):
        next(read_batches("missing.csv"))
    with pytest.raises(FileError, match="There is no file"):
        next(read_batches("missing.parquet"))


@pytest.mark.parametrize(
    ("text", "clear", "month_first", "day_first"),
    [
        ("2024-02-29", "2024-02-29T00:00:00", None, None),
        ("2024/3/1 7:05", "2024-03-01T07:05:00", None, None),
        ("31.12.2024", "2024-12-31T00:00:00", None, None),
        ("31.12.24", "2024-12-31T00:00:00", None, None),
        ("29-Feb-24", "2024-02-29T00:00:00", None, None),
        ("3 January 2024", "2024-01-03T00:00:00", None, None),
        ("Jan 3, 2024", "2024-01-03T00:00:00", None, None),
        ("2024-01-01T10:00:00", "2024-01-01T10:00:00", None, None),
        ("2024-01-01T10:00:00Z", "2024-01-01T10:00:00", None, None),
        ("2024-01-01 10:00:00+02:00", "2024-01-01T08:00:00", None, None),
        ("03/04/2025", None, "2025-03-04T00:00:00", "2025-04-03T00:00:00"),
        ("3/4/25 1:05 PM", None, "2025-03-04T13:05:00", "2025-04-03T13:05:00"),
        ("13/4/2025", None, None, "2025-04-13T00:00:00"),
        *(
            (text, None, None, None)
            for text in ("2024-02-30", "2024-02-29 soon", "1.2.3", "31.12.024", "May", "", None)
        ),
    ],
)
def test_times(text, clear, month_first, day_first):
    column = polars.Series([text, None], dtype=polars.String)
    for order, expected in (("clear", clear), ("month first", month_first), ("day first", day_first)):
        time = as_times(column, order)[0]
        assert (None if time is None else time.isoformat()) == expected


def test_the_order_of_a_column_s_times():
    def order(*texts):
        return order_of_times(polars.Series(texts))

    assert order("2024-02-29", "1 May 2024", None) == "clear"
    assert order("1/2/2024", "1/31/2024") == "month first"
    assert order("1/2/2024", "31/1/2024") == "day first"
    assert order("1/2/2024", "2/1/2024") is None
    assert order("1/31/2024", "31/1/2024") is None
    assert order("1/31/2024", "2024-02-29") is None


# --- Parquet ------------------------------------------------------------------------------------------------------------


def test_parquet(tmp_path):
    frame = polars.DataFrame({"a": range(200_000), "b": ["x", None] * 100_000})
    frame.write_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").equals(frame)
    assert max(part.height for part in read_batches(tmp_path / "t.parquet")) <= 1 << 16


def test_bad_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    polars.DataFrame({"a": range(1000), "b": ["x"] * 1000}).write_parquet(path)
    content = path.read_bytes()
    with pytest.raises(FileError, match="not Parquet: its first bytes"):
        read_table(table(tmp_path, b"a,b\n1,2\n", "c.parquet"))
    for bad in (content[:-20], content[:8], content[:4] + b"\xff" * (len(content) - 8) + b"PAR1"):
        with pytest.raises(FileError, match=r"damaged"):
            read_table(table(tmp_path, bad, "bad.parquet"))
    polars.DataFrame({"a": [[1], [2]]}).write_parquet(path)
    with pytest.raises(FileError, match="the column 'a' is List"):
        read_table(path)
    polars.DataFrame({"a": []}, schema={"a": polars.Int64}).write_parquet(path)
    with pytest.raises(FileError, match="has no rows"):
        read_table(path)


def test_a_parquet_that_grows_and_grows(tmp_path, monkeypatch):
    path = tmp_path / "bomb.parquet"
    polars.select(a=polars.repeat("x" * 1000, 100_000)).write_parquet(path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(files, "DECOMPRESSED_LIMIT", 1 << 24)
    with pytest.raises(FileError, match="grows beyond"):
        read_table(path)


def test_a_child_that_hangs_is_ended(tmp_path, monkeypatch):
    polars.DataFrame({"a": [1]}).write_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr(parquet, "SECONDS", 0.01)
    with pytest.raises(FileError, match="took more than"):
        read_table(tmp_path / "t.parquet")


def test_a_child_that_dies_is_an_error(tmp_path, monkeypatch):
    polars.DataFrame({"a": [1]}).write_parquet(tmp_path / "t.parquet")
    monkeypatch.setenv("FCNET_PARQUET_MEMORY", str(1 << 28))
    monkeypatch.setattr(parquet, "_memory", lambda: 1 << 24)
    with pytest.raises(FileError, match="its reader ended with code"):
        read_table(tmp_path / "t.parquet")


def test_rows_that_are_too_large_are_refused_at_once(tmp_path, monkeypatch):
    polars.DataFrame({"a": [str(n) * 100_000 for n in range(10)]}).write_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr(parquet, "_FRAME_LIMIT", 1 << 16)
    with pytest.raises(FileError, match=r"some rows of it have 1,0\d\d,\d{3} bytes, expected 65,536 at most\."):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("memory", ["lots", "1000", "-1", "1e9"])
def test_a_memory_that_is_none(tmp_path, monkeypatch, memory):
    polars.DataFrame({"a": [1]}).write_parquet(tmp_path / "t.parquet")
    monkeypatch.setenv("FCNET_PARQUET_MEMORY", memory)
    with pytest.raises(
        FileError, match=rf"FCNET_PARQUET_MEMORY is '{memory}'\. Expected a number of bytes, 268435456 at least\."
    ):
        read_table(tmp_path / "t.parquet")
    monkeypatch.setenv("FCNET_PARQUET_MEMORY", str(3 << 30))
    assert read_table(tmp_path / "t.parquet").height == 1


def test_a_compressed_table_that_grows_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DECOMPRESSED_LIMIT", 20_000)
    monkeypatch.setattr(files, "_GROWTH", 1)
    path = table(tmp_path, gzip.compress(b"a,b\n" + b"1,2\n" * 10_000), "bomb.csv.gz")
    with pytest.raises(
        FileError, match=r"grows beyond 20,000 bytes\. Decompress it, and pass the file that comes of it\."
    ):
        read_table(path)
