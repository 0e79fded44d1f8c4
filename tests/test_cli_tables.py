"""The command line on tables, called in this process; the last test runs the installed command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import polars
import pytest

from fcnet import loop
from fcnet.cli.app import main
from fcnet.data import delimited
from fcnet.errors import FileError
from fcnet.tabular import saved
from fcnet.tabular.estimators import load_estimator

COMMAND = Path(sys.executable).with_name("fcnet")
CLASSES = ("train", "flowers.csv", "--target", "kind", "--preset", "fast", "--out", "classes", "--json")
VALUES = (
    *("train", "flowers.csv", "--target", "price", "--preset", "fast", "--drop", "kind", "--interval", "0.8"),
    *("--out", "values", "--json"),
)


def flowers(n=300, seed=0):
    draw = np.random.default_rng(seed)
    kind = draw.integers(0, 3, n)
    return polars.DataFrame({
        "width": np.round(kind + 0.4 * draw.normal(size=n), 3), "colour": [("red", "white")[int(k > 0)] for k in kind],
        "day": [f"2024-0{1 + k % 9}-11" for k in range(n)], "price": np.round(3.0 * kind + draw.normal(size=n), 2),
        "kind": [("iris", "lily", "rose")[k] for k in kind],
    })  # fmt: skip


def called(monkeypatch, folder, *arguments):
    """Run the command in this process and in a folder: its exit code."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["fcnet", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with tables and two runs, ``classes`` and ``values``."""
    folder = tmp_path_factory.mktemp("tables")
    flowers().write_csv(folder / "flowers.csv")
    flowers(150, seed=1).write_csv(folder / "new.csv")
    flowers(150, seed=1).write_parquet(folder / "new.parquet")
    with pytest.MonkeyPatch.context() as patch:
        assert called(patch, folder, *CLASSES) == 0
        assert called(patch, folder, *VALUES) == 0
    return folder


@pytest.fixture
def fcnet_(monkeypatch, capfdbinary, trained):
    def run(*arguments):
        code = called(monkeypatch, trained, *arguments)
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def test_train_classes(fcnet_, trained):
    code, out, err = fcnet_(*CLASSES, "--overwrite")
    assert code == 0, err
    assert "'kind' is taken for classes" in err
    assert "width   number" in err
    assert "colour  boolean" in err
    assert "day     date" in err
    results = json.loads(out.splitlines()[-1])
    assert results["test"]["accuracy"] > 0.8
    assert results["rows"] == {"train": 250, "validation": 0, "test": 50}
    assert {path.name for path in (trained / "classes").iterdir()} == {
        *("model.safetensors", "model.json", "table.json", "run.json", "history.csv", "curves.png", "confusion.png"),
        *(f"member-2.{ending}" for ending in ("safetensors", "json") if results["networks"] == 2),
    }
    code, out, err = fcnet_("evaluate", "classes", "flowers.csv", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == results["test"]["accuracy"]
    assert json.loads(out)["rows"] == 50
    code, out, err = fcnet_("evaluate", "classes", "new.csv")
    assert out.startswith("accuracy ")
    assert out.endswith(", on all 150 rows\n")
    code, out, err = fcnet_("info", "classes")
    assert code == 0, err
    assert "\ncolumns\ncolumn  kind" in out


def test_predict_in_batches(fcnet_, trained, monkeypatch):
    assert fcnet_("predict", "classes", "new.csv", "--out", "whole.csv")[1] == "150 predictions in whole.csv\n"
    monkeypatch.setattr(delimited, "BLOCK", 1 << 10)
    assert fcnet_("predict", "classes", "new.csv", "--out", "pieces.csv")[0] == 0
    assert fcnet_("predict", "classes", "new.parquet", "--out", "parquet.csv")[0] == 0
    whole = (trained / "whole.csv").read_text()
    frame = polars.read_csv(trained / "whole.csv")
    assert frame.columns == ["prediction", "p_iris", "p_lily", "p_rose"]
    for other in ("pieces.csv", "parquet.csv"):
        found = polars.read_csv(trained / other)
        assert (found["prediction"] == frame["prediction"]).all()
        np.testing.assert_allclose(found[:, 1:].to_numpy(), frame[:, 1:].to_numpy(), rtol=1e-4, atol=1e-6)
    code, out, _ = fcnet_("predict", "classes", "new.csv", "--out", "-")
    assert (code, out) == (0, whole)
    shuffled = flowers(150, seed=1).select("day", "price", "colour", "width", more=polars.lit(1))
    shuffled.write_csv(trained / "shuffled.csv")
    assert fcnet_("predict", "classes", "shuffled.csv", "--out", "-")[1] == whole


def test_values_with_intervals(fcnet_, trained):
    code, out, err = fcnet_(*VALUES, "--overwrite")
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    assert results["test"]["r2"] > 0.5
    assert {"predicted.png", "interval.safetensors"} <= {path.name for path in (trained / "values").iterdir()}
    assert fcnet_("predict", "values", "new.csv", "--out", "values.csv")[0] == 0
    frame = polars.read_csv(trained / "values.csv")
    assert frame.columns == ["prediction", "low", "high"]
    assert (frame["low"] <= frame["high"]).all()
    estimator, description = load_estimator(trained / "values")
    assert description["target"] == "price"
    np.testing.assert_allclose(estimator.predict(flowers(150, seed=1)), frame["prediction"].to_numpy(), rtol=1e-5)


def test_a_split_column_decides(fcnet_, trained):
    parts = ["train"] * 200 + ["validation"] * 50 + ["test"] * 50
    flowers().with_columns(polars.Series("__split__", parts)).write_csv(trained / "split.csv")
    code, out, err = fcnet_(
        *("train", "split.csv", "--target", "kind", "--preset", "fast", "--split-column", "__split__"),
        *("--out", "split", "--json"),
    )
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["rows"] == {"train": 200, "validation": 50, "test": 50}
    assert "__split__" not in (trained / "split" / "table.json").read_text().replace('"split_column": "__split__"', "")
    code, out, err = fcnet_("evaluate", "split", "split.csv", "--part", "validation")
    assert out.endswith("on the validation part's 50 rows\n")


FLOWERS = flowers(20)
BAD = [
    ("no target", FLOWERS, (), "--target is missing: which column is to be predicted? bad.csv has width, colour"),
    ("unknown target", FLOWERS, ("--target", "knd"), "no column 'knd'. Did you mean 'kind'?"),
    ("unknown drop", FLOWERS, ("--target", "kind", "--drop", "a"), "--drop: bad.csv has no column 'a'"),
    ("task", FLOWERS, ("--target", "kind", "--task", "classify"), "--task must be auto"),
    ("text as values", FLOWERS, ("--target", "kind", "--task", "regression"), "--task regression needs numbers"),
    ("interval", FLOWERS, ("--target", "kind", "--interval", 0.9), "--interval is for values"),
    ("preset", FLOWERS, ("--target", "kind", "--preset", "fest"), "unknown preset 'fest'. Did you mean"),
    ("one class", FLOWERS.with_columns(kind=polars.lit("a")), ("--target", "kind"), "has one class, 'a', in every row"),
    (
        "split words",
        FLOWERS,
        ("--target", "kind", "--split-column", "colour"),
        "in row 1. Expected train, validation or test",
    ),
]


@pytest.mark.parametrize("name", [name for name, *_ in BAD])
def test_what_train_refuses(fcnet_, trained, name):
    _, frame, arguments, message = next(case for case in BAD if case[0] == name)
    frame.write_csv(trained / "bad.csv")
    code, _, err = fcnet_("train", "bad.csv", *arguments, "--out", "never")
    assert code in (1, 2)
    assert message in err
    assert not (trained / "never").exists()


def test_options_for_another_kind_of_data_are_refused(fcnet_):
    code, _, err = fcnet_("train", "flowers.csv", "--target", "kind", "--hidden", "8")
    assert (code, "--hidden is not for a table such as flowers.csv" in err) == (2, True)
    code, _, err = fcnet_("train", "digits", "--target", "kind")
    assert (code, "--target is for tables (.csv, .csv.gz" in err) == (2, True)


def test_a_target_with_missing_values(fcnet_, trained):
    (trained / "bad.csv").write_text("a,y\n1,2.5\n2,\n3,NA\n")
    code, _, err = fcnet_("train", "bad.csv", "--target", "y")
    assert code == 1
    assert "the target 'y' is missing in row 2, and in 2 rows of 3" in err


def test_what_predict_refuses(fcnet_, trained):
    frame = flowers(30)
    for bad, message in (
        (frame.drop("width"), "bad.csv: The table lacks the column width"),
        (
            frame.with_columns(width=polars.Series(["1"] * 20 + ["wide"] * 10)),
            "bad.csv: The column 'width' holds 'wide' in row 21",
        ),
        (frame.with_columns(day=polars.lit("soon")), "The column 'day' holds 'soon' in row 1, and had a date"),
    ):
        bad.write_csv(trained / "bad.csv")
        code, _, err = fcnet_("predict", "classes", "bad.csv", "--out", "never.csv")
        assert code == 1
        assert message in err
        assert not list(trained.glob("*never*"))
    code, _, err = fcnet_("predict", "classes", "new.csv", "--out", "x.parquet")
    assert (code, "Predictions are written as CSV" in err) == (2, True)
    frame.drop("kind").write_csv(trained / "bad.csv")
    assert "lacks the target 'kind'" in fcnet_("evaluate", "classes", "bad.csv")[2]
    frame.with_columns(kind=polars.lit("oak")).write_csv(trained / "bad.csv")
    assert "holds 'oak' in row 1, which was no class in training" in fcnet_("evaluate", "classes", "bad.csv")[2]


def test_a_damaged_run_is_an_error(trained):
    file = trained / "values" / "table.json"
    content = file.read_text()
    description = json.loads(content)
    try:
        for name in description:
            for value in (None, "x", -1, [], {}, 1e999, True):
                file.write_text(json.dumps(description | {name: value}))
                try:
                    load_estimator(trained / "values")
                except FileError:
                    continue
        for text in (
            "",
            "[]",
            "{",
            "[" * 100_000,
            content.replace("fcnet.table", "other"),
            json.dumps(description | {"version": saved.VERSION + 1}),
        ):
            file.write_text(text)
            with pytest.raises(FileError):
                load_estimator(trained / "values")
    finally:
        file.write_text(content)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_best_network(fcnet_, trained, monkeypatch, number, expected):
    def interrupt(self, epoch, *rest, original=loop.Loop._epoch):
        if epoch == 3 and threading.current_thread() is threading.main_thread():  # another network may train beside
            os.kill(os.getpid(), number)
        return original(self, epoch, *rest)

    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    monkeypatch.setattr(loop.Loop, "_epoch", interrupt)
    monkeypatch.setattr(loop, "FIRST_CHUNK", 1)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    code, out, err = fcnet_(
        *("train", "flowers.csv", "--target", "kind", "--preset", "fast", "--out", "stopped", "--json", "--overwrite")
    )
    monkeypatch.undo()
    monkeypatch.chdir(trained)
    assert code == expected, err
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    assert json.loads((trained / "stopped" / "run.json").read_text())["ending"] == "interrupted"
    assert json.loads(out.splitlines()[-1])["epochs"] == 3
    assert fcnet_("predict", "stopped", "new.csv", "--out", "-")[0] == 0


def test_train_on_parquet(fcnet_, trained):
    flowers().write_parquet(trained / "flowers.parquet")
    code, out, err = fcnet_("train", "flowers.parquet", "--target", "kind", "--preset", "fast", "--out", "of-parquet")
    assert code == 0, err
    assert "on 50 test rows: accuracy" in out
    assert "run folder of-parquet" in out


def test_suspicious_columns_are_lines(fcnet_, trained):
    frame = flowers().with_columns(polars.Series("number", range(300)), copy=polars.col("kind"))
    frame.write_csv(trained / "suspicious.csv")
    code, _, err = fcnet_(
        "train", "suspicious.csv", "--target", "kind", "--preset", "fast", "--time-budget", "1s", "--out", "suspicious"
    )
    assert code == 0, err
    assert "warning: Not used, because it names or numbers rows: number." in err
    assert "warning: The column 'copy' may give the answer away" in err


def test_the_installed_command_on_the_titanic(shared_data, tmp_path):
    table = shared_data / "tables" / "titanic.csv"
    train = ["train", table, "--target", "survived", "--preset", "fast", "--json", "--out"]

    def run(*arguments):
        ended = subprocess.run(
            [COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended

    ended = run(*train, "as-it-is")
    assert "The column 'boat' may give the answer away: where it has a value" in ended.stderr
    assert "The column 'body' may give the answer away: where it has a value, 100% of the rows" in ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["test"]["accuracy"] > 0.93  # too good to be true
    ended = run(*train, "honest", "--drop", "boat,body")
    assert "give the answer away" not in ended.stderr
    assert "warning: Not used, because it names or numbers rows: name" in ended.stderr
    assert "memory: about " in ended.stderr
    assert 0.74 < json.loads(ended.stdout.splitlines()[-1])["test"]["accuracy"] < 0.88
    run("predict", "honest", table, "--out", "answers.csv")
    assert polars.read_csv(tmp_path / "answers.csv").height == 1309
