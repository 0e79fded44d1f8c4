"""Every bad input of ``refusals.py`` is answered as docs/errors.md says, and no parameter, option or reader is left out."""

from __future__ import annotations

import inspect

import pytest
import typer

import fcnet
import readers
import refusals
from fcnet import network3
from fcnet.cli.app import app
from fcnet.errors import FcnetError

ROWS = list(refusals.rows())
PAGE = refusals.PAGE.read_text().splitlines()
WRITE = "python tests/refusals.py writes the page anew"


def place_of(row):
    """Where the page's table for what the row is given to begins and ends."""
    heading = f"### {row.name}" if row.section == "Files" else f"### `{row.name}`"
    assert heading in PAGE, WRITE
    first = PAGE.index(heading)
    rest = [place for place, line in enumerate(PAGE) if place > first and line.startswith("#")]
    return PAGE[first : rest[0] if rest else None]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name} {row.given}")
def test_refused(row):
    error, _ = row.answer()
    assert isinstance(error, (FcnetError, ValueError, TypeError) if row.foreign else FcnetError), error
    line = row.line()
    assert line in place_of(row), WRITE
    assert len(line) < 2000
    assert line.isprintable()


def test_the_page_has_nothing_else():
    given = [line.split(" | ")[0].removeprefix("| ") for line in PAGE if line.startswith(("| ", "| `"))]
    assert [cell for cell in given if cell not in ("given", "---")] == [row.cell for row in ROWS], WRITE
    assert "\n".join(PAGE).startswith(refusals.HEAD.rstrip()), WRITE


# --- Nothing is left out --------------------------------------------------------------------------------------------------

CALLS = (*refusals.LAYERS_AND_NETWORKS, *refusals.TRAINING, *refusals.THE_BOOK, *refusals.ESTIMATORS, *refusals.TABLES)
WRITTEN_BY_FCNET = {"DataSet", "Part", "EpochRecord", "History", "Observer", "TrainingWarning"}
"""Records that fcnet makes and people read; ``train`` checks a ``Part`` as it checks a tuple."""
METHODS = {
    "network": (fcnet.Network, "SGD predict predict_proba accuracy cost save"),
    "Network": (fcnet.Network, "load"),
    "MLPClassifier()": (fcnet.MLPClassifier, "fit partial_fit"),
    "MLPRegressor()": (fcnet.MLPRegressor, "fit partial_fit"),
    "TabularClassifier('fast')": (fcnet.TabularClassifier, "fit"),
    "TabularRegressor('fast')": (fcnet.TabularRegressor, "fit"),
    "classifier": (fcnet.TabularClassifier, "predict predict_proba"),
    "regressor": (fcnet.TabularRegressor, "predict predict_interval"),
    "load_data('digits')": (fcnet.DataSet, "part"),
}


def public():
    """Every callable that a person gives something to, by its name on the page."""
    for module, prefix in ((fcnet, ""), (network3, "network3.")):
        for name in module.__all__:
            value = getattr(module, name)
            is_error = inspect.isclass(value) and issubclass(value, Exception)
            callable_ = inspect.isclass(value) or inspect.isfunction(value)
            if callable_ and not is_error and name not in WRITTEN_BY_FCNET | {"size", "ConvPoolLayer"}:
                yield prefix + name, value
    for owner, (kind, names) in METHODS.items():
        for name in names.split():
            yield f"{owner}.{name}", getattr(kind, name)


@pytest.mark.parametrize(("name", "value"), list(public()), ids=lambda part: part if isinstance(part, str) else "")
def test_every_parameter_has_a_row(name, value):
    has = {parameter for call in CALLS if call.name == name for parameter in call.bad}
    assert set(inspect.signature(value).parameters) - {"self"} <= has


def test_every_method_has_its_rows():
    for owner, (kind, names) in METHODS.items():
        own = {name for name, member in vars(kind).items() if inspect.isfunction(member) and not name.startswith("_")}
        listed = {name for _, (other, names) in METHODS.items() if other is kind for name in names.split()}
        told_by_the_estimator = {"summary", "result", "proba_of", "values_of", "limits_of", "predict_log_proba"}
        predicts = {call.name.rpartition(".")[2] for call in CALLS}
        assert own <= listed | told_by_the_estimator | predicts, owner


def test_every_option_has_a_row():
    """But those that are given or not, which cannot be wrong."""
    commands = typer.main.get_command(app).commands
    for name in ("train", "evaluate", "predict", "info"):
        takes_a_value = [one for one in commands[name].params if not getattr(one, "is_flag", False)]
        options = {one.opts[0] if one.opts[0].startswith("-") else one.opts[0].upper() for one in takes_a_value}
        assert options <= refusals.COMMANDS[name].keys(), name


def test_every_reader_has_a_row():
    """The readers that are fuzzed, and theirs names on the page."""
    named = {
        "idx": "IDX", "idx-labels": "IDX", "npy": "npy", "npz": "npz", "npz-member": "npz", "pickle": "pickle", "model": "model",
        "header": "model", "description": "model", "checkpoint": "checkpoint", "checkpoint-description": "checkpoint",
        "run": "run.json", "csv": "CSV", "parquet": "Parquet", "columns": "table's model", "saved-table": "table's model",
        "download": "download",
    }  # fmt: skip
    assert named.keys() == readers.READERS.keys()
    assert set(named.values()) <= {row.name for row in ROWS if row.section == "Files"}
