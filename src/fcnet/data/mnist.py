"""MNIST: 70,000 handwritten digits, found on this machine or fetched once and kept.

Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document recognition", Proceedings of
the IEEE, 1998.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import os
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fcnet.data.arrays import DataSet
from fcnet.data.files import read_some, shown, what_is_at
from fcnet.data.idx import Kind, PartName, find_idx, read_idx_folder
from fcnet.errors import DownloadError, FileError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
"""Where the four files are fetched from, each tried in turn."""

_FILES: dict[tuple[PartName, Kind], tuple[str, str, int]] = {
    ("train", "images"): ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb", 47_040_016),
    ("train", "labels"): ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624", 60_008),
    ("test", "images"): ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea", 7_840_016),
    ("test", "labels"): ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637", 10_008),
}
"""The four files: name, MD5 and size of the decompressed content."""
_DOWNLOAD_LIMIT = 1 << 24
"""Bytes of one compressed file; the largest has 9.9 million."""
_TIMEOUT = 30.0
"""Seconds in which a mirror must answer."""
_TIME_LIMIT = 1800.0
"""Seconds in which it must have sent a whole file; one that sends a byte now and then would otherwise hold us forever."""
_CHUNK = 1 << 16

Advance = Callable[..., None]
"""Told how many bytes are ``completed`` and what the ``total`` will be: None where the mirror does not say."""


def mnist(download: bool = True) -> DataSet:
    """MNIST as the book splits it: 50,000 rows to train, 10,000 to validate, 10,000 to test; 784 pixels from 0 to 1.

    Its four IDX files are looked for in ``$FCNET_DATA/mnist``, in ``$FCNET_DATA`` and in the user's cache folder. Where
    they are in none of them, they are fetched into the cache folder, checked against their published MD5.

    Args:
        download: whether to fetch what is not found.

    Raises:
        DownloadError: no mirror gave a file, or it could not be kept.
        FileError: files that were found and are not MNIST's; or none were found, and ``download`` is False.
    """
    named = _named_folders()
    for folder in named:
        if find_idx(folder, "train", "images"):
            return _read(folder)
    import platformdirs  # not needed by who has the files

    cache = Path(platformdirs.user_cache_dir("fcnet")) / "mnist"
    missing = [file for place, file in _FILES.items() if not find_idx(cache, *place)]
    if missing and not download:
        raise FileError(
            f"MNIST is not on this machine. Looked in: {', '.join(map(str, [*named, cache]))}. Call "
            f"mnist(download=True), or {_by_hand(cache)}"
        )
    if missing:
        _download(missing, cache)
    return _read(cache)


def _named_folders() -> list[Path]:
    """The folders that FCNET_DATA names."""
    variable = os.environ.get("FCNET_DATA")
    if not variable:
        return []
    folder = Path(variable)
    if what_is_at(folder) != "folder":
        raise FileError(
            f"The environment variable FCNET_DATA names {folder}, which is not a folder. Name the folder that holds "
            "the data sets, or unset it."
        )
    return [folder / "mnist", folder]


def _read(folder: Path) -> DataSet:
    data = read_idx_folder(folder)
    shapes = [None if part is None else part.X.shape for part in (data.train, data.validation, data.test)]
    if shapes != [(50_000, 784), (10_000, 784), (10_000, 784)] or data.n_classes != 10:
        raise FileError(
            f"The IDX files in {folder} are not MNIST's: training, validation and test images are {shapes}, in "
            f"{data.n_classes} classes. Expected 50,000, 10,000 and 10,000 rows of 784 pixels in 10 classes. To read "
            "other files, name their folder in place of mnist."
        )
    return replace(data, name="mnist")


def _by_hand(cache: Path) -> str:
    """How to do without a download."""
    names = ", ".join(f"{name}.gz" for name, _, _ in _FILES.values())
    return f"put {names} into {cache}, or into a folder that the environment variable FCNET_DATA names."


def _download(files: list[tuple[str, str, int]], folder: Path) -> None:
    """Fetch the files into the folder. Each appears under its name whole, checked and at once, or not at all."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for name, md5, size in files:
            task = progress.add_task(f"MNIST: {name}.gz", total=None)
            content = _fetch(name, md5, size, folder, partial(progress.update, task))
            _keep(content, folder / f"{name}.gz")


def _fetch(name: str, md5: str, size: int, folder: Path, advance: Advance) -> bytes:
    """The compressed file from the first mirror that has it as it must be."""
    reasons = []
    for mirror in MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            content = _receive(url, advance)
            _check(content, md5, size)
            return content
        except (OSError, ValueError, EOFError, zlib.error, http.client.HTTPException) as error:
            reasons.append(f"  {url}: {shown(str(error)) or type(error).__name__}")
    raise DownloadError(
        f"MNIST could not be fetched: no mirror gave {name}.gz.\n"
        + "\n".join(reasons)
        + f"\nCheck the network and try again; or {_by_hand(folder)}"
    )


def _receive(url: str, advance: Advance) -> bytes:
    began = time.monotonic()
    with _open(url) as response:
        length = getattr(response, "length", None)
        if length is not None and length > _DOWNLOAD_LIMIT:
            raise ValueError(f"says that it sends more than {_DOWNLOAD_LIMIT} bytes, too many for this file")
        content = bytearray()
        while chunk := response.read1(_CHUNK):
            content += chunk
            if len(content) > _DOWNLOAD_LIMIT:
                raise ValueError(f"sent more than {_DOWNLOAD_LIMIT} bytes, too many for this file")
            if time.monotonic() - began > _TIME_LIMIT:
                raise TimeoutError(f"sent only {len(content)} bytes in {_TIME_LIMIT:.0f} seconds")
            advance(completed=len(content), total=length)
    return bytes(content)


class _HttpsAlone(urllib.request.HTTPRedirectHandler):
    """Follows a mirror that sends us elsewhere by https alone; any other address is not even asked."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"sends us to {shown(newurl)}, expected https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "fcnet"})
    response: http.client.HTTPResponse = urllib.request.build_opener(_HttpsAlone).open(request, timeout=_TIMEOUT)
    return response


def _check(content: bytes, md5: str, size: int) -> None:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        found = hashlib.md5(read_some(stream, size + 1), usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"sent another file: the MD5 of its decompressed content is {found}, expected {md5}")


def _keep(content: bytes, path: Path) -> None:
    """Write a file beside its place and move it there, so that no reader and no second writer meets half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        partial = Path(name)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else a power loss could leave an empty file under the final name
            partial.chmod(0o644)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(
            f"{path.name} was fetched, but {path.parent} cannot keep it: {error}. Make room there, or "
            f"{_by_hand(path.parent)}"
        ) from None
