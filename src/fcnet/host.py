"""The memory of this machine: what is free of it, in figures that a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fcnet.errors import OutOfMemoryError

_CGROUP = Path("/sys/fs/cgroup")
_LARGE = 1 << 26
"""What needs fewer bytes than these is tried at once."""


def free_on_host() -> int | None:
    """Bytes that this process may still take, by the system and by the container; None where neither says."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
        found.append(sizes["MemAvailable"] + sizes.get("SwapFree", 0))
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        found.append(int(limit) - int(used) + int(stat.get("inactive_file", 0)))  # of files' caches, which give way
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def in_words(n_bytes: int) -> str:
    """Bytes as a person reads them."""
    size, unit = float(n_bytes), "bytes"
    for larger in ("KB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if unit != "bytes" else f"{n_bytes} bytes"


@contextmanager
def room_for(what: str, n_bytes: int = 0) -> Iterator[None]:
    """Work that ends in an error with figures where the memory does not suffice; before it begins, where its bytes are known.

    Args:
        what: what is to be in memory, to begin a message with.
        n_bytes: of it, at least.

    Raises:
        OutOfMemoryError: with what it needs, where that is known, and what is free.
    """
    free = free_on_host() if n_bytes > _LARGE else None
    if free is not None and n_bytes > free:
        raise OutOfMemoryError(
            f"{what} needs {in_words(n_bytes)} of memory at least, of which {in_words(free)} are free. Use a smaller one, or a "
            "machine with more memory."
        )
    try:
        yield
    except OutOfMemoryError:
        raise
    except MemoryError as error:
        free = free_on_host()
        asked = f" ({error})" if str(error) else ""
        rest = "" if free is None else f", of which the system has {in_words(free)} free"
        raise OutOfMemoryError(
            f"{what} does not fit into the memory that this process may have{asked}{rest}. Use a smaller one, or a machine with "
            "more memory."
        ) from None
