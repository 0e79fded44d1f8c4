"""Parquet: read in a process of its own with limited memory, so that no file can take ours along.

The format is binary, compressed and nested, and its readers are large. The child hands frames back as Arrow streams, each with
its length in front; where it dies, or takes too long, that is a ``FileError`` here.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fcnet.data.files import open_file, shown
from fcnet.errors import FileError

if TYPE_CHECKING:
    import polars

MEMORY = 4 << 30
"""Bytes of address space that the child may have, unless FCNET_PARQUET_MEMORY says another number."""
SECONDS = 120.0
"""How long the child may take for one frame."""
_FRAME_LIMIT = 1 << 31
_LENGTH = 8


def read_parquet(path: Path, n_rows: int = 1 << 16) -> Iterator[polars.DataFrame]:
    """The table in a Parquet file, in frames of at most ``n_rows`` rows; the first one comes also where there are no rows.

    Raises:
        FileError: no Parquet, damaged, with columns of columns, or one that needs more memory or time than it may have.
    """
    import polars

    with open_file(path) as file:
        if file.read(4) != b"PAR1":
            raise FileError(f"{path} is not Parquet: its first bytes are not PAR1. Write it again, or rename it.")
    memory = _memory()
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "fcnet.data.parquet", str(path.absolute()), str(n_rows), str(memory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": _package_place(), "POLARS_MAX_THREADS": "1"},
    )
    assert child.stdout is not None
    assert child.stderr is not None
    errors: list[bytes] = []
    listener = threading.Thread(target=_listen, args=(child.stderr, errors), daemon=True)
    listener.start()
    rows, late = 0, threading.Event()
    try:
        while True:
            timer = threading.Timer(SECONDS, _give_up, (child, late))
            timer.start()
            try:
                content = _frame(child.stdout, path)
            finally:
                timer.cancel()
            if content is None:
                break
            frame = polars.read_ipc_stream(io.BytesIO(content))
            rows += frame.height
            yield frame
        code = child.wait()
        listener.join(5)
        if late.is_set():
            raise FileError(
                f"{path}: a part of it took more than {SECONDS:g} s to read. The file is damaged, or meant to harm."
            )
        if code == _REFUSED:
            raise FileError(f"{path}: {shown(b''.join(errors).decode(errors='replace').strip())}")
        if code != 0:
            raise FileError(
                f"{path} cannot be read: its reader ended with code {code}, probably for want of memory, of which it may have "
                f"{memory / 2**30:.3g} GiB. The file is damaged; if it is only large, write it in smaller row groups, or set "
                "FCNET_PARQUET_MEMORY to more bytes."
            )
        if not rows:
            raise FileError(f"{path} has no rows. Expected at least one row.")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _memory() -> int:
    text = os.environ.get("FCNET_PARQUET_MEMORY", "")
    if not text:
        return MEMORY
    if not text.isdecimal() or int(text) < 1 << 28:
        raise FileError(f"FCNET_PARQUET_MEMORY is {text!r:.50}. Expected a number of bytes, {1 << 28} at least.")
    return int(text)


def _package_place() -> str:
    """Where the child finds this package: ours first, never the folder it is started in."""
    ours = str(Path(__file__).parents[2])
    return os.pathsep.join([ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])


def _give_up(child: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    child.kill()


def _listen(stream: IO[bytes], lines: list[bytes]) -> None:
    """The first of what the child says; the rest is thrown away, so that it never waits for us."""
    with stream:
        lines.append(stream.read(4096))
        while stream.read(4096):
            pass


def _frame(stream: IO[bytes], path: Path) -> bytes | None:
    """The next frame's content; None where the child sends no more."""
    head = stream.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    length = int.from_bytes(head, "little")
    if length > _FRAME_LIMIT:  # not the end: the child would wait for us for ever
        raise FileError(
            f"{path}: some rows of it have {length:,} bytes, expected {_FRAME_LIMIT:,} at most. The file is damaged, or its columns "
            "hold more than numbers and words."
        )
    content = stream.read(length)
    return content if len(content) == length else None


# --- In the child -----------------------------------------------------------------------------------------------------

_REFUSED = 3


def _serve(path: str, n_rows: int, memory: int) -> int:
    """Write the file's frames to standard output; the exit code."""
    import contextlib

    with contextlib.suppress(ImportError):  # not on every system
        import resource

        with contextlib.suppress(ValueError, OSError):  # not every system lets it be set
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import polars

    try:
        table = polars.scan_parquet(path, glob=False, hive_partitioning=False, use_statistics=False)
        schema = table.collect_schema()
        nested = [name for name, kind in schema.items() if kind.is_nested() or kind in (polars.Binary, polars.Object)]
        if nested:
            sys.stderr.write(
                f"the column {nested[0]!r:.100} is {schema[nested[0]]!s:.60}. Expected numbers, text, booleans or dates: take it "
                "apart, or drop it before it is written."
            )
            return _REFUSED
        _send(polars.DataFrame(schema=schema))
        for frame in table.collect_batches(chunk_size=n_rows, maintain_order=True):
            for start in range(0, frame.height, n_rows):
                _send(frame[start : start + n_rows])
    except polars.exceptions.PolarsError as error:
        sys.stderr.write(f"it is damaged, or not Parquet ({' '.join(str(error).split())[:300]}). Write it again.")
        return _REFUSED
    return 0


def _send(frame: polars.DataFrame) -> None:
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer)
    content = buffer.getvalue()
    sys.stdout.buffer.write(len(content).to_bytes(_LENGTH, "little") + content)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(_serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
