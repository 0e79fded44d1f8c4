"""CSV: a file's rows as text, block by block, in memory that does not grow with the file.

The file is cut where records end, which is outside quotes; every block is checked as a whole by counting bytes, and only then
parsed by Polars. So a bad row is refused by its number, where Polars would fill a short one with missing values.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcnet.data.files import Stream, decompressed_limit, open_content, read_some, shown
from fcnet.errors import FileError

if TYPE_CHECKING:
    import polars

BLOCK = 1 << 22
"""Bytes in a block."""
RECORD_LIMIT = 1 << 26
"""Bytes that one row may have: more is a quote that nothing closes."""
COLUMN_LIMIT = 100_000
"""Columns that a table may have."""
MISSING = ("", "?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>")
"""Texts that stand for a missing value: pandas' common ones, and the question mark of older collections."""
_SEPARATORS = (",", ";", "\t", "|")
_NEWLINE, _RETURN, _QUOTE = ord("\n"), ord("\r"), ord('"')
_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_delimited(path: Path) -> Iterator[polars.DataFrame]:
    """The table in a CSV file, in frames of a few megabytes of text; the first one comes also where there are no rows.

    The first record names the columns. The separator is the comma, semicolon, tabulator or bar that is most frequent in it.
    Rows are numbered from 1, without that record. Blank lines are skipped where there are several columns. Every column is
    text, with null for ``MISSING``.

    Raises:
        FileError: no rows, a ragged row, a quote out of place, text that is not UTF-8, duplicate headers.
    """
    with open_content(path) as stream:
        blocks = _blocks(stream, path)
        first = next(blocks, b"")
        header_end = _record_ends(first, path, 1)[:1]
        if len(header_end) == 0 or not first.strip():
            raise FileError(f"{path} is empty. Expected a line of column names, and a row a line.")
        head = first[: header_end[0]]
        dialect = _dialect(head, path)
        rows = 0
        for block in _chain(first[header_end[0] :], blocks):
            frame = dialect.parse(block, rows + 1)
            rows += frame.height
            yield frame
        if not rows:
            raise FileError(f"{path} has a line of column names and no rows. Expected at least one row.")


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _blocks(stream: Stream, path: Path) -> Iterator[bytes]:
    """Whole records, some megabytes at a time; the last one ends in a newline, as all others do."""
    limit = decompressed_limit(path) if not _is_plain(stream) else None
    taken, pending, row = 0, bytearray(), 0
    while True:
        piece = read_some(stream, BLOCK)
        taken += len(piece)
        if limit is not None and taken > limit:
            raise FileError(f"{path} grows beyond {limit:,} bytes. Decompress it, and pass the file that comes of it.")
        if taken == len(piece):
            _check_encoding(piece, path)
            if piece.startswith(b"\xef\xbb\xbf"):
                del piece[:3]
        pending += piece
        if len(piece) == 0:
            if pending.strip(b"\r\n"):
                yield _whole(pending, path, row)
            return
        ends = _newlines_outside_quotes(np.frombuffer(bytes(pending), np.uint8))
        if len(ends):
            cut = int(ends[-1]) + 1
            yield bytes(pending[:cut])
            row += len(ends)
            del pending[:cut]
        elif len(pending) > RECORD_LIMIT:
            raise FileError(
                f"{path}: row {row} has more than {RECORD_LIMIT:,} bytes. A quote in it is probably never closed: "
                "close it, or double it where it is part of the text."
            )


def _whole(pending: bytearray, path: Path, row: int) -> bytes:
    """The last block, which no newline need end."""
    if np.count_nonzero(np.frombuffer(bytes(pending), np.uint8) == _QUOTE) % 2:
        raise FileError(
            f"{path}: a quote that opens in row {row} or a later one is never closed. Close it, or double it where it is "
            "part of the text."
        )
    return bytes(pending) if pending.endswith(b"\n") else bytes(pending) + b"\n"


def _is_plain(stream: Stream) -> bool:
    return not hasattr(stream, "compresslevel") and type(stream).__name__ != "GzipFile"


def _check_encoding(piece: bytearray, path: Path) -> None:
    name = _BYTE_ORDER_MARKS.get(bytes(piece[:2])) or ("binary data" if b"\0" in piece[:4096] else None)
    if name is not None:
        raise FileError(f"{path} is {name}, not text in UTF-8. Save it as UTF-8, and as CSV or Parquet.")


def _newlines_outside_quotes(content: NDArray[np.uint8]) -> NDArray[np.int64]:
    newlines = np.flatnonzero(content == _NEWLINE)
    quotes = np.flatnonzero(content == _QUOTE)
    return newlines[np.searchsorted(quotes, newlines) % 2 == 0] if len(quotes) else newlines


def _record_ends(block: bytes, path: Path, first_row: int) -> NDArray[np.int64]:
    """Where each record ends, behind its newline."""
    return _newlines_outside_quotes(np.frombuffer(block, np.uint8)) + 1


def _dialect(head: bytes, path: Path) -> Dialect:
    text = _decoded(head, path, 0, "its column names")
    separator = max(_SEPARATORS, key=lambda one: _count_outside_quotes(text, one))
    plain = Dialect(path, separator, ())
    (names,) = plain.parse_any(head, _count_outside_quotes(text, separator) + 1, 0, "its column names").rows()
    cleaned = tuple((name or "").strip() for name in names)
    if unnamed := [place for place, name in enumerate(cleaned, 1) if not name]:
        raise FileError(f"{path}: column {unnamed[0]} has no name. Expected a name for each in the first line.")
    if repeated := [name for place, name in enumerate(cleaned) if name in cleaned[:place]]:
        places = [str(place) for place, name in enumerate(cleaned, 1) if name == repeated[0]]
        raise FileError(
            f"{path}: the column name {shown(repeated[0])!r} stands at columns {' and '.join(places[:4])}. "
            "Expected each name once: rename or delete one."
        )
    return Dialect(path, separator, cleaned)


def _count_outside_quotes(text: str, separator: str) -> int:
    return sum(part.count(separator) for part in text.split('"')[::2])


def _decoded(content: bytes, path: Path, row: int, what: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        bad = row + content[: error.start].count(b"\n")
        where = f"row {bad}" if row else what
        raise FileError(
            f"{path}: {where} holds the byte 0x{content[error.start]:02x}, which is not text in UTF-8. The file is probably "
            "in Latin-1 or Windows-1252: save it as UTF-8."
        ) from None


@dataclass(frozen=True)
class Dialect:
    """How the records of one file are read.

    Attributes:
        path: the file, for messages.
        separator: between fields.
        names: of the columns.
    """

    path: Path
    separator: str
    names: tuple[str, ...]

    def parse(self, block: bytes, first_row: int) -> polars.DataFrame:
        """Whole records as columns of text; ``first_row`` is the number of the first."""
        _decoded(block, self.path, first_row, "a row")
        content = np.frombuffer(block, np.uint8)
        if len(self.names) > 1:
            content = _without_blank_lines(content)
        self._check_quotes(content, first_row)
        self._check_fields(content, first_row)
        frame = self.parse_any(content.tobytes(), len(self.names), first_row, "a row")
        return _with_nulls(frame.rename(dict(zip(frame.columns, self.names, strict=True))))

    def parse_any(self, content: bytes, n_columns: int, row: int, what: str) -> polars.DataFrame:
        """Records of so many fields."""
        import polars

        if n_columns > COLUMN_LIMIT:
            raise FileError(f"{self.path} has {n_columns:,} columns. Expected {COLUMN_LIMIT:,} at most.")
        schema = {f"column_{place}": polars.String for place in range(n_columns)}
        if not content:
            return polars.DataFrame(schema=schema)
        try:
            return polars.read_csv(
                io.BytesIO(content),
                has_header=False,
                schema=schema,
                separator=self.separator,
                quote_char='"',
                raise_if_empty=False,
            )
        except polars.exceptions.PolarsError as error:
            where = f"row {row} or a later one" if row else what
            raise FileError(f"{self.path}: {where} cannot be read ({shown(str(error))}). Expected CSV.") from None

    def _check_quotes(self, content: NDArray[np.uint8], first_row: int) -> None:
        """A quote stands at a field's end, or doubled within a quoted field."""
        quotes = np.flatnonzero(content == _QUOTE)
        if not len(quotes):
            return
        opening, closing = quotes[::2], quotes[1::2]
        edges = np.array([ord(self.separator), _NEWLINE], np.uint8)
        before = np.where(opening == 0, _NEWLINE, content[opening - 1])
        after = content[np.minimum(closing + 1, len(content) - 1)]
        reopened = np.concatenate([[False], opening[1:] == closing[: len(opening) - 1] + 1])
        bad = opening[~(np.isin(before, edges) | reopened)]
        bad_end = closing[~(np.isin(after, edges) | (after == _RETURN) | (after == _QUOTE))]
        wrong = np.sort(np.concatenate([bad, bad_end]))
        if len(wrong):
            row = first_row + int(np.searchsorted(_newlines_outside_quotes(content), wrong[0]))
            raise FileError(
                f'{self.path}: row {row} has a quote (") in the middle of a field. Put the whole field in quotes, and double '
                "the quotes in it."
            )

    def _check_fields(self, content: NDArray[np.uint8], first_row: int) -> None:
        """Every record has as many fields as there are names."""
        ends = _newlines_outside_quotes(content)
        separators = np.flatnonzero(content == ord(self.separator))
        quotes = np.flatnonzero(content == _QUOTE)
        if len(quotes):
            separators = separators[np.searchsorted(quotes, separators) % 2 == 0]
        fields = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
        ragged = np.flatnonzero(fields != len(self.names))
        if len(ragged):
            found = int(fields[ragged[0]])
            raise FileError(
                f"{self.path}: row {first_row + int(ragged[0])} has {found} field{'s' * (found != 1)}, expected "
                f"{len(self.names)}, one for each column name. Put fields that hold {self._separator_in_words()} in quotes."
            )

    def _separator_in_words(self) -> str:
        return {",": "a comma", ";": "a semicolon", "\t": "a tabulator"}.get(self.separator, "a bar")


def _without_blank_lines(content: NDArray[np.uint8]) -> NDArray[np.uint8]:
    ends = _newlines_outside_quotes(content)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts
    returns = (lengths == 1) & (content[starts] == _RETURN)
    blank = np.flatnonzero((lengths == 0) | returns)
    if not len(blank):
        return content
    keep = np.ones(len(content), bool)
    for record in blank:
        keep[starts[record] : ends[record] + 1] = False
    return content[keep]


def _with_nulls(frame: polars.DataFrame) -> Any:
    """Text without spaces around it, and null for what stands for a missing value."""
    import polars

    text = polars.all().str.strip_chars()
    return frame.with_columns(polars.when(text.is_in(MISSING)).then(None).otherwise(text).name.keep())
