"""The fuzzer's corpus: every file ends in a value or a clear error, runs nothing, writes nothing, and costs little."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

import readers
from fcnet.errors import FcnetError

CORPUS = Path(readers.__file__).with_name("corpus")
FILES = sorted(path.relative_to(CORPUS) for path in CORPUS.glob("*/*"))
FORBIDDEN = {"exec", "import", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"}

heard: list[str] | None = None


def hear(event: str, arguments: tuple) -> None:
    """Note what a reader must not do. Python has no way to remove such a hook, so it sleeps outside the test."""
    if heard is None:
        return
    if event in FORBIDDEN:
        heard.append(f"{event} {arguments!s:.200}")
    if event == "open" and not (isinstance(arguments[0], int) or str(arguments[0]).startswith(readers.FOLDER.name)):
        heard.append(f"{event} {arguments}")  # a number is a pipe that is open already


sys.addaudithook(hear)


def read(name: str, content: bytes) -> object:
    try:
        return readers.READERS[name](content)
    except FcnetError as error:
        return error


@pytest.fixture(scope="module")
def warm():
    """Every reader has run once, so that what is imported late does not count."""
    for name, seeds in readers.seeds().items():
        for content in seeds.values():
            assert not isinstance(read(name, content), FileNotFoundError)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_of_the_corpus(warm, file):
    global heard
    content = (CORPUS / file).read_bytes()
    heard = []
    tracemalloc.start()
    try:
        answer = read(file.parent.name, content)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        done, heard = heard, None
    if file.parent.name == "parquet":  # it has a child read
        done = [event for event in done if "fcnet.data.parquet" not in event and os.devnull not in event]
    assert done == []
    assert peak < 8 << 20
    if isinstance(answer, FcnetError):
        assert len(str(answer)) < 2000
        assert str(answer).replace("\n", "").isprintable()


def test_what_must_not_be_done_is_heard():
    global heard
    heard = []
    Path(__file__).read_bytes()
    subprocess.run([sys.executable, "--version"], check=True, capture_output=True)
    done, heard = heard, None
    assert done[0].startswith("open")
    assert any(event.startswith("subprocess.Popen") for event in done)


def test_every_reader_reads_what_is_whole():
    for name, contents in readers.seeds().items():
        assert not isinstance(read(name, next(iter(contents.values()))), FcnetError), name


def test_the_corpus_is_small_and_whole():
    assert {file.parent.name for file in FILES} == set(readers.READERS)
    assert sum((CORPUS / file).stat().st_size for file in FILES) < 200_000
    for name, contents in readers.seeds().items():
        for seed in contents.keys() | readers.attacks()[name].keys():
            assert (CORPUS / name / seed).is_file(), f"{name}/{seed} is missing: python fuzz/readers.py seeds"
