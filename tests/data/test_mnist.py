"""MNIST: where it is looked for, and how it is fetched, from a stand-in for the mirrors."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import time
import urllib.error
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
    (gzip.compress(CONTENT["train-images-idx3-ubyte"] + b"\0" * 10_000_000, mtime=0), "sent another file"),
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


# --- A mirror that answers as it likes: a server on this machine, without https ------------------------------------------


@pytest.fixture
def server():
    """A server on this machine: ``answer`` writes what is sent, ``asked`` holds the paths that were asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            running.asked.append(self.path)
            with contextlib.suppress(OSError):  # the reader may hang up
                running.answer(self.wfile)

        def log_message(self, *arguments):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.asked = []
    running.url = f"http://127.0.0.1:{running.server_port}/"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def receive(server, answer) -> bytes:
    server.answer = answer
    return module._receive(f"{server.url}file.gz", lambda **progress: None)


def test_what_is_sent_is_received(server):
    assert receive(server, lambda out: out.write(b"HTTP/1.0 200 OK\r\n\r\nsome bytes")) == b"some bytes"


@pytest.mark.parametrize(
    "to", ["http://127.0.0.1:{}/other", "HTTP://127.0.0.1:{}/other", "ftp://127.0.0.1/other", "/other"]
)
def test_a_mirror_that_sends_us_elsewhere_without_https_is_refused_before_that_is_asked(server, to):
    head = f"HTTP/1.0 302 Found\r\nLocation: {to.format(server.server_port)}\r\n\r\n".encode()
    with pytest.raises(urllib.error.URLError, match=r"sends us to .*/other, expected https"):
        receive(server, lambda out: out.write(head))
    assert server.asked == ["/file.gz"]


def test_a_mirror_that_sends_us_to_a_file_is_refused(server):
    with pytest.raises(urllib.error.HTTPError, match="Redirection to url 'file:///etc/passwd' is not allowed"):
        receive(server, lambda out: out.write(b"HTTP/1.0 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n"))


def test_a_mirror_that_never_ends_is_left(server):
    def endless(out):
        out.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            out.write(bytes(1 << 16))

    with pytest.raises(ValueError, match="sent more than 16777216 bytes, too many for this file"):
        receive(server, endless)


@pytest.mark.parametrize("length", [1 << 24 | 1, 10**400])
def test_a_length_beyond_the_limit_is_refused_before_a_byte_comes(server, length):
    with pytest.raises(ValueError, match="says that it sends more than 16777216 bytes"):
        receive(server, lambda out: out.write(f"HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()))


@pytest.mark.parametrize("length", ["3", "300", "-1", "many", "9" * 5000])
def test_a_length_that_lies_leaves_the_checksum_to_decide(server, length):
    packed = gzip.compress(b"content")
    content = receive(
        server, lambda out: out.write(f"HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n".encode() + packed)
    )
    md5 = hashlib.md5(b"content", usedforsecurity=False).hexdigest()
    if length == "3":
        with pytest.raises(EOFError):
            module._check(content, md5, 7)
    else:
        module._check(content, md5, 7)


def test_a_mirror_that_stalls_is_left(server, monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    with pytest.raises(TimeoutError, match="timed out"):
        receive(server, lambda out: out.write(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nsome") and time.sleep(1))


def test_a_mirror_that_sends_a_byte_now_and_then_is_left(server, monkeypatch):
    monkeypatch.setattr(module, "_TIME_LIMIT", 0.2)

    def drip(out):
        out.write(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            out.write(b".")
            time.sleep(0.02)

    with pytest.raises(TimeoutError, match=r"sent only \d+ bytes in 0 seconds"):
        receive(server, drip)


@pytest.mark.parametrize(
    "answer", [b"", b"\0" * 100, b"HTTP/1.0 999 \x1b[2J\r\n\r\n", b"HTTP/1.0 200 OK\r\nA: " + b"a" * 70_000]
)
def test_an_answer_that_is_none_is_told_without_its_control_characters(server, monkeypatch, cache, answer):
    monkeypatch.setattr(module, "MIRRORS", (server.url,))
    server.answer = lambda out: out.write(answer)
    with pytest.raises(DownloadError, match=r"no mirror gave train-images-idx3-ubyte.gz") as caught:
        mnist()
    assert str(caught.value).replace("\n", "").isprintable()


IN_A_PROCESS = """
import io, sys
from fcnet.data import mnist
folder, name, md5, size = sys.argv[1:]
content = open(f"{folder}/{name}.gz", "rb").read()
mnist._open = lambda url: io.BytesIO(content)
mnist._download([(name, md5, int(size))], mnist.Path(folder, "cache"))
"""


def test_two_processes_at_once(tmp_path):
    name = "train-labels-idx1-ubyte"
    put(tmp_path, {name: PACKED[name]})
    md5 = hashlib.md5(CONTENT[name], usedforsecurity=False).hexdigest()
    command = [sys.executable, "-c", IN_A_PROCESS, str(tmp_path), name, md5, str(len(CONTENT[name]))]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{name}.gz"]
    assert (tmp_path / "cache" / f"{name}.gz").read_bytes() == PACKED[name]


def test_the_mirrors_are_asked_by_https():
    assert len(MIRRORS) >= 2
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in MIRRORS)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_others_may_read_what_is_kept(mirrors, cache):
    mnist()
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o644}
