"""Compiled code on the disk: files that are whole or not there, in a folder whose name is a digest of all that they are made from."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def folder(name: str, sources: Iterable[Path], words: Iterable[str]) -> Path:
    """Within NUMBA_CACHE_DIR, else the user's caches: one for these sources, of which some may be missing, and these words."""
    parts = [source.read_bytes() for source in sorted(sources) if source.exists()]
    digest = hashlib.sha256(b"".join([*parts, "\0".join(words).encode()])).hexdigest()[:16]
    return _place() / f"{name}-{digest}"


def _place() -> Path:
    if asked := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(asked)
    try:
        import platformdirs  # not needed by who has chosen a place
    except ImportError:
        return Path.home() / ".cache" / "fcnet"
    return Path(platformdirs.user_cache_dir("fcnet"))


def read(path: Path) -> tuple[bytes, bytes] | None:
    """What a file holds after a first line with something to say of it, or None where it was not written to its end."""
    try:
        digest, _, rest = path.read_bytes().partition(b" ")
    except OSError:
        return None
    line, _, content = rest.partition(b"\n")
    return (line, content) if hashlib.sha256(rest).hexdigest().encode() == digest else None


def write(path: Path, line: bytes, content: bytes) -> None:
    """Written whole or not at all; where nothing can be written, the next run compiles again."""
    rest = line + b"\n" + content
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
            stream.write(hashlib.sha256(rest).hexdigest().encode() + b" " + rest)
        Path(stream.name).replace(path)
