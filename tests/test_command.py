"""The installed command, run as a person runs it, on real digits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fcnet

COMMAND = Path(sys.executable).with_name("fcnet")


def run(*arguments, cwd, **environment):
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "120"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """``fcnet train digits``, and nothing else."""
    folder = tmp_path_factory.mktemp("digits")
    return folder, run("train", "digits", "--json", "--out", "run", cwd=folder)


def test_train_digits_needs_no_option(digits):
    folder, ended = digits
    assert ended.returncode == 0, ended.stderr
    results = json.loads(ended.stdout.splitlines()[-1])
    assert results.keys() == {
        *("test_accuracy", "best_validation_accuracy", "best_epoch", "epochs"),
        *("seconds", "engine", "device", "run"),
    }
    assert results["test_accuracy"] > 0.97
    assert results["best_validation_accuracy"] > 0.97
    assert results["seconds"] < 20
    assert {path.name for path in (folder / "run").iterdir()} == {
        *("checkpoints", "model.safetensors", "model.json", "run.json", "history.csv", "curves.png"),
    }
    assert json.loads((folder / "run" / "run.json").read_text())["results"] == results


def test_the_module_is_the_command(tmp_path):
    asked = [[COMMAND, "--version"], [sys.executable, "-m", "fcnet", "--version"]]
    said = [
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout for command in asked
    ]
    assert said == [f"fcnet {fcnet.__version__}\n"] * 2


def test_the_run_is_used(digits):
    folder, trained = digits
    results = json.loads(trained.stdout)
    ended = run("evaluate", "run", "digits", "--json", cwd=folder)
    assert json.loads(ended.stdout)["accuracy"] == results["test_accuracy"]
    ended = run("predict", "run", "digits", "--out", "predictions.csv", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    header, *rows = (folder / "predictions.csv").read_text().splitlines()
    assert header == "prediction," + ",".join(f"p_{digit}" for digit in range(10))
    assert f"{len(rows)} predictions in predictions.csv\n" == ended.stdout
    ended = run("info", "run", cwd=folder)
    assert "0      FullyConnectedLayer  64    256    relu" in ended.stdout
    assert f"test_accuracy             {results['test_accuracy']}" in ended.stdout


def test_the_library_reads_the_run(digits):
    folder, trained = digits
    network = fcnet.Network.load(folder / "run")
    test = fcnet.load_data("digits").test
    assert network.accuracy(test.X, test.y) == json.loads(trained.stdout)["test_accuracy"]


def test_a_run_folder_that_exists_is_left_alone(digits):
    folder, _ = digits
    ended = run("train", "digits", "--out", "run", cwd=folder)
    assert ended.returncode == 1
    assert ended.stderr.startswith("fcnet: error: The run folder run exists already. Choose another with --out")


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(tmp_path, times):
    """One or, for the impatient, two: the best network is saved, and the exit code is 130."""
    command = [COMMAND, "train", "digits", "--epochs", "1000000", "--learning-rate", "0.0001", "--out", "run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        while not process.stderr.readline().startswith("epoch 5/"):
            assert process.poll() is None
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.002)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted after " in out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["ending"] == "interrupted"
    assert record["results"]["epochs"] >= 5
    test = fcnet.load_data("digits").test
    assert fcnet.Network.load(tmp_path / "run").accuracy(test.X, test.y) == record["results"]["test_accuracy"]


def test_a_mistake_is_a_message_not_a_traceback(tmp_path):
    ended = run("train", "digits", "--activation", "rleu", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("fcnet: error: Unknown activation 'rleu'. Did you mean 'relu'?")
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_library_s_first_network_in_another_process(tmp_path):
    """The same seed gives the same bytes from one process to the next."""
    program = (
        "import fcnet, sys\n"
        "data = fcnet.load_data('digits')\n"
        "layers = [fcnet.FullyConnectedLayer(64, 30, p_dropout=0.1), fcnet.SoftmaxLayer(30, 10)]\n"
        "network = fcnet.Network(layers, 10, seed=3)\n"
        "network.SGD(data.train, 2, 10, 0.5, data.validation)\n"
        "network.save(sys.argv[1])\n"
    )
    for name in ("first", "second"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=True, capture_output=True)
    first, second = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


def test_version_and_completion(tmp_path):
    assert run("--version", cwd=tmp_path).stdout == f"fcnet {fcnet.__version__}\n"
    script = run(
        "--show-completion", "bash", cwd=tmp_path, SHELL="/bin/bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert script.returncode == 0, script.stderr
    assert "_FCNET_COMPLETE=complete_bash" in script.stdout

    def complete(words, position):
        completed = run(cwd=tmp_path, _FCNET_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(position))
        return completed.stdout.split()

    assert complete("fcnet tr", 1) == ["train"]
    assert complete("fcnet train --lear", 2) == ["--learning-rate"]


def test_help_is_quick(tmp_path):
    assert min(work_of_help(tmp_path) for _ in range(3)) < 0.5


def work_of_help(folder):
    """Processor seconds, which a busy machine does not lengthen as it does the time on the clock."""
    before = os.times()
    assert run("--help", cwd=folder).returncode == 0
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
