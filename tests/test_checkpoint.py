"""Model files: what comes back is what was saved, and anything else is refused with a reason."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

import fcnet
from fcnet import initializers
from fcnet.activations import ELEMENTWISE
from fcnet.checkpoint import write_atomically
from fcnet.errors import FileError, InputError

X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
Y = np.arange(20) % 3
LAYERS = (fcnet.FullyConnectedLayer(4, 8, fcnet.relu, 0.25), fcnet.SoftmaxLayer(8, 3, 0.5))


def small(layers=LAYERS, seed=7):
    return fcnet.Network(layers, mini_batch_size=5, seed=seed)


def assert_same(loaded, network):
    assert loaded.model == network.model
    assert loaded.arrays.keys() == network.arrays.keys()
    for name, array in network.arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert loaded.arrays[name].tobytes() == array.tobytes()
    assert loaded.predict_proba(X).tobytes() == network.predict_proba(X).tobytes()
    for name in ("mini_batch_size", "seed", "task", "trained"):
        assert getattr(loaded, name) == getattr(network, name)


# --- Round trips --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["training", "inference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(tmp_path, scaling, dtype):
    network = small()
    fcnet.train(network, (X, Y), epochs=2, dropout_scaling=scaling, dtype=dtype, verbose=False)
    path = network.save(tmp_path / "net")
    assert path == tmp_path / "net.safetensors"
    assert_same(fcnet.Network.load(path), network)
    assert_same(fcnet.Network.load(tmp_path / "net"), network)
    assert_same(fcnet.Network.load(str(path)), network)


def test_an_untrained_network(tmp_path):
    network = small()
    network.save(tmp_path / "net.safetensors")
    assert_same(fcnet.Network.load(tmp_path / "net.safetensors"), network)


@pytest.mark.parametrize("activation", [*ELEMENTWISE.values(), fcnet.softmax], ids=lambda activation: activation.name)
def test_every_activation_and_initializer(tmp_path, activation):
    layers = [
        fcnet.FullyConnectedLayer(4, 3, activation, 0.1, initializers.he_normal, initializers.zeros),
        fcnet.FullyConnectedLayer(3, 2, activation, 0.0, initializers.glorot_uniform),
    ]
    network = small(layers)
    network.save(tmp_path / "net")
    loaded = fcnet.Network.load(tmp_path / "net")
    assert loaded.model == network.model
    assert loaded.predict(X).tobytes() == network.predict(X).tobytes()


TABLE = (
    fcnet.TableLayer(2, 1, (3,), n_waves=5, frequency=0.5),
    fcnet.FullyConnectedLayer(17, 6, fcnet.selu, parametric=True),
    fcnet.SoftmaxLayer(6, 3),
)


TABLE_JSON = {"type": "TableLayer", **dataclasses.asdict(TABLE[0])}


def test_tables_and_blends(tmp_path):
    network, table = small(TABLE), np.column_stack([X[:, :3], Y])
    fcnet.train(network, (table, Y), epochs=2, verbose=False)
    network.save(tmp_path)
    loaded = fcnet.Network.load(tmp_path)
    assert loaded.model == network.model
    assert loaded.predict_proba(table).tobytes() == network.predict_proba(table).tobytes()
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["version"] == 2
    assert description["layers"][0] == {
        "type": "TableLayer",
        "n_numbers": 2,
        "n_plain": 1,
        "categories": [3],
        "n_waves": 5,
        "number_width": 4,
        "category_width": 8,
        "frequency": 0.5,
        "scaled": True,
    }
    assert description["layers"][1]["parametric"] is True


def test_a_network_for_tables_refuses_pairs_and_bad_codes():
    network, table = small(TABLE), np.column_stack([X[:, :3], Y])
    message = (
        "parameters holds one .w, b. a layer, but layer 0 has frequencies, phases, amplitudes, offsets, embeddings"
    )
    with pytest.raises(InputError, match=message):
        _ = network.parameters
    with pytest.raises(InputError, match=message):
        network.parameters = []
    table[4, 3] = 3
    with pytest.raises(InputError, match="X of the training data: row 4 has 3 in column 3, expected a category's code"):
        fcnet.train(network, (table, Y), epochs=1, verbose=False)
    for ask in (network.predict, lambda X: network.cost(X, Y)):
        with pytest.raises(InputError, match="row 4 has 3 in column 3, expected a category's code"):
            ask(table)


def test_training_goes_on_after_loading(tmp_path):
    whole, half = small(), small()
    fcnet.train(whole, (X, Y), epochs=1, shuffle=False, verbose=False)
    fcnet.train(half, (X, Y), epochs=1, shuffle=False, verbose=False)
    half.save(tmp_path / "net")
    half = fcnet.Network.load(tmp_path / "net")
    for network in (whole, half):
        fcnet.train(network, (X, Y), epochs=1, shuffle=False, dropout_scaling="inference", verbose=False)
    assert_same(half, whole)


def test_a_folder_holds_a_model(tmp_path):
    network = small()
    assert network.save(tmp_path) == tmp_path / "model.safetensors"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    assert_same(fcnet.Network.load(tmp_path), network)


def test_the_description_is_readable(tmp_path):
    small().save(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text()) == {
        "format": "fcnet.model",
        "version": 1,
        "layers": [
            {
                "type": "FullyConnectedLayer",
                "n_in": 4,
                "n_out": 8,
                "activation": "relu",
                "p_dropout": 0.25,
                "weights": "article_weights",
                "biases": "article_biases",
            },
            {
                "type": "SoftmaxLayer",
                "n_in": 8,
                "n_out": 3,
                "activation": "softmax",
                "p_dropout": 0.5,
                "weights": "zeros",
                "biases": "zeros",
            },
        ],
        "dropout_scaling": "inference",
        "mini_batch_size": 5,
        "seed": 7,
        "task": "classification",
        "trained": False,
    }
    tensors = load_tensors((tmp_path / "model.safetensors").read_bytes())  # any program with safetensors can
    assert {name: array.shape for name, array in tensors.items()} == {
        "layers.0.weights": (4, 8),
        "layers.0.biases": (8,),
        "layers.1.weights": (8, 3),
        "layers.1.biases": (3,),
    }


# --- Writing ------------------------------------------------------------------------------------------------------------


def fail(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("crash", [(os, "fsync"), (os, "replace")], ids=["fsync", "replace"])
def test_a_crash_leaves_the_old_file(tmp_path, monkeypatch, crash):
    old = small(seed=1)
    file = old.save(tmp_path / "net")
    monkeypatch.setattr(*crash, fail)
    message = f"{file} cannot be written: No space left on device. Check that the folder exists and is writable."
    with pytest.raises(FileError, match=re.escape(message)):
        small(seed=2).save(tmp_path / "net")
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    assert_same(fcnet.Network.load(file), old)


def test_a_later_file_replaces_the_earlier(tmp_path):
    small(seed=1).save(tmp_path / "net")
    small(seed=2).save(tmp_path / "net")
    assert_same(fcnet.Network.load(tmp_path / "net"), small(seed=2))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"net\.safetensors cannot be written: Not a directory\. Check that the folder"):
        small().save(tmp_path / "file" / "net")
    with pytest.raises(FileError, match=r"net\.safetensors cannot be written: No such file or directory"):
        small().save(tmp_path / "nowhere" / "net")
    (tmp_path / "net.safetensors").mkdir()
    with pytest.raises(FileError, match="cannot be written"):
        write_atomically(tmp_path / "net.safetensors", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "net.safetensors"]


def swish(z):
    return z * fcnet.sigmoid(z)


def test_a_custom_activation_is_named_with_advice(tmp_path):
    network = small([fcnet.FullyConnectedLayer(4, 8), fcnet.FullyConnectedLayer(8, 8, swish), fcnet.SoftmaxLayer(8, 3)])
    message = (
        "Layer 1 has the custom activation 'swish', and a file never holds code. Save the numbers with "
        "numpy.savez(path, **network.arrays), and rebuild the network in code before you set network.parameters; or use "
        "one of: sigmoid, tanh, relu, "
    )
    with pytest.raises(InputError, match=re.escape(message)):
        network.save(tmp_path / "net")
    assert list(tmp_path.iterdir()) == []
    np.savez(tmp_path / "numbers.npz", **network.arrays)  # the advice works
    numbers = np.load(tmp_path / "numbers.npz")
    rebuilt = small(network.layers, seed=8)
    rebuilt.parameters = [(numbers[f"layers.{i}.weights"], numbers[f"layers.{i}.biases"]) for i in range(3)]
    assert rebuilt.predict_proba(X).tobytes() == network.predict_proba(X).tobytes()


def test_a_custom_function_under_a_known_name_is_custom(tmp_path):
    impostor = fcnet.Activation("relu", swish)
    with pytest.raises(InputError, match="Layer 0 has the custom activation 'relu'"):
        small([fcnet.FullyConnectedLayer(4, 8, impostor)]).save(tmp_path / "net")


def test_a_custom_initializer_is_named_with_advice(tmp_path):
    ones = initializers.Initializer("ones", lambda key, shape, n_in, n_out: np.ones(shape))
    network = small([replace(LAYERS[0], weights=ones), LAYERS[1]])
    message = (
        "Layer 0 has the custom initializer 'ones', and a file never holds code. Once trained it is not needed: set it"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        network.save(tmp_path / "net")


# --- Damaged files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return small().save(tmp_path_factory.mktemp("whole") / "net").read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "net.safetensors"


def test_truncated_at_any_length(content, place):
    for length in [*range(0, len(content), 13), len(content) - 1]:
        place.write_bytes(content[:length])
        with pytest.raises(FileError, match="is truncated, damaged, or not a model file"):
            fcnet.Network.load(place)


def test_longer_than_it_should_be(content, place):
    place.write_bytes(content + b"\0")
    with pytest.raises(FileError, match="is truncated, damaged, or not a model file"):
        fcnet.Network.load(place)


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_bytes_load_or_are_refused(content, place, changes):
    damaged = bytearray(content)
    for position, flip in changes:
        damaged[position % len(content)] ^= flip
    place.write_bytes(damaged)
    with contextlib.suppress(FileError):  # and nothing else
        network = fcnet.Network.load(place)
        assert all(np.isfinite(array).all() for array in network.arrays.values())


@settings(max_examples=200, deadline=None)
@given(junk=st.binary(max_size=200))
def test_junk_is_refused(place, junk):
    place.write_bytes(junk)
    with pytest.raises(FileError, match=r"net\.safetensors is truncated, damaged, or not a model file"):
        fcnet.Network.load(place)


def test_missing(tmp_path):
    message = (
        f"There is no model file {tmp_path / 'net.safetensors'}. Expected a file written by Network.save, or a run"
    )
    with pytest.raises(FileError, match=re.escape(message)):
        fcnet.Network.load(tmp_path / "net")
    with pytest.raises(FileError, match=r"There is no model file .*model\.safetensors"):
        fcnet.Network.load(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 2**27, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_any_claimed_length_is_refused_at_once(place, content, length):
    place.write_bytes(length.to_bytes(8, "little") + content[8:])
    tracemalloc.start()
    with pytest.raises(FileError, match="is truncated, damaged, or not a model file"):
        fcnet.Network.load(place)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"data_offsets":[', b'"data_offsets":[9'),
        (b'"shape":[4,8]', b'"shape":[4,9]'),
        (b'"shape":[4,8]', b'"shape":[-4,-8]'),
        (b'"shape":[4,8]', b'"shape":[4294967296,4294967296,4294967296]'),
        (b'"shape":[4,8]', b'"shape":[1e999,8]'),
        (b'"shape":[4,8]', b'"shape":' + b"[" * 5000),
        (b'"dtype":"F32"', b'"dtype":"O"'),
        (b"layers.0.biases", b"layers.0.weights"),
        (b"layers.0.biases", b"layers.0.bi\xffses"),
    ],
)
def test_a_header_that_lies_is_refused(place, content, old, new):
    n = int.from_bytes(content[:8], "little")
    assert old in content[8 : 8 + n]
    header = content[8 : 8 + n].replace(old, new, 1)
    place.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + n :])
    with pytest.raises(FileError, match=r"is truncated, damaged, or not a model file|The file is damaged"):
        fcnet.Network.load(place)


def test_a_path_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    (tmp_path / "model.safetensors").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "zero", tmp_path, "a\0b", "~nobody-of-this-name"):
        with pytest.raises(FileError, match="There is no model file"):
            fcnet.Network.load(path)
    with pytest.raises(FileError, match="cannot be reached: File name too long"):
        fcnet.Network.load("x" * 5000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    small().save(tmp_path).chmod(0)
    with pytest.raises(FileError, match=r"cannot be opened: Permission denied. Check the file and who may read it"):
        fcnet.Network.load(tmp_path)


def test_a_foreign_file(tmp_path):
    file = tmp_path / "net.safetensors"
    file.write_bytes(save_tensors({"weights": np.zeros(3, np.float32)}))
    with pytest.raises(FileError, match="is a safetensors file, but not one that fcnet wrote"):
        fcnet.Network.load(file)
    file.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(FileError, match="is truncated, damaged, or not a model file"):
        fcnet.Network.load(file)


@pytest.fixture
def rewrite(place):
    small().save(place.parent)

    def write(description=None, arrays=None, text=None):
        whole = json.loads((place.parent / "model.json").read_text())
        text = json.dumps(whole | (description or {})) if text is None else text
        all_arrays = {name: array for name, array in (small().arrays | (arrays or {})).items() if array is not None}
        place.write_bytes(save_tensors(all_arrays, {"fcnet": text}))
        return place

    return write


FIRST, SECOND = (
    {
        "type": "FullyConnectedLayer",
        "n_in": 4,
        "n_out": 8,
        "activation": "relu",
        "p_dropout": 0.25,
        "weights": "zeros",
        "biases": "zeros",
    },
    {"type": "SoftmaxLayer", "n_in": 8, "n_out": 3, "activation": "softmax", "p_dropout": 0, "weights": "zeros", "biases": "zeros"},
)  # fmt: skip


def test_the_rewritten_file_loads(rewrite):
    assert fcnet.Network.load(rewrite({"layers": [FIRST, SECOND]})).layers[0].n_out == 8


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"version": 3}, "was written by a newer fcnet: its version is 3, this fcnet reads up to 2. Upgrade fcnet."),
        ({"version": 0}, "its version is 0, expected a number from 1. The file is damaged."),
        ({"version": "1"}, "its version is '1', expected a number from 1. The file is damaged."),
        ({"format": "other.model"}, "is not a model that fcnet wrote: its format is not 'fcnet.model'."),
        ({"layers": None}, "its description lacks layers or dropout_scaling. The file is damaged."),
        ({"dropout_scaling": "none"}, "its description lacks layers or dropout_scaling. The file is damaged."),
        ({"layers": []}, "its layers cannot be read (A network needs at least one layer"),
        ({"layers": ["relu"]}, "its layers cannot be read ("),
        ({"layers": [FIRST | {"type": "os.system"}, SECOND]}, "its layers cannot be read ('os.system')."),
        ({"layers": [FIRST | {"activation": "os.system"}, SECOND]}, "its layers cannot be read ('os.system')."),
        ({"layers": [FIRST | {"weights": ["zeros"]}, SECOND]}, "its layers cannot be read ("),
        ({"layers": [FIRST | {"n_in": "4"}, SECOND]}, "its layers cannot be read (FullyConnectedLayer: n_in must be"),
        ({"layers": [FIRST | {"n_out": -8}, SECOND]}, "its layers cannot be read (FullyConnectedLayer: n_out must be"),
        ({"layers": [FIRST | {"p_dropout": 1}, SECOND]}, "its layers cannot be read (FullyConnectedLayer: p_dropout must"),
        ({"layers": [FIRST | {"p_dropout": 10**400}, SECOND]}, "its layers cannot be read (FullyConnectedLayer: p_dropout must"),
        ({"layers": [FIRST | {"n_in": "4" * 100_000}, SECOND]}, "its layers cannot be read (FullyConnectedLayer: n_in must be"),
        ({"layers": [FIRST | {"n_in": 10**4000}, SECOND]}, "layers.0.weights has shape (4, 8) and type F32, expected (1000000"),
        ({"layers": [FIRST | {"type": "\x1b[2J"}, SECOND]}, "its layers cannot be read ('\\x1b[2J')."),
        ({"layers": [FIRST, *[SECOND | {"n_in": 3}] * 10_000]}, "its layers cannot be read (Layer 1 "),
        ({"layers": [FIRST | {"n_in": 8}] * 10_000}, "and 19,988 more"),
        ({"version": "1" * 100_000}, "its version is '1111"),
        ({"mini_batch_size": "5" * 100_000}, "its settings cannot be read (mini_batch_size must be a positive integer, got '5"),
        ({"layers": [FIRST | {"n_out": 9}, SECOND]}, "its layers cannot be read (Layer 1 (SoftmaxLayer(8, 3)) reads 8"),
        ({"layers": [FIRST | {"n_in": 10**12}, SECOND]}, "layers.0.weights has shape (4, 8) and type F32, expected (1000000000000, 8) of F32 or F64."),
        ({"layers": [FIRST | {"type": "TableLayer"}, SECOND]}, "its layers cannot be read ('n_numbers')."),
        ({"layers": [{**TABLE_JSON, "frequency": 10**400}, SECOND]}, "its layers cannot be read (TableLayer: frequency must lie"),
        ({"layers": [{**TABLE_JSON, "categories": "9" * 9}, SECOND]}, "its layers cannot be read (TableLayer: categories must"),
        ({"layers": [FIRST | {"parametric": 1}, SECOND]}, "its layers cannot be read (FullyConnectedLayer: parametric must"),
        ({"layers": [FIRST]}, "holds the arrays layers.0.biases, layers.0.weights, layers.1.biases, layers.1.weights, but its layers need layers.0.biases, layers.0.weights. The file is damaged."),
        ({"mini_batch_size": 0}, "its settings cannot be read (mini_batch_size must be a positive integer, got 0.)."),
        ({"seed": -1}, "its settings cannot be read (seed must lie in"),
        ({"task": "ranking"}, "its settings cannot be read."),
        ({"trained": 1}, "its settings cannot be read."),
    ],
)  # fmt: skip
def test_a_description_that_does_not_fit(rewrite, description, message):
    with pytest.raises(FileError, match=re.escape(message)) as caught:
        fcnet.Network.load(rewrite(description))
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, "1" * 5000, "[" + "[]," * (1 << 21) + "[]]"])
def test_a_description_that_is_none(rewrite, text):
    with pytest.raises(
        FileError, match=r"description is not JSON|description has .* characters|is not a model that fcnet"
    ):
        fcnet.Network.load(rewrite(text=text))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"layers.0.weights": np.zeros((8, 4), np.float32)}, "layers.0.weights has shape (8, 4) and type F32, expected (4, 8)"),
        ({"layers.1.biases": np.zeros((1, 3), np.float32)}, "layers.1.biases has shape (1, 3) and type F32, expected (3,)"),
        ({"layers.0.biases": np.zeros(8, np.float16)}, "layers.0.biases has shape (8,) and type F16, expected (8,) of F32 or F64."),
        ({"layers.0.biases": np.zeros(8, np.int64)}, "layers.0.biases has shape (8,) and type I64, expected (8,) of F32 or F64."),
        ({"layers.0.biases": np.full(8, np.nan, np.float32)}, "layers.0.biases contains NaN or infinity. The file is damaged."),
        ({"layers.1.weights": np.full((8, 3), -np.inf)}, "layers.1.weights contains NaN or infinity. The file is damaged."),
        ({"layers.1.biases": None}, "holds the arrays layers.0.biases, layers.0.weights, layers.1.weights, but its layers need"),
        ({"extra": np.zeros(1)}, "holds the arrays extra, layers.0.biases,"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(rewrite, arrays, message):
    with pytest.raises(FileError, match=re.escape(message)):
        fcnet.Network.load(rewrite(arrays=arrays))
