"""MNIST: where it is looked for, and how it is fetched, from a stand-in for the mirrors."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from fcnet.data import mnist as module
from fcnet.data.mnist import MIRRORS, mnist
from fcnet.errors import DownloadError, FileError

NAMES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}


def blank_mnist() -> dict[str, bytes]:
    """Files of MNIST's shape: black images, labels 0 to 9 in turn."""
    content = {}
    for part, n in (("train", 60_000), ("test", 10_000)):
        count = n.to_bytes(4, "big")
        size = (28).to_bytes(4, "big")
        content[NAMES[part, "images"]] = b"\0\0\x08\x03" + count + size + size + bytes(n * 784)
        content[NAMES[part, "labels"]] = b"\0\0\x08\x01" + count + (np.arange(n) % 10).astype(np.uint8).tobytes()
    return content


CONTENT = blank_mnist()
PACKED = {name: gzip.compress(content, compresslevel=1, mtime=0) for name, content in CONTENT.items()}


class Mirrors:
    """Stands in for the network: answers with the files of the blank MNIST, or as ``answers`` say."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, bytes | Exception] = {}

    def __call__(self, url: str) -> io.BytesIO:
        self.asked.append(url)
        name = url.rsplit("/", 1)[1].removesuffix(".gz")
        answer = next((self.answers[part] for part in self.answers if part in url), PACKED[name])
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The cache folder of a user who has nothing."""
    monkeypatch.delenv("FCNET_DATA", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    return tmp_path / "cache" / "fcnet" / "mnist"


@pytest.fixture
def mirrors(monkeypatch, cache) -> Mirrors:
    stand_in = Mirrors()
    monkeypatch.setattr(module, "_open", stand_in)
    sums = {
        place: (name, hashlib.md5(CONTENT[name], usedforsecurity=False).hexdigest(), len(CONTENT[name]))
        for place, name in NAMES.items()
    }
    monkeypatch.setattr(module, "_FILES", sums)
    return stand_in


def put(folder: Path, content: dict[str, bytes] = PACKED) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, packed in content.items():
        (folder / f"{name}.gz").write_bytes(packed)
    return folder


def test_real_mnist(shared_data, monkeypatch):
    monkeypatch.setenv("FCNET_DATA", str(shared_data))
    data = mnist(download=False)
    assert data.name == "mnist"
    assert data.n_classes == 10
    parts = data.train, data.validation, data.test
    assert [part.X.shape for part in parts] == [(50_000, 784), (10_000, 784), (10_000, 784)]
    assert [part.X.dtype for part in parts] == [np.float32] * 3
    assert data.train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.validation.y[:5].tolist() == [3, 8, 6, 9, 6]


def test_the_published_sums_are_those_of_the_real_files(shared_data):
    for name, md5, size in module._FILES.values():
        content = gzip.decompress((shared_data / "mnist" / f"{name}.gz").read_bytes())
        assert len(content) == size
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == md5


@pytest.mark.parametrize("below", ["mnist", "."])
def test_the_named_folder_comes_first(tmp_path, monkeypatch, mirrors, below):
    put(tmp_path / "named" / below)
    monkeypatch.setenv("FCNET_DATA", str(tmp_path / "named"))
    assert mnist().train.n_rows == 50_000
    assert mirrors.asked == []


def test_the_cache_comes_before_a_download(tmp_path, monkeypatch, mirrors, cache):
    put(cache)
    (tmp_path / "named").mkdir()
    monkeypatch.setenv("FCNET_DATA", str(tmp_path / "named"))
    assert mnist(download=False).train.y[:3].tolist() == [0, 1, 2]
    assert mirrors.asked == []


def test_what_is_missing_is_fetched_once(mirrors, cache, capfd):
    data = mnist()
    assert [part.n_rows for part in (data.train, data.validation, data.test)] == [50_000, 10_000, 10_000]
    assert mirrors.asked == [f"{MIRRORS[0]}{name}.gz" for name in NAMES.values()]
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{name}.gz" for name in NAMES.values())
    assert capfd.readouterr().out == ""
    mnist()
    assert len(mirrors.asked) == 4


def test_a_file_that_is_there_is_not_fetched_again(mirrors, cache):
    mnist()
    (cache / "t10k-labels-idx1-ubyte.gz").unlink()
    mnist()
    assert mirrors.asked[4:] == [f"{MIRRORS[0]}t10k-labels-idx1-ubyte.gz"]


WRONG = [
    (urllib.error.URLError("no route"), "no route"),
    (urllib.error.HTTPError("url", 404, "Not Found", None, None), "HTTP Error 404: Not Found"),
    (TimeoutError("timed out"), "timed out"),
    (b"<html>Log in to the network</html>", "Not a gzipped file"),
    (
        PACKED["t10k-labels-idx1-ubyte"],
        "sent another file: the MD5 of its decompressed content is [0-9a-f]{32}, expected",
    ),
    (PACKED["train-images-idx3-ubyte"][:-20], "ended before the end-of-stream marker"),
    (gzip.compress(CONTENT["train-images-idx3-ubyte"] + b"\0" * 10_000_000), "sent another file"),
    (bytes((1 << 24) + 1), "sent more than 16777216 bytes, too many for this file"),
]


@pytest.mark.parametrize(("answer", "reason"), WRONG)
def test_the_second_mirror_helps_where_the_first_fails(mirrors, cache, answer, reason):
    mirrors.answers[f"{MIRRORS[0]}train-images"] = answer
    assert mnist().train.n_rows == 50_000
    assert [url for url in mirrors.asked if "train-images" in url] == [
        f"{mirror}train-images-idx3-ubyte.gz" for mirror in MIRRORS
    ]


@pytest.mark.parametrize(("answer", "reason"), WRONG)
def test_when_all_mirrors_fail_the_message_says_why_and_what_to_do(mirrors, cache, answer, reason):
    mirrors.answers["train-images"] = answer
    with pytest.raises(DownloadError, match=r"no mirror gave train-images-idx3-ubyte.gz") as caught:
        mnist()
    for mirror in MIRRORS:
        assert caught.match(rf"{mirror}train-images-idx3-ubyte.gz: .*{reason}")
    assert caught.match(
        rf"put train-images-idx3-ubyte.gz, .*t10k-labels-idx1-ubyte.gz into {cache}, or into a folder that"
    )
    assert not cache.exists()


def test_a_file_that_cannot_be_kept_leaves_nothing_behind(mirrors, cache, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(
        DownloadError, match=r"was fetched, but .* cannot keep it: .*No space left.*Make room there, or put"
    ):
        mnist()
    assert list(cache.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_named(mirrors, cache):
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("a file where a folder should be")
    with pytest.raises(DownloadError, match="cannot keep it"):
        mnist()


def test_two_at_once(mirrors, cache):
    results = []
    threads = [threading.Thread(target=lambda: results.append(mnist().test.n_rows)) for _ in range(2)]
    # rich shows one progress bar at a time in a process; what is shared here is the folder
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [10_000, 10_000]
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{name}.gz" for name in NAMES.values())


def test_without_a_download_the_message_says_where_it_looked(tmp_path, monkeypatch, mirrors, cache):
    with pytest.raises(
        FileError, match=rf"MNIST is not on this machine. Looked in: {cache}. Call mnist\(download=True\)"
    ):
        mnist(download=False)
    monkeypatch.setenv("FCNET_DATA", str(tmp_path))
    with pytest.raises(FileError, match=rf"Looked in: {tmp_path / 'mnist'}, {tmp_path}, {cache}"):
        mnist(download=False)
    assert mirrors.asked == []


def test_a_named_folder_that_is_not_there_is_an_error(tmp_path, monkeypatch, mirrors):
    monkeypatch.setenv("FCNET_DATA", str(tmp_path / "typo"))
    with pytest.raises(FileError, match=r"FCNET_DATA names .*typo, which is not a folder"):
        mnist()


def test_an_empty_variable_is_none(monkeypatch, mirrors, cache):
    monkeypatch.setenv("FCNET_DATA", "")
    put(cache)
    assert mnist().n_in == 784


def test_other_files_under_the_same_names_are_refused(mirrors, tmp_path, monkeypatch):
    images = b"\0\0\x08\x03\0\0\0\x06\0\0\0\x02\0\0\0\x02" + bytes(24)
    labels = b"\0\0\x08\x01\0\0\0\x06" + bytes(6)
    small = {name: gzip.compress(images if "images" in name else labels) for name in NAMES.values()}
    monkeypatch.setenv("FCNET_DATA", str(put(tmp_path / "named", small)))
    with pytest.raises(FileError, match=r"are not MNIST's: .* are \[\(5, 4\), \(1, 4\), \(6, 4\)\], in 1 classes"):
        mnist()
    for name in small:
        if name.startswith("t10k"):
            (tmp_path / "named" / f"{name}.gz").unlink()
    with pytest.raises(FileError, match=r"are not MNIST's: .* are \[\(5, 4\), \(1, 4\), None\]"):
        mnist()


class Response(io.BytesIO):
    url = "https://mirror.example/file.gz"


def test_a_mirror_must_answer_by_https(monkeypatch):
    asked = []

    def urlopen(request, timeout):
        asked.append((request.full_url, timeout))
        return response

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    response = Response(b"content")
    assert module._open(f"{MIRRORS[0]}file.gz").read() == b"content"
    assert asked == [(f"{MIRRORS[0]}file.gz", 30.0)]
    response = Response(b"content")
    response.url = "http://elsewhere.example/file.gz"
    with pytest.raises(ValueError, match=r"answered from http://elsewhere.example/file.gz, expected https"):
        module._open(f"{MIRRORS[0]}file.gz")
    assert response.closed


def test_the_mirrors_are_asked_by_https():
    assert len(MIRRORS) >= 2
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in MIRRORS)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_others_may_read_what_is_kept(mirrors, cache):
    mnist()
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o644}
