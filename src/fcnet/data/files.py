"""Files that nobody vouches for: what lies at a path, and its bytes, of which memory is taken as they arrive.

Only regular files are opened: a device never ends, a pipe may never begin.
"""

from __future__ import annotations

import gzip
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from fcnet.errors import FileError

Stream = IO[bytes] | gzip.GzipFile

_CHUNK = 1 << 20
_GROWTH = 16
"""How many times its size a compressed file may grow to, where that is beyond ``DECOMPRESSED_LIMIT``."""
TABLE_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
"""What the names of tables end in."""
DECOMPRESSED_LIMIT = 1 << 30
"""How many bytes any compressed file may grow to. Larger arrays are fine where they lie uncompressed."""


def what_is_at(path: Path) -> Literal["file", "folder", "other", "nothing"]:
    """What lies at a path, at the end of any links: "other" is a device, a pipe or a socket.

    Raises:
        FileError: it cannot be told.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: no file's name holds a zero byte
        return "nothing"
    except OSError as error:
        raise FileError(f"{path!s:.200} cannot be reached: {error.strerror}. Check the path.") from None
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def is_table(source: object) -> bool:
    """Whether a source is a table, by the ending of its name."""
    return str(source).lower().endswith(TABLE_ENDINGS)


def open_file(path: Path) -> IO[bytes]:
    """The file, open for reading; a ``FileError`` that says why where it cannot be."""
    found = what_is_at(path)
    if found == "nothing":
        raise FileError(f"There is no file {path}. Check the path.")
    if found == "folder":
        raise FileError(f"{path} is a folder. Expected a file.")
    if found == "other":
        raise FileError(f"{path} is a device or a pipe. Expected a file: save the data to one, and name that.")
    try:
        return path.open("rb")
    except OSError as error:
        raise FileError(f"{path} cannot be opened: {error.strerror}. Check the file and who may read it.") from None


@contextmanager
def open_content(path: Path) -> Iterator[Stream]:
    """A file's content as a stream, decompressed where it is gzip, told by its first bytes and not by its name.

    Whatever goes wrong while the stream is read ends in a ``FileError``.
    """
    with open_file(path) as file:
        try:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if compressed:
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream
            else:
                yield file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise FileError(f"{path} is a damaged gzip file: {error}. Fetch it again.") from None
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error}.") from None


def decompressed_limit(path: Path) -> int:
    """How many bytes a compressed file may grow to: large ones in proportion, so that only bombs are refused."""
    return max(DECOMPRESSED_LIMIT, _GROWTH * path.stat().st_size)


def read_some(stream: Stream, n: int) -> bytearray:
    """The next n bytes of a stream, or all that are left; memory is taken as they arrive, never for n at once."""
    content = bytearray()
    while len(content) < n:
        chunk = stream.read(min(_CHUNK, n - len(content)))
        if not chunk:
            break
        content += chunk
    return content


def shown(text: str) -> str:
    """Text from a file or a mirror as a message may hold it: not long, and nothing in it that a terminal obeys."""
    return text[:200] if text.isprintable() else repr(text[:200])
