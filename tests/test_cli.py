"""The command line, called in this process on small data; ``test_command.py`` runs the installed command on real digits."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import fcnet
from fcnet import loop, training
from fcnet.cli import words
from fcnet.cli.app import main
from fcnet.errors import FileError, InputError
from fcnet.optimizers import SGD, Adam, Constant, Cosine, Nesterov, WarmUp


@pytest.fixture
def fcnet_(monkeypatch, capsys, tmp_path):
    """Runs ``fcnet`` in a folder of its own with an ``.npz`` file; answers exit code, standard output and error."""
    random = np.random.default_rng(0)
    y = np.arange(120) % 3
    np.savez(tmp_path / "blobs.npz", X=(4 * np.eye(3, 4)[y] + random.normal(size=(120, 4))).astype(np.float32), y=y)
    X = random.uniform(-1, 1, (120, 2))
    np.savez(tmp_path / "slope.npz", X=X, y=X[:, 0] - 2 * X[:, 1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fcnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


TRAIN = ("train", "blobs.npz", "--hidden", 8, "--dropout", 0, "--epochs", 4, "--batch-size", 10)


# --- train --------------------------------------------------------------------------------------------------------------


def test_train_leaves_a_run_folder(fcnet_):
    code, out, err = fcnet_(*TRAIN, "--out", "run", "--json")
    assert code == 0
    results = json.loads(out.splitlines()[-1])
    assert results.keys() == {
        *("test_accuracy", "best_validation_accuracy", "best_epoch", "epochs"),
        *("seconds", "engine", "device", "run"),
    }
    assert results["epochs"] == 4
    assert results["run"] == "run"
    assert 0 <= results["best_epoch"] < 4
    lines = err.splitlines()
    assert lines[0].startswith(f"fcnet: engine {results['engine']} on {results['device']} (")
    assert [line.split("  ")[0] for line in lines[1:]] == [f"epoch {n}/4" for n in range(1, 5)]

    assert {path.name for path in Path("run").iterdir()} == {
        *("model.safetensors", "model.json", "run.json", "history.csv", "curves.png", "checkpoints"),
    }
    record = json.loads(Path("run/run.json").read_text())
    assert record.keys() == {"settings", "versions", "ending", "results"}
    assert record["results"] == results
    assert record["ending"] == "finished"
    assert record["settings"]["hidden"] == [8]
    assert record["settings"]["seed"] == 0
    assert record["versions"].keys() >= {"python", "fcnet", "numpy", "jax", "platform"}
    with Path("run/history.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert [row["epoch"] for row in epochs] == ["0", "1", "2", "3"]
    assert float(epochs[results["best_epoch"]]["validation_accuracy"]) == results["best_validation_accuracy"]
    assert Path("run/curves.png").read_bytes().startswith(b"\x89PNG")


def test_train_prints_a_closing_table(fcnet_):
    code, out, _ = fcnet_(*TRAIN)
    assert code == 0
    found = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in out.splitlines())
    assert found["training"].startswith("finished after 4 epochs, ")
    assert found["network"] == "67 parameters"
    assert found["run folder"] == "runs/blobs-001"
    assert {"engine", "best epoch", "validation accuracy", "validation cost", "test accuracy"} <= found.keys()
    fcnet_(*TRAIN)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["blobs-001", "blobs-002"]


def test_the_same_seed_gives_the_same_model(fcnet_):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fcnet_(*TRAIN, "--seed", seed, "--dropout", 0.2, "--out", name)
    a, b, c = (Path(name, "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_what_the_options_make(fcnet_):
    options = ("--hidden", "8,6", "--activation", "tanh", "--dropout", "0.1,0.2,0.3", "--l2", 0.1, "--dtype", "float64")
    more = ("--optimizer", "sgd", "--learning-rate", 0.1, "--schedule", "step", "--engine", "xla", "--device", "cpu")
    assert fcnet_(*TRAIN, *options, *more, "--early-stopping", 3, "--time-budget", "5m", "--out", "run")[0] == 0
    network = fcnet.Network.load("run")
    assert [(layer.n_in, layer.n_out, layer.p_dropout) for layer in network.layers] == [
        (4, 8, 0.1),
        (8, 6, 0.2),
        (6, 3, 0.3),
    ]
    assert network.layers[0].activation_fn == fcnet.tanh
    assert network.arrays["layers.0.weights"].dtype == np.float64
    assert network.mini_batch_size == 10
    record = json.loads(Path("run/run.json").read_text())
    assert record["results"]["engine"] == "xla"
    assert record["settings"]["time_budget"] == "5m"


def test_no_hidden_layer(fcnet_):
    assert fcnet_(*TRAIN, "--hidden", "none", "--out", "run")[0] == 0
    assert len(fcnet.Network.load("run").layers) == 1


def test_regression(fcnet_):
    code, out, _ = fcnet_(
        "train",
        "slope.npz",
        "--hidden",
        16,
        "--dropout",
        0,
        "--epochs",
        20,
        "--learning-rate",
        0.01,
        "--out",
        "run",
        "--json",
    )
    results = json.loads(out)
    assert code == 0
    assert results["test_accuracy"] is None
    assert results["best_validation_accuracy"] is None
    code, out, _ = fcnet_("evaluate", "run", "slope.npz", "--json")
    answer = json.loads(out)
    assert answer["accuracy"] is None
    assert answer["cost"] < 0.05
    assert fcnet_("evaluate", "run", "slope.npz")[1].startswith("cost 0.0")
    fcnet_("predict", "run", "slope.npz", "--out", "-")
    assert fcnet_("predict", "run", "slope.npz", "--out", "-")[1].splitlines()[0] == "prediction"
    assert "validation cost" in fcnet_("train", "slope.npz", "--epochs", 1)[1]


# --- Run folders --------------------------------------------------------------------------------------------------------


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_a_run_folder_that_exists(fcnet_):
    fcnet_(*TRAIN, "--out", "run")
    before = Path("run/model.safetensors").read_bytes()
    code, out, err = fcnet_(*TRAIN, "--seed", 9, "--out", "run")
    assert (code, out) == (1, "")
    assert err == (
        "fcnet: error: The run folder run exists already. Choose another with --out, go on with it by --resume, or replace "
        "it with --overwrite.\n"
    )
    assert Path("run/model.safetensors").read_bytes() == before
    assert fcnet_(*TRAIN, "--seed", 9, "--out", "run", "--overwrite")[0] == 0
    assert Path("run/model.safetensors").read_bytes() != before
    assert len(list(Path("run").iterdir())) == 6


def test_overwrite_leaves_the_earlier_run_until_there_is_a_new_one(fcnet_):
    fcnet_(*TRAIN, "--out", "run")
    before = contents(Path("run"))
    assert fcnet_(*TRAIN, "--out", "run", "--overwrite", "--engine", "xlaa")[0] == 2
    assert contents(Path("run")) == before


@pytest.mark.parametrize("foreign", ["thesis.txt", "run.json.bak"])
def test_overwrite_never_removes_what_is_not_a_run(fcnet_, foreign):
    fcnet_(*TRAIN, "--out", "run")
    Path("run", foreign).write_text("years of work")
    code, _, err = fcnet_(*TRAIN, "--out", "run", "--overwrite")
    assert code == 1
    assert f"run is not a run folder, or holds more than a run ({foreign}), so it is left alone." in err
    assert Path("run", foreign).read_text() == "years of work"


def test_overwrite_refuses_a_folder_without_a_run_and_a_file(fcnet_):
    Path("photos").mkdir()
    Path("photos/model.json").write_text("{}")
    Path("file").write_text("")
    for place in ("photos", "file"):
        code, _, err = fcnet_(*TRAIN, "--out", place, "--overwrite")
        assert code == 1
        assert f"{place} is not a run folder, or holds more than a run ({place}), so it is left alone." in err
    assert Path("photos/model.json").exists()
    assert Path("file").exists()


def test_an_empty_folder_is_used(fcnet_):
    Path("run").mkdir()
    assert fcnet_(*TRAIN, "--out", "run")[0] == 0


def test_a_place_that_cannot_be_written(fcnet_):
    Path("file").write_text("")
    code, out, err = fcnet_(*TRAIN, "--out", "file/run")
    assert (code, out) == (1, "")
    assert err == (
        "fcnet: error: The run folder file/run cannot be made or written: Not a directory. Choose another place with --out.\n"
    )


def test_a_run_that_failed_leaves_no_folder(fcnet_):
    assert fcnet_(*TRAIN, "--out", "run", "--engine", "xlaa")[0] == 2
    assert not Path("run").exists()


# --- evaluate, predict, info, devices -----------------------------------------------------------------------------------


@pytest.fixture
def run(fcnet_):
    fcnet_(*TRAIN, "--epochs", 20, "--learning-rate", 0.01, "--seed", 5, "--out", "run")
    return json.loads(Path("run/run.json").read_text())


def test_evaluate(fcnet_, run):
    code, out, _ = fcnet_("evaluate", "run", "blobs.npz", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer.keys() == {"rows", "cost", "accuracy"}
    assert answer["accuracy"] == run["results"]["test_accuracy"]  # the same test rows, whatever the seed
    _, out, _ = fcnet_("evaluate", "run", "blobs.npz", "--part", "validation", "--json")
    assert json.loads(out)["accuracy"] == run["results"]["best_validation_accuracy"]
    _, out, _ = fcnet_("evaluate", "run/model.safetensors", "blobs.npz")
    assert out == f"accuracy {answer['accuracy']:.2%}, cost {answer['cost']:.4f} on {answer['rows']} rows\n"


def test_predict(fcnet_, run):
    rows = json.loads(fcnet_("evaluate", "run", "blobs.npz", "--json")[1])["rows"]
    code, out, _ = fcnet_("predict", "run", "blobs.npz")
    assert (code, out) == (0, f"{rows} predictions in predictions.csv\n")
    with Path("predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["prediction", "p_0", "p_1", "p_2"]
    assert len(table) == rows
    for row in table:
        probabilities = [float(row[f"p_{j}"]) for j in range(3)]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert int(np.argmax(probabilities)) == int(row["prediction"])
    _, out, _ = fcnet_("predict", "run", "blobs.npz", "--out", "-")
    assert out == Path("predictions.csv").read_text()
    code, _, err = fcnet_("predict", "run", "blobs.npz", "--out", "nowhere/p.csv")
    assert code == 1
    assert "nowhere/p.csv cannot be written: No such file or directory. Check that the folder exists" in err


def test_predict_reads_rows_without_targets(fcnet_, run):
    with np.load("blobs.npz") as data:
        np.save("new.npy", data["X"][:7])
    code, out, err = fcnet_("predict", "run", "new.npy", "--out", "-")
    assert code == 0, err
    assert len(out.splitlines()) == 8


def test_info(fcnet_, run):
    code, out, _ = fcnet_("info", "run")
    assert code == 0
    assert out.startswith("layer  type ")
    assert re.search(r"\nsettings\n  data +blobs\.npz\n  hidden +8\n", out)
    assert re.search(r"\n  learning_rate +0\.01\n", out)
    assert re.search(rf"\n  test_accuracy +{run['results']['test_accuracy']}\n", out)
    assert json.loads(fcnet_("info", "run", "--json")[1]) == {"layers": 2, "mini_batch_size": 10, **run}
    assert fcnet_("info", "run/model.safetensors")[1].endswith("67 parameters\n")


def test_devices(fcnet_):
    code, out, _ = fcnet_("devices")
    assert code == 0
    assert re.search(r"^engine  xla +JAX .*CPU and GPU", out, re.MULTILINE)
    assert re.search(r"^device  cpu +usable, \d+ cores$", out, re.MULTILINE)
    if "device  gpu     not usable" in out:  # where there is no GPU, nothing is to be installed for this engine
        assert "engine  cuda    not usable: it runs on GPUs only; see below.\n" in out
    assert re.search(r"^device  gpu(:0 +usable|     not usable: .*nvidia)", out, re.MULTILINE | re.IGNORECASE)


def test_what_is_not_a_run(fcnet_, run):
    for command in (["evaluate", "nowhere", "blobs.npz"], ["predict", "nowhere", "blobs.npz"], ["info", "nowhere"]):
        code, _, err = fcnet_(*command)
        assert code == 1
        assert err.startswith("fcnet: error: There is no model file nowhere.safetensors. Expected a file written by")
    Path("run/run.json").write_text("{")
    assert "run/run.json is damaged: it is not JSON." in fcnet_("info", "run")[2]
    Path("run/run.json").write_text('{"results": {}, "settings": 3}')
    assert "run/run.json is damaged: its settings or versions are not named values." in fcnet_("info", "run")[2]
    Path("run/run.json").write_text('{"results": {"\\u001b[2J": "\\u001b[2J"}}')
    assert "\x1b" not in fcnet_("info", "run")[1]
    Path("run/run.json").write_text("[]")
    assert "run/run.json is damaged: it has no results." in fcnet_("info", "run")[2]
    Path("run/run.json").unlink()
    assert (
        "There is no run in run: run.json is missing. Expected a folder that 'fcnet train' made."
        in fcnet_("info", "run")[2]
    )


def test_data_of_another_shape(fcnet_, run):
    code, _, err = fcnet_("evaluate", "run", "slope.npz")
    assert code == 2
    assert "X of the data has shape (" in err
    assert "2 numbers a row, but the network's first layer reads n_in=4." in err


# --- Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--activation", "rleu"], "Unknown activation 'rleu'. Did you mean 'relu'? Expected one of: sigmoid, tanh,"),
        (["--optimizer", "addam"], "Unknown optimizer 'addam'. Did you mean 'adam'? Expected one of: sgd, momentum,"),
        (["--schedule", "cosin"], "Unknown schedule 'cosin'. Did you mean 'cosine'? Expected one of: constant, cosine,"),
        (["--engine", "xlaa"], "Unknown engine 'xlaa'. Did you mean 'xla'? Expected one of: auto,"),
        (["--device", "gppu"], "Unknown device 'gppu'. Did you mean 'gpu'? Expected one of: auto, cpu, gpu, gpu:1, gpus."),
        (["--dtype", "float16"], "Unknown dtype 'float16'. Did you mean 'float"),
        (["--hidden", "100,x"], "--hidden must be positive integers separated by commas, such as 100,100; got '100,x'."),
        (["--hidden", "100,-5"], "--hidden must be positive integers separated by commas"),
        (["--dropout", "1.5"], "p_dropout must lie in [0, 1), got 1.5."),
        (["--dropout", "half"], "--dropout must be a number, or numbers separated by commas, got 'half'."),
        (["--dropout", "0.1,0.2,0.3"], "--dropout has 3 numbers, but the network has 2 layers (the hidden ones and the last)."),
        (["--time-budget", "5 weeks"], "--time-budget must be a duration such as 90s, 5m or 1.5h, got '5 weeks'."),
        (["--time-budget", "0s"], "time_budget must be a number of seconds above 0, got 0.0."),
        (["--learning-rate", "-1"], "A learning rate must be a finite number, 0 or above, got -1.0."),
        (["--learning-rate", "nan"], "A learning rate must be a finite number, 0 or above, got nan."),
        (["--l2", "-1"], "The L2 strength must be a finite number, 0 or above, got -1.0."),
        (["--epochs", "0"], "epochs must be a positive integer, got 0."),
        (["--batch-size", "0"], "mini_batch_size must be a positive integer, got 0."),
        (["--batch-size", "5000"], "mini_batch_size=5000 is larger than the training data, which has "),
        (["--early-stopping", "0"], "early_stopping must be a positive integer, got 0."),
        (["--seed", "-3"], "seed must lie in [0, 2**64), got -3."),
    ],
)  # fmt: skip
def test_refused_options(fcnet_, options, message):
    code, out, err = fcnet_(*TRAIN, *options)
    assert (code, out) == (2, "")
    assert err.startswith("fcnet: error: ")
    assert message in err
    assert "Traceback" not in err
    assert not list(Path("runs").glob("*"))


def test_a_gpu_that_is_not_there(fcnet_, monkeypatch):
    monkeypatch.setattr("fcnet.engines.choose.usable_gpus", list)
    code, _, err = fcnet_(*TRAIN, "--device", "gpu")
    assert code == 1
    assert err.startswith("fcnet: error: device='gpu' was asked for, but there is no GPU: ")
    assert err.endswith("Or use device='cpu'.\n")


def test_halvings_are_said_in_a_line_each(fcnet_):
    linear = ("--activation", "linear", "--optimizer", "sgd", "--schedule", "constant", "--learning-rate", 1e30)
    code, _, err = fcnet_(*TRAIN, *linear, "--on-nan", "halve")
    said = [line for line in err.splitlines() if line.startswith("warning: The cost became NaN or infinite at step ")]
    assert (code, len(said)) == (1, 3)
    assert "with half the learning rate, 5e+29 in place of 1e+30." in said[0]
    assert err.splitlines()[-1].startswith("fcnet: error: The cost became NaN")
    assert "app.py" not in err


def test_a_training_that_does_not_fit_into_memory(fcnet_, monkeypatch):
    monkeypatch.setattr("fcnet.memory.free_on", lambda choice: 1300)
    code, out, err = fcnet_(*TRAIN, "--device", "cpu")
    assert (code, out) == (1, "")
    assert re.match(
        r"fcnet: error: This training needs about .* of memory on the cpu, of which 1.3 KB are free: data ", err
    )
    assert "The largest mini-batch that would fit has 2 rows." in err
    assert not list(Path("runs").glob("*"))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")], ids=["host", "device"]
)
def test_a_training_that_runs_out_of_memory(fcnet_, monkeypatch, error):
    def advance(*_):
        raise error

    monkeypatch.setattr("fcnet.engines.native.engine.NativeEngine.advance", advance)
    code, _, err = fcnet_(*TRAIN, "--engine", "native")
    assert code == 1
    assert "This training ran out of memory on the cpu. It needs at least " in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "digits"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "blobs.npz", "--epoch", "3"], r"No such option: --epoch .*--epochs"),
        (["train", "blobs.npz", "--epochs", "many"], r"Invalid value for '--epochs'"),
        (["train"], r"Missing argument"),
    ],
)
def test_refused_command_lines(fcnet_, arguments, message):
    code, out, err = fcnet_(*arguments)
    assert (code, out) == (2, "")
    assert re.search(message, err)


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ("digts", 2, "There is no data set, file or folder 'digts'. Did you mean 'digits'?"),
        ("nowhere.npz", 1, "nowhere.npz"),
        ("broken.npz", 1, "broken.npz"),
        ("empty", 1, "empty"),
    ],
)
def test_data_that_cannot_be_read(fcnet_, data, code, message):
    Path("broken.npz").write_bytes(b"PK\x03\x04 not an archive")
    Path("empty").mkdir()
    found, out, err = fcnet_("train", data)
    assert (found, out) == (code, "")
    assert err.startswith("fcnet: error: ")
    assert message in err


# --- Interrupted and diverged -------------------------------------------------------------------------------------------


def test_ctrl_c_saves_the_best_network(fcnet_, monkeypatch):
    def interrupt(self, epoch, *rest, original=loop.Loop._epoch_ends):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, epoch, *rest)

    monkeypatch.setattr(loop.Loop, "_epoch_ends", interrupt)
    code, out, _ = fcnet_(*TRAIN, "--epochs", 1000, "--out", "run", "--json")
    assert code == 130
    assert json.loads(out)["epochs"] == 3
    assert json.loads(Path("run/run.json").read_text())["ending"] == "interrupted"
    _, out, _ = fcnet_("evaluate", "run", "blobs.npz", "--json")
    assert json.loads(out)["accuracy"] == json.loads(Path("run/run.json").read_text())["results"]["test_accuracy"]


def test_ctrl_c_while_the_run_is_written_does_not_lose_it(fcnet_, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(self, *arguments, original=fcnet.History.to_csv):
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(fcnet.History, "to_csv", interrupt)
    assert fcnet_(*TRAIN, "--out", "run")[0] == 0
    assert len(list(Path("run").iterdir())) == 6
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_before_training(fcnet_, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background begins without
    try:
        assert fcnet_(*TRAIN, "--out", "run")[:2] == (130, "")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not Path("run").exists()


STEEP = ("--optimizer", "sgd", "--learning-rate", "1e6", "--schedule", "constant", "--hidden", "8,8,8", "--l2", 1)


def test_a_cost_that_is_no_number(fcnet_):
    code, out, err = fcnet_(*TRAIN, *STEEP, "--epochs", 50, "--out", "run", "--json")
    assert code == 1
    found = re.search(
        r"^fcnet: error: The cost became NaN or infinite at step \d+ \(epoch \d+\)\. .*$", err, re.MULTILINE
    )
    assert found
    assert "The learning rate, 1e+06, is probably too high: try 100000, or scale the inputs to about 0 to 1" in found[0]
    assert "Traceback" not in err
    if "as it was before training" in found[0]:
        assert not Path("run").exists()
    else:
        assert json.loads(out)["epochs"] >= 1
        assert np.isfinite(fcnet.Network.load("run").arrays["layers.0.weights"]).all()


# --- Configuration ------------------------------------------------------------------------------------------------------


def settings_of(run):
    return json.loads(Path(run, "run.json").read_text())["settings"]


def test_a_configuration_gives_what_the_command_line_leaves_out(fcnet_):
    Path("run.toml").write_text(
        'hidden = [6, 5]\nepochs = 2\nbatch-size = 20\nlearning_rate = 0.05\nout = "from-file"\njson = true\n'
        'activation = "tanh"\ntime-budget = "1h"\n'
    )
    code, out, err = fcnet_("train", "blobs.npz", "--config", "run.toml")
    assert code == 0, err
    assert json.loads(out)["run"] == "from-file"
    found = settings_of("from-file")
    assert (found["hidden"], found["epochs"], found["batch_size"]) == ([6, 5], 2, 20)
    assert (found["learning_rate"], found["activation"], found["optimizer"]) == (0.05, "tanh", "adam")
    fcnet_("train", "blobs.npz", "--epochs", 3, "--config", "run.toml", "--hidden", 7, "--out", "other")
    found = settings_of("other")
    assert (found["hidden"], found["epochs"], found["batch_size"]) == ([7], 3, 20)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (
            "epoch = 3",
            2,
            "Unknown setting in run.toml: 'epoch'. Did you mean 'epochs'? Expected one of: hidden, activation,",
        ),
        ("[train]\nepochs = 3", 2, "Unknown setting in run.toml: 'train'."),
        ("config = 'run.toml'", 2, "Unknown setting in run.toml: 'config'."),
        ("epochs 3", 1, "The configuration run.toml is not TOML: "),
        ("epochs = " + "[" * 5000, 1, "The configuration run.toml is not TOML: "),
        ("epochs = " + "1" * 5000, 1, "The configuration run.toml is not TOML: "),
        ("epochs = 'many'", 2, "--epochs"),
        ("optimizer = 'adan'", 2, "Unknown optimizer 'adan'. Did you mean 'adam'?"),
        (None, 1, "The configuration run.toml cannot be read: No such file or directory."),
    ],
)
def test_refused_configurations(fcnet_, text, code, message):
    if text is not None:
        Path("run.toml").write_text(text)
    found, out, err = fcnet_("train", "blobs.npz", "--config", "run.toml")
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


# --- Help and version ---------------------------------------------------------------------------------------------------


def test_version(fcnet_):
    assert fcnet_("--version") == (0, f"fcnet {fcnet.__version__}\n", "")


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["predict"], ["info"], ["devices"]])
def test_help(fcnet_, command):
    code, out, err = fcnet_(*command, "--help")
    assert (code, err) == (0, "")
    assert "Usage: " in out
    assert fcnet_(*command, "-h")[1] == out


# --- Words --------------------------------------------------------------------------------------------------------------


def test_sizes():
    assert words.sizes("100,50") == [100, 50]
    assert words.sizes(" 30 ") == [30]
    assert words.sizes("") == words.sizes("none") == words.sizes("0") == []
    for text in ("100;50", "1.5", "10,", "-3", "10,0"):
        with pytest.raises(InputError, match=f"--hidden must be positive integers .* got {text!r}"):
            words.sizes(text)


def test_dropout():
    assert words.dropout("0.5", 3) == [0.0, 0.5, 0.5]  # the first layer's input is the data
    assert words.dropout("0.5", 1) == [0.0]
    assert words.dropout("0.2,0.5,0.4", 3) == [0.2, 0.5, 0.4]
    with pytest.raises(InputError, match="--dropout has 2 numbers, but the network has 3 layers"):
        words.dropout("0.5,0.5", 3)
    with pytest.raises(InputError, match="--dropout must be a number, or numbers separated by commas, got ''"):
        words.dropout("", 3)


def test_seconds():
    assert [words.seconds(text) for text in ("90", "90s", "5m", "1.5h", " .5 M ", "2.s")] == [90, 90, 300, 5400, 30, 2]
    for text in ("", "m", "5d", "-5s", "1e3", "nan", "5 m s"):
        with pytest.raises(InputError, match="--time-budget must be a duration such as 90s, 5m or 1"):
            words.seconds(text)


def test_optimizer():
    assert words.optimizer("sgd", 0.5, "constant") == SGD(Constant(0.5))
    assert words.optimizer("adam", 0.003, "cosine") == Adam(Cosine(0.003))
    assert words.optimizer("nesterov", 0.01, "warmup-cosine") == Nesterov(WarmUp(Cosine(0.01)))
    with pytest.raises(InputError, match=r"Unknown optimizer 'SGDD'\. Did you mean 'sgd'\?"):
        words.optimizer("SGDD", 0.1, "constant")
    with pytest.raises(InputError, match=r"Unknown schedule 'steps'\. Did you mean 'step'\?"):
        words.optimizer("sgd", 0.1, "steps")


def test_config(tmp_path):
    file, options = tmp_path / "run.toml", {"batch-size": "batch_size", "json": "json_line", "hidden": "hidden"}
    file.write_text("batch_size = 3\njson = true\nhidden = [1, 2]\n")
    assert words.config(file, options) == {"batch_size": 3, "json_line": True, "hidden": "1,2"}
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="is not TOML"):
        words.config(file, options)
    with pytest.raises(FileError, match="cannot be read: Is a directory"):
        words.config(tmp_path, options)


# --- Resume -------------------------------------------------------------------------------------------------------------


def model_of(run):
    return Path(run, "model.safetensors").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_chunk_and_the_run_resumes(fcnet_, monkeypatch, number, code):
    def interrupt(self, epoch, *rest, original=loop.Loop._epoch):
        if epoch == 2:
            os.kill(os.getpid(), number)
        return original(self, epoch, *rest)

    monkeypatch.setattr(loop, "FIRST_CHUNK", 3)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_epoch", interrupt)
        ended, _, err = fcnet_(*TRAIN, "--dropout", 0.2, "--out", "run")
    assert ended == code
    assert "fcnet: to go on: fcnet train --resume run" in err
    assert json.loads(Path("run/run.json").read_text())["results"]["epochs"] == 2
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    assert fcnet_("train", "--resume", "run")[0] == 0
    fcnet_(*TRAIN, "--dropout", 0.2, "--out", "whole")
    assert model_of("run") == model_of("whole")
    histories = [
        [row.rsplit(",", 1)[0] for row in Path(run, "history.csv").read_text().splitlines()] for run in ("run", "whole")
    ]
    assert histories[0] == histories[1]


def test_a_second_ctrl_c_in_the_first_epoch_leaves_a_checkpoint(fcnet_, monkeypatch):
    def interrupt(self, *rest, original=loop.Loop._epoch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_epoch", interrupt)
        code, _, err = fcnet_(*TRAIN, "--out", "run")
    assert code == 130
    assert "fcnet: to go on: fcnet train --resume run" in err
    assert fcnet_("train", "--resume", "run")[0] == 0
    fcnet_(*TRAIN, "--out", "whole")
    assert model_of("run") == model_of("whole")


def test_more_epochs_from_another_folder(fcnet_, monkeypatch, tmp_path):
    options = (*TRAIN, "--schedule", "constant", "--threads", 1)
    fcnet_(*options, "--out", "run")
    fcnet_(*options, "--epochs", 7, "--out", "whole")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    code, out, _ = fcnet_("train", "--resume", tmp_path / "run", "--epochs", 7, "--json")
    assert (code, json.loads(out)["epochs"]) == (0, 7)
    assert model_of(tmp_path / "run") == model_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--l2", 0.5], 2, "cannot be resumed, because it would not be the same: settings.l2 was 0.0, is 0.5"),
        (["--seed", 4], 2, "settings.seed was 0, is 4"),
        (["--out", "b"], 2, "--resume goes on in the run's own folder"),
        (["--overwrite"], 2, "leave out --out, --overwrite and --config"),
    ],
)
def test_what_does_not_resume(fcnet_, options, code, message):
    fcnet_(*TRAIN, "--out", "run")
    before = contents(Path("run"))
    ended, _, err = fcnet_("train", "--resume", "run", *options)
    assert ended == code
    assert message in err
    assert contents(Path("run")) == before


def test_changed_data_is_refused(fcnet_):
    fcnet_(*TRAIN, "--out", "run")
    y = np.arange(120) % 3
    np.savez("blobs.npz", X=np.eye(3, 4, dtype=np.float32)[y], y=y)
    code, _, err = fcnet_("train", "--resume", "run")
    assert code == 2
    assert "data.train.X was" in err


def test_nothing_to_resume(fcnet_):
    code, _, err = fcnet_("train", "--resume", "nowhere")
    assert code == 1
    assert "There is no checkpoint in nowhere, so nothing to resume." in err


def test_checkpoints_of_the_library_have_no_command_line(fcnet_, tmp_path):
    network = fcnet.Network([fcnet.SoftmaxLayer(2, 2)], 2)
    training.train(network, (np.eye(2), [0, 1]), epochs=1, verbose=False, checkpoint=tmp_path / "run", device="cpu")
    code, _, err = fcnet_("train", "--resume", "run")
    assert code == 1
    assert "are not of 'fcnet train'. Go on with fcnet.train(..., resume=...)" in err


def test_a_folder_in_use(fcnet_, tmp_path):
    from fcnet.keeper import Keeper

    def listed():
        return sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())

    with Keeper(tmp_path / "run"):
        code, _, err = fcnet_(*TRAIN, "--out", "run")
        assert code == 1
        assert f"process {os.getpid()} on " in err
        assert "is in use by" in err
        assert listed() == ["lock"]
    fcnet_(*TRAIN, "--out", "run")
    (tmp_path / "run" / "run.json").unlink()  # as while it trains
    before = listed()
    with Keeper(tmp_path / "run"):
        assert fcnet_(*TRAIN, "--out", "run", "--overwrite")[0] == 1
        assert listed() == before


def test_a_run_that_was_killed_stays_where_what_is_to_replace_it_is_refused(fcnet_, tmp_path):
    fcnet_(*TRAIN, "--out", "run")
    for path in (tmp_path / "run").iterdir():
        if path.is_file():
            path.unlink()
    for refused in (
        ("--l2", -1),
        ("--learning-rate", 1e30, "--activation", "linear", "--optimizer", "sgd", "--device", "gppu"),
    ):
        assert fcnet_(*TRAIN, "--out", "run", "--overwrite", *refused)[0] == 2
    assert fcnet_("train", "blobs.npz", "--resume", "run")[0] == 0


def test_a_run_that_was_killed_can_be_replaced(fcnet_):
    fcnet_(*TRAIN, "--out", "run")
    for path in Path("run").iterdir():
        if path.is_file():
            path.unlink()
    code, _, err = fcnet_(*TRAIN, "--out", "run")
    assert code == 1
    assert "go on with it by --resume" in err
    assert fcnet_(*TRAIN, "--seed", 1, "--out", "run", "--overwrite")[0] == 0
    assert fcnet_("train", "--resume", "run", "--seed", 1)[0] == 0


def test_what_can_be_written_is(fcnet_, monkeypatch):
    def full(*_):
        raise FileError("run/model.safetensors cannot be written: No space left on device.")

    monkeypatch.setattr(fcnet.Network, "save", full)
    code, _, err = fcnet_(*TRAIN, "--out", "run")
    assert code == 1
    assert "fcnet: error: run/model.safetensors cannot be written: No space left on device." in err
    assert json.loads(Path("run/run.json").read_text())["results"]["epochs"] == 4
    assert Path("run/history.csv").exists()
