"""A checkpoint file of which any one thing is wrong is refused, its checksum being right: nothing of it reaches a training."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

import fcnet
import readers
from fcnet import checkpoint
from fcnet.checkpoint import Checkpoint, checkpoint_bytes, load_checkpoint
from fcnet.engines.contract import TrainState
from fcnet.errors import FileError, InputError
from fcnet.history import EpochRecord, History
from fcnet.keeper import checkpoint_files, newest_checkpoint

DESCRIPTION = json.loads(readers.seeds()["checkpoint-description"]["description"])
WRONG = {
    "step": [-1, 1.5, True, "3", 1 << 62, None],
    "so_far": [3, {"cost": "much"}, {"cost": float("nan")}, {"price": 1.0}],
    "so_far.weight": [float("inf"), None, True],
    "identity": [3, {"settings": 3}],
    "history": [3, {}, []],
    "history.steps_per_epoch": [-1, 0.5],
    "history.best_epoch": [1, -1, "0"],
    "history.best_steps": [-1, 0.5],
    "history.halvings": [3, [0.5], [1] * 1001],
    "history.engine": [3],
    "history.device": [None],
    "history.monitor": ["loss", 3],
    "history.ending": ["soon", None],
}
"""For each place in the description, what must not stand there."""


@pytest.mark.parametrize(("place", "value"), [(place, value) for place, values in WRONG.items() for value in values])
def test_a_wrong_value(place, value):
    description = copy.deepcopy(DESCRIPTION)
    *way, last = (int(name) if name.isdecimal() else name for name in place.split("."))
    inner = description
    for name in way:
        inner = inner[name]
    assert last in inner
    inner[last] = value
    with pytest.raises(FileError, match=r"is damaged \(.*\)\. Go on from the checkpoint before it, or train anew\."):
        readers.read_checkpoint_description(json.dumps(description).encode())


@pytest.mark.parametrize("place", [place for place in WRONG if "." not in place])
def test_what_is_missing(place):
    description = {name: value for name, value in DESCRIPTION.items() if name != place}
    with pytest.raises(FileError, match=rf"is damaged \('{place}'\)"):
        readers.read_checkpoint_description(json.dumps(description).encode())


def content(parameters, slots=None, kept=None, history=None):
    history = history or History("native", "cpu", None, 10)
    return checkpoint_bytes(Checkpoint(TrainState(parameters, slots or {}, 3), kept, history))


def test_wrong_arrays(tmp_path):
    file = tmp_path / "checkpoint-000001.safetensors"
    file.write_bytes(content({"layers.0.weights": np.full((2, 2), np.nan, np.float32)}))
    with pytest.raises(FileError, match="its parameters are missing, or contain NaN or infinity"):
        load_checkpoint(file)
    file.write_bytes(content({"layers.0.weights": np.zeros((2, 2), np.float16)}))
    with pytest.raises(FileError, match=r"parameters/layers\.0\.weights is of type F16, expected F32 or F64"):
        load_checkpoint(file)
    file.write_bytes(content({}))
    with pytest.raises(FileError, match="its parameters are missing, or contain NaN or infinity"):
        load_checkpoint(file)
    file.write_bytes(save({"w": np.zeros(3, np.float32)}))
    with pytest.raises(FileError, match="is a safetensors file, but not one that fcnet wrote"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "figures",
    [
        None,
        np.zeros((2, 5)),
        np.zeros(6),
        np.zeros((2, 6), np.float32),
        np.full((1, 6), np.nan),
        np.full((1, 6), np.inf),
    ],
    ids=["none", "too few", "in one row", "of another type", "NaN", "infinite"],
)
def test_wrong_figures_of_epochs(tmp_path, monkeypatch, figures):
    file = tmp_path / "checkpoint-000001.safetensors"
    arrays = {"parameters/layers.0.weights": np.zeros((2, 2), np.float32)}
    if figures is not None:
        arrays["history/epochs"] = figures
    description = {name: value for name, value in DESCRIPTION.items() if name != "sha256"}
    description["sha256"] = checkpoint._checksum(description, arrays)
    file.write_bytes(save(arrays, {"fcnet": json.dumps(description)}))
    with pytest.raises(FileError, match=r"is damaged \(.*\)\. Go on from"):
        load_checkpoint(file)


def test_a_history_of_very_many_epochs(tmp_path):
    """What has run a hundred thousand epochs goes on, too."""
    records = [EpochRecord(n, 1.0 / (n + 1), None, 0.5, None, 0.1, 0.001) for n in range(100_000)]
    history = History("native", "cpu", "accuracy", 10, records, best_epoch=99_999, best_steps=1_000_000)
    file = tmp_path / "checkpoint-000001.safetensors"
    file.write_bytes(content({"layers.0.weights": np.zeros((2, 2), np.float32)}, history=history))
    assert load_checkpoint(file).history == history


def wider(state):
    return replace(state, parameters={name: np.concatenate([one, one]) for name, one in state.parameters.items()})


@pytest.mark.parametrize(
    "change",
    [
        lambda found: replace(found, state=wider(found.state)),
        lambda found: replace(found, state=replace(found.state, slots={"velocity": found.state.parameters})),
        lambda found: replace(found, kept=wider(found.state).parameters),
        lambda found: replace(found, state=replace(found.state, step=1000)),
        lambda found: replace(found, history=replace(found.history, steps_per_epoch=1)),
    ],
    ids=[
        "wider arrays",
        "slots of another optimizer",
        "a wider best network",
        "a step beyond the epochs",
        "other epochs",
    ],
)
def test_what_does_not_fit_its_own_settings(tmp_path, change):
    data, network = (np.eye(3), np.arange(3)), fcnet.Network([fcnet.SoftmaxLayer(3, 3)], 1)
    options = {"engine": "native", "device": "cpu", "verbose": False}
    fcnet.train(network, data, epochs=1, checkpoint=tmp_path, **options)
    changed = checkpoint_bytes(change(newest_checkpoint(tmp_path)))
    for file in checkpoint_files(tmp_path):
        file.write_bytes(changed)
    with pytest.raises(FileError, match=r"does not fit its own settings\. The file is damaged; train anew\."):
        fcnet.train(network, data, epochs=2, resume=tmp_path, **options)


class Sawtooth:
    """A schedule of someone's own."""

    def __init__(self, rate, teeth):
        self.rate, self.teeth = rate, teeth

    def __call__(self, epoch, epochs):
        return self.rate * (1.0 - (self.teeth * epoch) % 1.0)


def test_settings_of_one_s_own_are_compared_by_what_they_hold(tmp_path):
    data, network = (np.eye(3), np.arange(3)), fcnet.Network([fcnet.SoftmaxLayer(3, 3)], 1)

    def fit(schedule, l2=0.5, **options):
        fcnet.train(
            network, data, optimizer=fcnet.SGD(schedule), l2=l2, engine="native", device="cpu", verbose=False, **options
        )

    fit(Sawtooth(0.1, 3), epochs=1, checkpoint=tmp_path)
    fit(Sawtooth(0.1, 3), l2=np.float32(0.5), epochs=2, resume=tmp_path)
    with pytest.raises(InputError, match=r"settings\.optimizer\.learning_rate\.teeth was 3, is 4"):
        fit(Sawtooth(0.1, 4), epochs=3, resume=tmp_path)
