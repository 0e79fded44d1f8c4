"""Feeds every reader of fcnet with bytes that nobody vouches for, led by coverage (atheris, libFuzzer).

    python fuzz/readers.py 30             each reader for 30 seconds; prints the table of FUZZING.md
    python fuzz/readers.py 30 idx npy     these readers alone
    python fuzz/readers.py pickle -runs=1000000 fuzz/corpus/pickle     one reader, with libFuzzer's options; new inputs come into the folder
    python fuzz/readers.py seeds          write the first inputs anew

A reader passes if all bytes end in a value or an ``FcnetError``, without a warning, within 10 seconds and 2 GB. A run ends
at its first finding, which lies in ``fuzz/findings``; it becomes a file of ``fuzz/corpus``, and so a test. Inputs that
reached new code lie in ``fuzz/found``; the small ones are kept in the corpus as ``found-...``.

The readers are imported where they are called, so that their imports can be instrumented.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import json
import pickle
import re
import subprocess
import sys
import tempfile
import time
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

HERE = Path(__file__).parent
LIMITS = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1"]
FOLDER = tempfile.TemporaryDirectory(prefix="fcnet-fuzz-")

X = np.arange(12, dtype=np.float32).reshape(6, 2) / 12
Y = np.arange(6) % 3


def put(name: str, content: bytes) -> Path:
    """A file of that content, in this process's own folder."""
    path = Path(FOLDER.name, name)
    path.write_bytes(content)
    return path


def packed(**arrays: np.ndarray | bytes) -> bytes:
    """An archive as ``numpy.savez`` writes it; bytes are put in as they are."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", array if isinstance(array, bytes) else npy(array))
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    """An array as ``numpy.save`` writes it."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def parquet(**columns: list[Any]) -> bytes:
    """A table in Parquet."""
    import polars

    stream = io.BytesIO()
    polars.DataFrame(columns).write_parquet(stream, compression="uncompressed")
    return stream.getvalue()


def idx(array: np.ndarray, code: int = 8) -> bytes:
    """An array of bytes as an IDX file; another code makes other numbers of the same bytes."""
    return bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


# --- The readers: any bytes -> a value or an FcnetError ------------------------------------------------------------------


def read_idx(content: bytes) -> Any:
    """An IDX file, gzip or not."""
    from fcnet.data.idx import read_idx

    return read_idx(put("images", content))


def read_idx_labels(content: bytes) -> Any:
    """The labels beside six images."""
    from fcnet.data.idx import read_idx_folder

    put("train-images-idx3-ubyte", idx(np.zeros((6, 2), np.uint8)))
    return read_idx_folder(put("train-labels-idx1-ubyte", content).parent)


def read_npy(content: bytes) -> Any:
    """Rows to predict for."""
    from fcnet.data.sources import load_rows

    return load_rows(put("rows.npy", content))


def read_npz(content: bytes) -> Any:
    """An archive of arrays."""
    from fcnet.data.npz import read_npz

    return read_npz(put("data.npz", content))


def read_npz_member(content: bytes) -> Any:
    """An array in an archive that is whole otherwise, its checksums too."""
    return read_npz(packed(X=content, y=Y))


def read_pickle(content: bytes) -> Any:
    """The book's pickle, gzip or not."""
    from fcnet.data.book import read_book_pickle

    return read_book_pickle(put("mnist.pkl.gz", content))


def read_model(content: bytes) -> Any:
    """A model file."""
    from fcnet.network import Network

    return Network.load(put("model.safetensors", content))


def read_header(content: bytes) -> Any:
    """A model file's header, of the length that it says, before as many numbers as the model of the seeds has."""
    return read_model(len(content).to_bytes(8, "little") + content + bytes(17 * 4))


def read_description(content: bytes) -> Any:
    """The description in a model file that is whole otherwise."""
    from safetensors.numpy import save

    try:
        text = content.decode()
    except UnicodeDecodeError:  # safetensors holds text alone; ``read_model`` tries other bytes
        return None
    return read_model(save({name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}, {"fcnet": text}))


def read_checkpoint(content: bytes) -> Any:
    """A checkpoint file."""
    from fcnet.checkpoint import load_checkpoint

    return load_checkpoint(put("checkpoint-000001.safetensors", content))


def read_checkpoint_description(content: bytes) -> Any:
    """The description in a checkpoint that is whole otherwise, its checksum too."""
    from safetensors.numpy import save

    from fcnet.checkpoint import _checksum

    arrays = {f"{group}/{name}": np.zeros(2, np.float32) for group in ("parameters", "best") for name in SHAPES}
    arrays["history/epochs"] = np.array([[0.5, 0.1, 0.1, np.nan, 0.5, np.nan]])
    try:
        description = json.loads(content)
        description["sha256"] = _checksum({name: description[name] for name in description}, arrays)
        text = json.dumps(description)
    except (ValueError, TypeError, RecursionError):  # ``read_checkpoint`` tries what is no description
        return None
    return read_checkpoint(save(arrays, {"fcnet": text}))


def read_run(content: bytes) -> Any:
    """What ``fcnet info`` reads beside the model of a run."""
    from fcnet.cli import runs

    return runs.read(put("run.json", content).parent)


def read_csv(content: bytes) -> Any:
    """A table in CSV, with the types of its columns."""
    from fcnet.data.table import read_table

    return read_table(put("table.csv", content))


def read_parquet(content: bytes) -> Any:
    """A table in Parquet, which a process of its own reads: a few a second."""
    from fcnet.data.table import read_table

    return read_table(put("table.parquet", content))


def read_saved_table(content: bytes) -> Any:
    """The ``table.json`` of a table's model, beside a network that fits the one of the seeds."""
    import fcnet
    from fcnet.tabular.estimators import load_estimator

    folder = Path(FOLDER.name, "saved-table")
    if not folder.exists():
        folder.mkdir()
        fcnet.Network([fcnet.SoftmaxLayer(14, 2)], 1).save(folder)
    (folder / "table.json").write_bytes(content)
    return load_estimator(folder)


def read_columns(content: bytes) -> Any:
    """The description of a table's columns, and rows encoded by it."""
    import polars

    from fcnet.errors import FileError
    from fcnet.tabular.columns import Columns

    try:
        description = json.loads(content)
    except (ValueError, RecursionError):
        raise FileError("not JSON") from None
    rows = {"x": ["1", None], "b": ["1", None], "c": ["1", "3"], "d": ["2024-02-29", None]}
    return Columns.from_json(description).encode(polars.DataFrame(rows))


def fetch(content: bytes) -> Any:
    """A download: what a mirror sends in place of a file of MNIST's."""
    from fcnet.data import mnist

    with mock.patch.object(mnist, "_open", side_effect=lambda url: io.BytesIO(content)):
        return mnist._fetch("labels", LABELS_MD5, 14, Path(FOLDER.name), lambda **progress: None)


SHAPES = {"layers.0.weights": (2, 3), "layers.0.biases": (3,), "layers.1.weights": (3, 2), "layers.1.biases": (2,)}
COLUMNS = json.dumps({
    "n_rows": 3, "sparse": False, "columns": [
        {
            "kind": "number", "name": "x", "missing": 1, "distinct": 2, "center": 1.5, "scale": 0.5, "flag": True,
            "knots": [0.0, 1.0, 2.5],
        },
        {"kind": "boolean", "name": "b", "missing": 0, "distinct": 2, "values": ["0", "1"]},
        {"kind": "category", "name": "c", "missing": 0, "distinct": 3, "values": ["1", "2"], "rare": True},
        {"kind": "date", "name": "d", "missing": 2, "distinct": 1, "center": 1.0, "scale": 0.0, "hours": False, "flag": True},
        {"kind": "empty", "name": "e", "missing": 3, "distinct": 0},
    ]})  # fmt: skip
SAVED_TABLE = json.dumps({
    "format": "fcnet.table", "version": 1, "target": "t", "members": 1, "validation_score": 0.5, "task": "classification",
    "classes": ["a", "b"], "temperature": 1.5, "ece": 0.1, "columns": json.loads(COLUMNS),
})  # fmt: skip
LABELS_MD5 = "023e4a74eeb8c91709807388fb65bdd3"

READERS: dict[str, Callable[[bytes], Any]] = {
    "idx": read_idx,
    "idx-labels": read_idx_labels,
    "npy": read_npy,
    "npz": read_npz,
    "npz-member": read_npz_member,
    "pickle": read_pickle,
    "model": read_model,
    "header": read_header,
    "description": read_description,
    "checkpoint": read_checkpoint,
    "checkpoint-description": read_checkpoint_description,
    "run": read_run,
    "csv": read_csv,
    "parquet": read_parquet,
    "columns": read_columns,
    "saved-table": read_saved_table,
    "download": fetch,
}


# --- First inputs --------------------------------------------------------------------------------------------------------


def seeds() -> dict[str, dict[str, bytes]]:
    """Small files as the library, NumPy and Python write them: reader -> name -> content."""
    import fcnet

    layers = [fcnet.FullyConnectedLayer(2, 3, fcnet.relu, 0.5), fcnet.SoftmaxLayer(3, 2)]
    model = fcnet.Network(layers, mini_batch_size=5).save(Path(FOLDER.name, "seed"))
    checkpoint = {
        "format": "fcnet.checkpoint", "version": 1, "step": 3, "so_far": {"cost": 0.5, "weight": 1.0, "seconds": 0.1},
        "identity": {"settings": {"l2": 0.1}, "data": {}, "versions": {}, "length": {"epochs": 3}, "command": {"data": "digits"}},
        "history": {
            "engine": "native", "device": "cpu", "monitor": "accuracy", "steps_per_epoch": 2, "best_epoch": 0, "best_steps": 2,
            "ending": "finished", "halvings": [1],
        },
    }  # fmt: skip
    labels = idx(Y.astype(np.uint8))
    pairs = ((X, Y), (X, Y), (X, Y))
    parts = {"X_train": X, "y_train": Y, "X_val": X, "y_val": Y, "sample_weight_val": np.ones(6)}
    described = json.dumps(checkpoint).encode()
    read_checkpoint_description(described)
    return {
        "checkpoint": {"checkpoint": Path(FOLDER.name, "checkpoint-000001.safetensors").read_bytes()},
        "checkpoint-description": {"description": described},
        "idx": {
            "images": idx(np.arange(12, dtype=np.uint8).reshape(2, 3, 2)),
            "gzip": gzip.compress(labels, mtime=0),
            **{
                f"type-{code:02x}": idx(np.zeros(8, np.uint8), code)[:4] + b"\0\0\0\1" + bytes(8)
                for code in range(9, 15)
            },
        },
        "idx-labels": {"bytes": labels, "integers": b"\0\0\x0c\1\0\0\0\6" + Y.astype(">i4").tobytes()},
        "npy": {"float32": npy(X), "pixels": npy(np.full((2, 2), 255, np.uint8)), "fortran": npy(np.asfortranarray(X))},
        "npz": {"whole": packed(X=X, y=Y), "values": packed(X=X, y=X), "parts": packed(**parts)},
        "npz-member": {"float32": npy(X), "pixels": npy(np.full((6, 2), 255, np.uint8)), "halves": npy(X.astype("f2"))},
        "pickle": {f"protocol-{protocol}": pickle.dumps(pairs, protocol) for protocol in range(5)},
        "model": {"model": model.read_bytes()},
        "header": {"header": model.read_bytes()[8 : -17 * 4]},
        "description": {"description": json.dumps(json.loads(model.with_suffix(".json").read_bytes())).encode()},
        "run": {"run": json.dumps({"settings": {"epochs": 3}, "versions": {}, "results": {"epochs": 3}}).encode()},
        "csv": {
            "table": b'a,b,day\n1,"x ""y"", z",2024-02-29\n2.5,NA,\n',
            "semicolons": b"\xef\xbb\xbfa;b\r\ntrue;1\r\n\r\nfalse;2",
            "gzip": gzip.compress(b"a\tb\n1\t2\n", mtime=0),
        },
        "parquet": {"table": parquet(a=[1, 2], b=["x", None])},
        "columns": {"columns": COLUMNS.encode()},
        "saved-table": {"table": SAVED_TABLE.encode()},
        "download": {"labels": gzip.compress(labels, mtime=0)},
    }


def attacks() -> dict[str, dict[str, bytes]]:
    """Small files as an enemy writes them: reader -> name -> content."""
    from safetensors.numpy import save

    huge = b"\xff" * 4
    head = "{{'descr': {}, 'fortran_order': False, 'shape': {}, }}\n".format
    members = {
        "rows-2-40": header(head("'<f8'", "(1048576, 1048576)")) + bytes(24),
        "rows-2-70": header(head("'<f8'", "(1180591620717411303424,)")) + bytes(24),
        "negative": header(head("'<f8'", "(-3, -1)")) + bytes(24),
        "objects": header(head("'|O'", "(1,)")) + b"cos\nsystem\n(S'true'\ntR.",
        "structure": header(head("[('a', '<f8')]", "(3,)")) + bytes(24),
        "python-2": header(head("'<f8'", "(3L,)")) + bytes(24),
        "alias": header(head("'a8'", "(3,)")) + bytes(24),
        "flags-as-sizes": header(head("'<f8'", "(True, 3)")) + bytes(24),
        "header-of-4-gib": b"\x93NUMPY\x02\x00" + huge,
        "header-nested": header("-" * 600),
        "header-open": header("(" * 600),
        "header-code": header("__import__('os').system('true')"),
        "signalling-nan": header(head("'<f4'", "(6,)")) + b"\x00\x00\xa0\x7f" * 6,
        "long-double": header(head("'<f16'", "(6,)")) + huge * 24,
    }
    array = b"(cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(%stcnumpy\ndtype\n(S'f4'\ntRI0\nS'abcd'\ntb2t"
    overlap = b"{%s}" % b",".join(
        b'"%s":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}' % name for name in (b"a", b"b")
    )
    arrays = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    layer = {"type": "SoftmaxLayer", "n_in": 2, "n_out": 3, "p_dropout": 0, "weights": "zeros", "biases": "zeros"}
    description = {
        "format": "fcnet.model",
        "version": 1,
        "dropout_scaling": "training",
        "mini_batch_size": 1,
        "seed": 0,
    }

    def described(**changes: Any) -> bytes:
        return json.dumps(
            description | {"task": "classification", "trained": False, "layers": [layer | changes]}
        ).encode()

    return {
        "idx": {
            "rows-2-32": b"\0\0\x0e\x02" + huge * 2 + bytes(28),
            "dimensions-255": b"\0\0\x08\xff" + huge * 255,
            "dimensions-65": b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"\0",
            "bomb": gzip.compress(b"\0\0\x08\x01\0\0\0\x04" + bytes(1 << 18), mtime=0),
            "gzip-truncated": gzip.compress(b"\0\0\x08\x01\0\0\0\x04abcd", mtime=0)[:-6],
        },
        "idx-labels": {"label-2-31": b"\0\0\x0c\1\0\0\0\6" + b"\x7f\xff\xff\xff" * 6},
        "npy": {**members, "is-an-archive": packed(X=X)},
        "npz-member": members,
        "npz": {
            "names-absolute": packed(**{"/X": X, "../y": Y}),
            "names-of-a-terminal": packed(**{"\x1b]0;\x07": X}),
            "encrypted": packed(X=X, y=Y).replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"),
            "size-2-32": packed(X=X, y=Y).replace(len(npy(X)).to_bytes(4, "little"), huge),
            "label-2-62": packed(X=X, y=Y + 2**62),
        },
        "pickle": {
            "system": b"cposix\nsystem\n(S'true'\ntR.",
            "memo": b"Nr\xff\xff\xff\xff.",
            "text-of-2-gib": b"T\xff\xff\xff\x7fabc.",
            "bytes-of-4-gib": b"\x80\x03B\xff\xff\xff\xffabc.",
            "persistent": b"Pid\n.",
            "extension": b"\x80\x02\x82\x01.",
            "instance": b"(icollections\nCounter\n.",
            "nested": b"\x80\x02)" + b"\x85" * 2000 + b".",
            "twice-itself": b"\x80\x02)" + b"2\x86" * 64 + b".",
            "in-itself": b"\x80\x02]2a.",
            "size-of-5000-digits": b"(" + array % (b"I0x" + b"f" * 5000 + b"\n") * 3 + b"t.",
            "size-2-40": b"(" + array % b"I1099511627776\n" * 3 + b"t.",
        },
        "model": {
            "header-2-40": (1 << 40).to_bytes(8, "little") + b"{}",
            "header-2-64": huge * 2 + b"{}",
            "foreign": save(arrays),
            "overlap": len(overlap).to_bytes(8, "little") + overlap + bytes(4),
            "nested": (600).to_bytes(8, "little") + b"[" * 600,
        },
        "header": {
            "overlap": overlap,
            "nested": b"[" * 600,
            "shape-2-96": b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,68]}}',
            "offsets-backwards": b'{"a":{"dtype":"F32","shape":[17],"data_offsets":[68,0]}}',
            "metadata-a-number": b'{"__metadata__":{"fcnet":1},"a":{"dtype":"F32","shape":[17],"data_offsets":[0,68]}}',
        },
        "description": {
            "n_in-2-40": described(n_in=2**40),
            "n_in-of-4000-digits": described(n_in=10**4000)[:4096],
            "p_dropout-of-400-digits": described(p_dropout=10**400),
            "n_in-infinite": described().replace(b'"n_in": 2', b'"n_in": 1e999'),
            "p_dropout-nan": described(p_dropout=float("nan")),
            "type-of-code": described(type="os.system"),
            "nested": b"[" * 4000,
            "digits-5000": b"1" * 5000,
            "twice": b'{"format": 1, ' + described()[1:],
        },
        "checkpoint": {
            "header-2-40": (1 << 40).to_bytes(8, "little") + b"{}",
            "model": save(arrays, {"fcnet": json.dumps(description)}),
            "checksum-a-list": save(
                arrays, {"fcnet": '{"format": "fcnet.checkpoint", "version": 1, "sha256": [1], "step": 0}'}
            ),
        },
        "checkpoint-description": {
            "nothing": b'{"format": "fcnet.checkpoint", "version": 1}',
            "numbers-of-400-digits": b'{"format": "fcnet.checkpoint", "version": 1, "step": 1, "so_far": {"cost": 1%s}}'
            % (b"0" * 400),
            "history-a-number": b'{"format": "fcnet.checkpoint", "version": 1, "step": 1, "so_far": {}, "history": 3}',
        },
        "run": {
            "nested": b"[" * 4000,
            "digits-5000": b"1" * 5000,
            "settings-a-number": b'{"results": {}, "settings": 3}',
            "not-utf-8": b'{"results": {"\xff": 1}}',
        },
        "csv": {
            "bomb": gzip.compress(b"a\n" + b"1\n" * 20_000, mtime=0),
            "many-columns": b"," * 3000,
            "open-quote": b'a,b\n"1,2\n3,4\n',
            "stray-quote": b'a,b\n1,5" pipe\n2,6" pipe\n',
            "short-row": b"a,b\n1,2\n3\n",
            "same-names": b"a,a\n1,2\n",
            "names-with-escapes": b"\x1b[2J,\x1b[2J\n1,2\n",
            "utf-16": "a,b\n1,2\n".encode("utf-16"),
            "latin-1": b"a,b\ncaf\xe9,2\n",
            "digits-5000": b"a\n" + b"1" * 5000 + b"\n",
            "far-dates": b"a\n9999-12-31\n0000-01-01\n-2147483648-01-01\n",
        },
        "parquet": {
            "cut-off": parquet(a=[1, 2])[:60],
            "footer-of-4-gib": b"PAR1" + huge + b"PAR1",
            "footer-of-noise": b"PAR1" + bytes(range(200)) + (200).to_bytes(4, "little") + b"PAR1",
            "rows-2-62": parquet(a=[1, 2]).replace(b"\x16\x04", b"\x16\x7f"),
            "lists": parquet(a=[[1], [2]]),
        },
        "saved-table": {
            "nested": b"[" * 4000,
            "members-2-40": SAVED_TABLE.replace('"members": 1', '"members": 1099511627776').encode(),
            "temperature-large": SAVED_TABLE.replace("1.5", "9" * 400).encode(),
            "classes-of-lists": SAVED_TABLE.replace('["a", "b"]', '[["a"], ["b"]]').encode(),
            "classes-a-number": SAVED_TABLE.replace('["a", "b"]', "2").encode(),
            "regression": SAVED_TABLE.replace('"classification"', '"regression"').encode(),
        },
        "columns": {
            "nested": b"[" * 4000,
            "scale-infinite": COLUMNS.replace('"scale": 0.5', '"scale": 1e999').encode(),
            "scale-large": COLUMNS.replace('"scale": 0.5', '"scale": ' + "9" * 400).encode(),
            "values-of-lists": COLUMNS.replace('["0", "1"]', '[["0"], "1"]').encode(),
            "values-twice": COLUMNS.replace('["0", "1"]', '["1", "1"]').encode(),
            "knots-far": COLUMNS.replace("[0.0, 1.0, 2.5]", "[-1e308, 1e308]").encode(),
            "knots-near": COLUMNS.replace("[0.0, 1.0, 2.5]", "[0.0, 5e-324]").encode(),
            "knots-falling": COLUMNS.replace("[0.0, 1.0, 2.5]", "[1.0, 0.0]").encode(),
            "category-without-values": COLUMNS.replace('["1", "2"]', "[]").encode(),
            "kind-a-list": COLUMNS.replace('"kind": "number"', '"kind": []').encode(),
            "no-features": b'{"n_rows": 1, "sparse": true, "columns": []}',
        },
        "download": {
            "bomb": gzip.compress(bytes(1 << 18), mtime=0),
            "page": b"<html>Log in to the network</html>",
            "other": gzip.compress(idx(Y.astype(np.uint8)) + b"\0", mtime=0),
        },
    }


def header(text: str) -> bytes:
    """The header of a ``.npy`` file, of any text."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


# --- The fuzzer ------------------------------------------------------------------------------------------------------------


def run_one(name: str, options: list[str]) -> None:
    """libFuzzer on one reader, in this process, which it ends."""
    import atheris

    warnings.simplefilter("error")
    for owner in (pickle._Unpickler, zipfile, zipfile.ZipFile, zipfile.ZipInfo, zipfile.ZipExtFile):
        for function in vars(owner).values():
            if isinstance(function, types.FunctionType) and function.__module__ in ("pickle", "zipfile"):
                atheris.instrument_func(function)
    with atheris.instrument_imports(include=["fcnet"]):
        for module in (
            "data.sources",
            "data.table",
            "data.parquet",
            "network",
            "keeper",
            "tabular.estimators",
            "cli.runs",
        ):
            importlib.import_module(f"fcnet.{module}")
    from fcnet.errors import FcnetError

    def test(content: bytes) -> None:
        with contextlib.suppress(FcnetError):
            READERS[name](content)

    atheris.Setup([sys.argv[0], *options], test)
    atheris.Fuzz()


def run_all(names: list[str], seconds: int) -> int:
    """Each reader for so many seconds, one after another; prints a table and returns the number of findings."""
    n_findings = 0
    print("| reader       | seconds | executions |  a second | branches | findings |")
    print("| ------------ | ------: | ---------: | --------: | -------: | -------: |")
    for name in names:
        found, findings = HERE / "found" / name, HERE / "findings"
        for folder in (found, findings):
            folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, name, *LIMITS, f"-max_total_time={seconds}"]
        command += [f"-artifact_prefix={findings}/{name}-", str(found), str(HERE / "corpus" / name)]
        before, began = set(findings.iterdir()), time.monotonic()
        said = subprocess.run(command, capture_output=True, text=True, errors="replace").stderr
        took = time.monotonic() - began
        executed = int((re.findall(r"number_of_executed_units: *(\d+)", said) or ["0"])[-1])
        branches = int((re.findall(r"cov: (\d+)", said) or ["0"])[-1])
        new = set(findings.iterdir()) - before
        if new or not executed:
            print(said[-3000:], file=sys.stderr)
        n_findings += len(new)
        print(
            f"| {name:<12} | {took:7.0f} | {executed:10,} | {executed / took:9,.0f} | {branches:8,} | {len(new):8} |",
            flush=True,
        )
    return n_findings


def main(arguments: list[str]) -> int:
    """What the command line asks for."""
    if arguments == ["seeds"]:
        for name in READERS:
            (HERE / "corpus" / name).mkdir(parents=True, exist_ok=True)
            for seed, content in (seeds()[name] | attacks()[name]).items():
                (HERE / "corpus" / name / seed).write_bytes(content)
    elif arguments and arguments[0] in READERS:
        run_one(arguments[0], arguments[1:])
    elif arguments and arguments[0].isdigit() and READERS.keys() >= set(arguments[1:]):
        return 1 if run_all(arguments[1:] or list(READERS), int(arguments[0])) else 0
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
