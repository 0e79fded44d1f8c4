"""The command line on tables: what ``train``, ``evaluate`` and ``predict`` do with CSV and Parquet."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcnet.cli import runs
from fcnet.cli.figures import ClassesJudged, ValuesJudged
from fcnet.data.arrays import Part
from fcnet.data.files import open_file, shown
from fcnet.data.split import hold_out
from fcnet.data.table import read_batches, read_table
from fcnet.errors import FcnetError, FileError, InputError, did_you_mean
from fcnet.tabular.estimators import TabularClassifier, TabularRegressor, load_estimator
from fcnet.tabular.values import numbers_of, text_of

if TYPE_CHECKING:
    import polars

TEST_SHARE = 1 / 6
"""The part of a table's rows that tests, where no column says which."""
FEW_NUMBERS = 10
"""Whole numbers of so many different values are classes, under ``--task auto``."""
_PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
_PREDICTED = 1 << 16

Estimator = TabularClassifier | TabularRegressor


def train(
    data: str,
    *,
    target: str | None,
    task: str,
    split_column: str | None,
    drop: str,
    preset: str,
    interval: float | None,
    budget: float | None,
    seed: int,
    out: Path | None,
    overwrite: bool,
    json_line: bool,
    engine: str,
    device: str,
    threads: int | None,
) -> int:
    """Train on a table and leave a run folder; which signal ended it, or 0.

    Raises:
        FcnetError: the table, or an option, cannot be used.
    """
    began = time.perf_counter()
    path = Path(data)
    frame = read_table(path)
    if target is None:
        raise InputError(f"--target is missing: which column is to be predicted? {path} has {_names(frame)}.")
    _check_column(path, frame, target, "--target")
    dropped = [name.strip() for name in drop.split(",") if name.strip()]
    for name in dropped:
        _check_column(path, frame, name, "--drop")
    if split_column is not None:
        _check_column(path, frame, split_column, "--split-column")
    answers = frame[target]
    _check_complete(path, answers)
    found = task_of(answers, task)
    estimator: Estimator
    settings: dict[str, Any] = {"random_state": seed, "engine": engine, "device": device, "n_threads": threads}
    settings |= {
        "max_time": budget,
        "drop": [name for name in dropped if name not in (target, split_column)],
        "verbose": True,
    }
    if found == "classification":
        if interval is not None:
            raise InputError(
                f"--interval is for values, and {target!r} holds classes. Leave it out, or say --task regression."
            )
        estimator = TabularClassifier(preset, **settings)
    else:
        estimator = TabularRegressor(preset, interval=interval, **settings)
    y = _target_array(answers, found, path)
    parts = _parts(path, frame, split_column, y)
    features = frame.drop([target] if split_column is None else [target, split_column])
    folder = runs.make_folder(out, path.name, overwrite)
    print(
        f"{target!r} is taken for {'classes' if found == 'classification' else 'values'} (--task {found})",
        file=sys.stderr,
    )
    interrupted = 0
    try:
        own = None
        if len(parts["validation"]):
            own = (features[parts["validation"]], y[parts["validation"]])
        with runs.warnings_as_lines(), runs.sigterm_as_ctrl_c() as terminated:
            estimator.fit(features[parts["train"]], y[parts["train"]], eval_set=own)
    except KeyboardInterrupt:
        interrupted = signal.SIGTERM if terminated else signal.SIGINT
    finally:
        if not hasattr(estimator, "validation_score_"):
            runs.discard(folder)
    if interrupted and not hasattr(estimator, "validation_score_"):
        return interrupted
    tested = None
    if len(parts["test"]):
        truth = y[parts["test"]]
        if isinstance(estimator, TabularClassifier):
            _check_classes(path, estimator, truth, parts["test"])
            truth = np.searchsorted(estimator.classes_, truth)
        tested = _judged(estimator, iter([(features[parts["test"]], truth, 1)]))
    results = {
        "task": found,
        "rows": {name: len(rows) for name, rows in parts.items()},
        "validation_score": estimator.validation_score_,
        "test": None if tested is None else tested.figures(),
        "epochs": len(estimator.history_.epochs),
        "networks": len(estimator.members_),
        "seconds": round(time.perf_counter() - began, 3),
        "engine": estimator.history_.engine,
        "device": estimator.history_.device,
        "run": str(folder),
    }
    record = {
        "settings": {
            "data": data,
            "target": target,
            "task": task,
            "split_column": split_column,
            "drop": dropped,
            "preset": preset,
            "interval": interval,
            "time_budget": budget,
            "seed": seed,
            "engine": engine,
            "device": device,
            "threads": threads,
        },
        "versions": runs.versions(),
        "ending": "interrupted" if interrupted else estimator.history_.ending,
        "results": results,
    }
    with runs.undisturbed():
        estimator.write(folder, target, split_column=split_column, data_sha256=_digest(path))
        runs.write_history(folder, estimator.history_)
        if tested is not None:
            tested.draw(folder, estimator)
        runs.write_record(folder, record)
    if json_line:
        print(json.dumps(results))
    else:
        print(estimator.result())
        if tested is not None:
            print(f"on {len(parts['test']):,} test rows: {tested.words()}")
        print(f"run folder {folder}, {results['seconds']:.1f} s in all")
    return interrupted


def evaluate(run: Path, data: str, part: str, json_line: bool, engine: str, device: str) -> None:
    """Figures of a trained estimator on a table with answers; read in batches.

    Of the file that it was trained on, only the rows of ``part`` count; of any other all do.
    """
    estimator, description = load_estimator(run)
    estimator.engine, estimator.device = engine, device
    path, target = Path(data), description["target"]
    rows = None
    if description.get("data_sha256") == _digest(path):
        frame = read_table(path)
        task = "classification" if isinstance(estimator, TabularClassifier) else "regression"
        parts = _parts(path, frame, description.get("split_column"), _target_array(frame[target], task, path))
        if part not in parts or not len(parts[part]):
            raise InputError(
                f"{path} has no {part} rows. It has: {', '.join(name for name in parts if len(parts[name]))}."
            )
        rows = np.sort(parts[part])
    judged = _judged(estimator, _answered(path, target, estimator, rows))
    if json_line:
        print(json.dumps({"rows": judged.n_rows, **judged.figures()}))
    else:
        which = "all" if rows is None else f"the {part} part's"
        print(f"{judged.words()}, on {which} {judged.n_rows:,} rows")


def predict(run: Path, data: str, out: Path, engine: str, device: str) -> None:
    """Write the answers for a table as CSV, batch by batch: the class and each class's probability, or value and interval."""
    estimator, _ = load_estimator(run)
    estimator.engine, estimator.device = engine, device
    path = Path(data)
    if str(out) != "-" and out.suffix.lower() == ".parquet":
        raise InputError(
            f"Predictions are written as CSV, got {out}. Name a file that ends in .csv, or - for standard output."
        )
    n_rows = 0
    with _output(out) as stream:
        for frame, first_row in _batches(path):
            with _naming(path):
                answers = _answers(estimator, frame, first_row)
            stream.write(answers.write_csv(include_header=n_rows == 0).encode())
            n_rows += frame.height
    if str(out) != "-":
        print(f"{n_rows:,} predictions in {out}")


# --- Tables -----------------------------------------------------------------------------------------------------------


def _batches(path: Path) -> Iterator[tuple[polars.DataFrame, int]]:
    """Some rows at a time, and the number of the first."""
    first_row = 1
    for batch in read_batches(path):
        for start in range(0, batch.height, _PREDICTED):
            frame = batch[start : start + _PREDICTED]
            yield frame, first_row
            first_row += frame.height


def _answers(estimator: Estimator, frame: polars.DataFrame, first_row: int) -> polars.DataFrame:
    import polars

    if isinstance(estimator, TabularClassifier):
        probabilities = estimator.proba_of(frame, first_row)
        columns: dict[str, Any] = {"prediction": estimator.classes_[probabilities.argmax(axis=1)]}
        columns |= {f"p_{label}": probabilities[:, place] for place, label in enumerate(estimator.classes_.tolist())}
    else:
        columns = {"prediction": estimator.values_of(frame, first_row)}
        if estimator.limits_ is not None:
            low, high = estimator.limits_of(frame, first_row).T
            columns |= {"low": low, "high": high}
    return polars.DataFrame(columns)


def _answered(
    path: Path, target: str, estimator: Estimator, rows: NDArray[np.int64] | None
) -> Iterator[tuple[polars.DataFrame, NDArray[Any], int]]:
    """Frames with their answers; of the given rows alone, where some are."""
    for frame, first_row in _batches(path):
        if target not in frame.columns:
            raise FileError(
                f"{path} lacks the target {target!r}. Expected a table with answers; to get some, use fcnet predict."
            )
        _check_complete(path, frame[target], first_row)
        y: NDArray[Any]
        with _naming(path):
            if isinstance(estimator, TabularClassifier):
                y = places_of(text_of(frame[target]), estimator, first_row)
            else:
                y = numbers_of(frame[target], first_row)
        if rows is not None:
            low, high = np.searchsorted(rows, [first_row - 1, first_row - 1 + frame.height])
            here = rows[low:high] - (first_row - 1)
            frame, y = frame[here], y[here]
        if frame.height:
            yield frame, y, first_row


def places_of(text: polars.Series, estimator: TabularClassifier, first_row: int) -> NDArray[np.int64]:
    """The place of each class, given as text, among the estimator's."""
    names = [str(label).lower() if isinstance(label, bool) else str(label) for label in estimator.classes_.tolist()]
    if estimator.classes_.dtype.kind == "f":
        names = [name.removesuffix(".0") for name in names]
    if estimator.classes_.dtype.kind == "b":
        text = text.str.to_lowercase()
    place = {name: n for n, name in enumerate(names)}
    places = np.array([place.get(name, -1) for name in text.to_list()], np.int64)
    if (places < 0).any():
        row = int(np.argmax(places < 0))
        raise InputError(
            f"The target holds {shown(text[row])!r} in row {first_row + row}, which was no class in training. Expected one of: "
            f"{', '.join(shown(name) for name in names[:12])}."
        )
    return places


def _check_classes(path: Path, estimator: TabularClassifier, truth: NDArray[Any], rows: NDArray[np.int64]) -> None:
    """Refuse test rows of a class that no training row has."""
    unknown = ~np.isin(truth, estimator.classes_)
    if unknown.any():
        place = int(np.argmax(unknown))
        raise FileError(
            f"{path}: row {rows[place] + 1}, of the test part, is of the class {shown(str(truth[place]))!r}, which no training row is."
        )


def task_of(answers: polars.Series, task: str) -> str:
    """ "classification" or "regression", by ``--task`` or by the target's values."""
    if task in ("classification", "regression"):
        if task == "regression" and not answers.dtype.is_numeric():
            raise InputError(f"--task regression needs numbers, and {answers.name!r} holds {answers.dtype}.")
        return task
    if task != "auto":
        raise InputError(
            f"--task must be auto, classification or regression, got {task!r}.{did_you_mean(task, ('classification', 'regression'))}"
        )
    if not answers.dtype.is_numeric():
        return "classification"
    whole = answers.dtype.is_integer() or bool((answers == answers.round()).all())
    return "classification" if whole and answers.n_unique() <= FEW_NUMBERS else "regression"


def _target_array(answers: polars.Series, task: str, path: Path) -> NDArray[Any]:
    if task == "regression":
        with _naming(path):
            return numbers_of(answers, 1)
    if answers.n_unique() < 2:
        raise FileError(
            f"{path}: the target {answers.name!r} has one class, {answers[0]!r}, in every row. Expected two at least."
        )
    if answers.dtype.is_numeric() or str(answers.dtype) == "Boolean":
        return answers.to_numpy()
    return np.array(text_of(answers).to_list(), dtype=str)


def _check_complete(path: Path, answers: polars.Series, first_row: int = 1) -> None:
    missing = answers.is_null() | (answers.is_nan() if answers.dtype.is_float() else answers.is_null())
    if missing.any():
        row = first_row + int(missing.fill_null(True).arg_max() or 0)
        raise FileError(
            f"{path}: the target {answers.name!r} is missing in row {row}, and in {int(missing.sum())} rows of {len(answers)}. "
            "Expected an answer in each: delete those rows."
        )


def _check_column(path: Path, frame: polars.DataFrame, name: str, option: str) -> None:
    if name not in frame.columns:
        raise InputError(
            f"{option}: {path} has no column {name!r}.{did_you_mean(name, frame.columns)} It has {_names(frame)}."
        )


def _names(frame: polars.DataFrame) -> str:
    more = f" and {frame.width - 30} more" if frame.width > 30 else ""
    return ", ".join(shown(name) for name in frame.columns[:30]) + more


def _parts(
    path: Path, frame: polars.DataFrame, split_column: str | None, y: NDArray[Any]
) -> dict[str, NDArray[np.int64]]:
    """The rows of each part: by the split column, or one in six at random for testing, whatever the seed."""
    if split_column is None:
        labels = np.unique(y, return_inverse=True)[1].astype(np.int64) if y.dtype.kind not in "f" else y[:, None]
        if frame.height < 3:
            raise FileError(f"{path} has {frame.height} rows, too few to set some aside. Expected 3 at least.")
        rest, held = hold_out(Part(np.arange(frame.height)[:, None], labels), TEST_SHARE, 0, str(path))
        return {"train": np.sort(rest.X[:, 0]), "validation": np.arange(0), "test": np.sort(held.X[:, 0])}
    words = text_of(frame[split_column]).str.to_lowercase().to_list()
    for row, word in enumerate(words, 1):
        if word not in _PARTS:
            raise FileError(
                f"{path}: {split_column!r} holds {shown(str(word))!r} in row {row}. Expected train, validation or test in each row."
            )
    names = np.array([_PARTS[word] for word in words])
    parts = {name: np.flatnonzero(names == name) for name in ("train", "validation", "test")}
    if not len(parts["train"]):
        raise FileError(f"{path}: {split_column!r} says train in no row. Expected rows to train on.")
    return parts


def _digest(path: Path) -> str:
    with open_file(path) as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Refusals of a table's content name the file too."""
    try:
        yield
    except InputError as error:
        raise FileError(f"{path}: {error}") from None


@contextmanager
def _output(out: Path) -> Iterator[IO[bytes]]:
    """A stream to a file that appears when it is whole, or to standard output."""
    if str(out) == "-":
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial")
    try:
        try:
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, FcnetError):
            raise
        raise FileError(
            f"{out} cannot be written: {error.strerror}. Check that the folder exists and is writable."
        ) from None


def _judged(
    estimator: Estimator, answered: Iterator[tuple[polars.DataFrame, NDArray[Any], int]]
) -> ClassesJudged | ValuesJudged:
    """An estimator's figures on frames with answers, places of classes or values."""
    outputs, ends, targets = [], [], []
    for frame, y, first_row in answered:
        targets.append(y)
        if isinstance(estimator, TabularClassifier):
            outputs.append(estimator.proba_of(frame, first_row))
        else:
            outputs.append(estimator.values_of(frame, first_row))
            if estimator.limits_ is not None:
                ends.append(estimator.limits_of(frame, first_row))
    if not outputs:
        raise InputError("There are no rows to judge.")
    if isinstance(estimator, TabularClassifier):
        return ClassesJudged(np.concatenate(outputs), np.concatenate(targets))
    return ValuesJudged(np.concatenate(outputs), np.concatenate(targets), np.concatenate(ends) if ends else None)
