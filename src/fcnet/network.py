"""The network a person holds: layers, parameters, and what can be done with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fcnet import counters
from fcnet.activations import sigmoid, softmax
from fcnet.checkpoint import SavedModel, load_model, save_model
from fcnet.costs import Cost, default_cost
from fcnet.data.arrays import as_part, as_rows, check_finite, check_range
from fcnet.data.files import shown
from fcnet.engines.choose import choose
from fcnet.engines.contract import Dtype, Engine, Metrics, Placement, Precision, Program, initial_state
from fcnet.errors import FileError, InputError, check_count
from fcnet.history import EpochRecord, History, Observer, RunInfo
from fcnet.layers import Layer, TableLayer, check_codes
from fcnet.model import Model, biases_name, model_of, weights_name
from fcnet.optimizers import SGD, SGD_RULE
from fcnet.progress import print_choice
from fcnet.training import Task, check_cost, train

PRINT_EVERY = 1000
"""The article prints a line every so many mini-batches."""
_FLOAT32 = np.dtype("float32")


class Network:
    """A fully connected network.

    Args:
        layers: from input to output; each must read as many numbers as the one before writes.
        mini_batch_size: rows in a training step.
        seed: decides the initial weights, and in ``SGD`` the dropout masks.

    Attributes:
        model: the layers, checked.
        task: "classification" or "regression": what ``predict`` answers.
        trained: whether the parameters come from a training.
        history: of the last training in this process; None before.

    Raises:
        InputError: layers that do not fit (both are named), or a mini-batch size or seed that cannot be used.
    """

    def __init__(self, layers: Sequence[Layer], mini_batch_size: int, seed: int = 0) -> None:
        self.model: Model = model_of(layers)
        self.mini_batch_size = check_count("mini_batch_size", mini_batch_size)
        self.seed = counters.check_seed(seed)
        self.arrays = self.model.initial_parameters(self.seed)
        last = self.model.layers[-1].activation_fn
        self.task: Task = "classification" if last in (softmax, sigmoid) else "regression"
        self.trained = False
        self.history: History | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, from input to output."""
        return self.model.layers

    @property
    def gives_probabilities(self) -> bool:
        """Whether outputs can be read as probabilities: those of softmax and sigmoid last layers."""
        return self.model.layers[-1].activation_fn in (softmax, sigmoid)

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The parameters by name, ``{"layers.0.weights": (n_in, n_out), ...}``; to change them, set ``parameters``."""
        return self._arrays

    @arrays.setter
    def arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.model.check_parameters(arrays)
        for array in arrays.values():
            array.flags.writeable = False  # an engine may hold a copy, which a change in place would leave behind
        self._arrays = MappingProxyType(dict(arrays))
        self._started: dict[tuple[str, str], tuple[Engine, Any]] = {}

    @property
    def parameters(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """(w, b) of each layer, ``(n_in, n_out)`` and ``(n_out,)``, not to be written to; the list can be set, and is checked.

        Networks whose layers have other arrays too, such as a ``TableLayer``'s, have ``arrays`` alone.
        """
        self._check_pairs()
        return [(self.arrays[weights_name(i)], self.arrays[biases_name(i)]) for i in range(len(self.model.layers))]

    @parameters.setter
    def parameters(self, parameters: Sequence[tuple[ArrayLike, ArrayLike]]) -> None:
        self._check_pairs()
        if len(parameters) != len(self.model.layers):
            raise InputError(
                f"parameters must be one (w, b) a layer: expected {len(self.model.layers)}, got {len(parameters)}."
            )
        arrays = {}
        for index, pair in enumerate(parameters):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(f"parameters must be one (w, b) a layer, got {type(pair).__name__} for layer {index}.")
            for name, array in zip((weights_name(index), biases_name(index)), pair, strict=True):
                new = np.asarray(array)
                if new.dtype.kind not in "fiub":
                    raise InputError(f"{name} must hold numbers, got an array of {new.dtype}.")
                arrays[name] = np.array(new, dtype="float64" if new.dtype == np.float64 else "float32")
                if not np.isfinite(arrays[name]).all():
                    raise InputError(f"{name} contains NaN or infinity.")
        self.arrays = arrays

    def _check_pairs(self) -> None:
        for index, layer in enumerate(self.model.layers):
            if (names := [name for name, _, _ in layer.arrays]) != ["weights", "biases"]:
                raise InputError(
                    f"parameters holds one (w, b) a layer, but layer {index} has {', '.join(names) or 'no arrays'}. Use "
                    "network.arrays, which holds every array by name."
                )

    def __repr__(self) -> str:
        layers = ", ".join(f"{type(layer).__name__}({layer.n_in}, {layer.n_out})" for layer in self.model.layers)
        return f"Network([{layers}], mini_batch_size={self.mini_batch_size}, seed={self.seed})"

    # --- Training -----------------------------------------------------------------------------------------------------

    def SGD(
        self,
        training_data: Any,
        epochs: int,
        mini_batch_size: int,
        eta: float,
        validation_data: Any,
        test_data: Any = None,
        lmbda: float = 0.0,
        *,
        cost: Cost | None = None,
        engine: str = "auto",
        device: str = "auto",
        precision: Precision = "tf32",
        time_budget: float | None = None,
    ) -> History:
        """Train by mini-batch stochastic gradient descent, exactly as the article does, and print its lines.

        At each step w <- w - eta * dC/dw with C = mean cost of the mini-batch on the dropout path
        + 0.5 * lmbda * sum(w^2) / (number of training batches). Batches come in the data's order; a last short one is left
        out. After every epoch the validation accuracy is printed; the best network (the latest of equals) is kept, and the
        test accuracy that goes with it is printed.

        Args:
            training_data, validation_data, test_data: ``(X, y)``; test_data may be None, and validation_data too (then the
                last network is kept).
            epochs: passes over the training data.
            mini_batch_size: must agree with the network's.
            eta: learning rate.
            lmbda: strength of the L2 penalty.
            cost: by default what pairs with the last layer, see ``fcnet.train``.
            engine, device, precision, time_budget: see ``fcnet.train``.

        Returns:
            The history.

        Raises:
            InputError, DeviceError, DivergenceError, KeyboardInterrupt: see ``fcnet.train``.
        """
        if check_count("mini_batch_size", mini_batch_size) != self.mini_batch_size:
            raise InputError(
                f"SGD was given mini_batch_size={mini_batch_size}, but the network was made with "
                f"mini_batch_size={self.mini_batch_size}. Give both the same number."
            )
        return train(
            self,
            training_data,
            validation_data,
            test_data,
            epochs=epochs,
            mini_batch_size=mini_batch_size,
            optimizer=SGD(eta),
            cost=cost,
            l2=lmbda,
            shuffle=False,
            drop_last=True,
            dropout_scaling="inference",
            seed=self.seed,
            engine=engine,
            device=device,
            precision=precision,
            callbacks=[_ArticleLines()],
            time_budget=time_budget,
            verbose=False,
        )

    # --- Inference ----------------------------------------------------------------------------------------------------

    def predict(self, X: Any, *, engine: str = "auto", device: str = "auto") -> NDArray[Any]:
        """Class labels ``(n_rows,)`` for classification; values ``(n_rows, n_out)``, or ``(n_rows,)`` for one output."""
        outputs = self._outputs(X, engine, device)
        if self.task == "regression":
            return outputs[:, 0] if self.model.n_out == 1 else outputs
        if self.model.n_out == 1:
            return (outputs[:, 0] > 0.5).astype(np.int64)
        return np.argmax(outputs, axis=1)

    def predict_proba(self, X: Any, *, engine: str = "auto", device: str = "auto") -> NDArray[Any]:
        """Outputs read as probabilities, ``(n_rows, n_out)``; for softmax and sigmoid last layers.

        A single sigmoid output answers two columns, the probabilities of 0 and of 1.
        """
        if not self.gives_probabilities:
            raise InputError(
                "predict_proba needs softmax or sigmoid outputs, but the last layer's activation is "
                f"{self.model.layers[-1].activation_fn.name}. "
                "Use predict, or end the network with a SoftmaxLayer."
            )
        outputs = self._outputs(X, engine, device)
        return np.hstack([1.0 - outputs, outputs]) if self.model.n_out == 1 else outputs

    def accuracy(self, X: Any, y: Any, *, engine: str = "auto", device: str = "auto") -> float:
        """Fraction of rows whose predicted class is the label."""
        accuracy = self._metrics(X, y, None, engine, device).accuracy
        if accuracy is None:
            raise InputError("accuracy needs class labels; for values, use cost(X, y).")
        return accuracy

    def cost(self, X: Any, y: Any, *, cost: Cost | None = None, engine: str = "auto", device: str = "auto") -> float:
        """Mean cost of a row without dropout and without L2 penalty; ``cost`` as in ``fcnet.train``."""
        return self._metrics(X, y, cost, engine, device).cost

    def _program(self, cost: Cost | None) -> Program:
        last = self.model.layers[-1].activation_fn
        cost = check_cost(cost) or default_cost(last)
        cost.check_pairing(last)
        return Program(self.model, cost, SGD_RULE, self._dtype)

    @property
    def _dtype(self) -> Dtype:
        """What the parameters are kept in, and inference computes in."""
        return "float64" if any(array.dtype == np.float64 for array in self.arrays.values()) else "float32"

    def _start(self, cost: Cost | None, engine: str, device: str) -> tuple[Any, Any, Program, Placement]:
        program = self._program(cost)
        choice = choose(engine, device, program)
        run = choice.engine.start(program, initial_state(program, self.arrays), choice.placement)
        return choice.engine, run, program, choice.placement

    def _outputs(self, X: Any, engine: str, device: str) -> NDArray[Any]:
        rows = as_rows(X, self.model.n_in, finite=False)
        first = self.model.layers[0]
        if isinstance(first, TableLayer) or (rows.dtype != _FLOAT32 and rows.dtype != self._dtype):
            check_finite(rows, "X")  # of the network's own type, the engine looks at them as it reads them
            check_range(rows, self._dtype, "X")
        check_codes(first, rows, "X")
        if (engine, device) not in self._started:
            chosen, run, _, _ = self._start(None, engine, device)
            self._started[engine, device] = chosen, run
        chosen, run = self._started[engine, device]
        return chosen.forward(run, rows)

    def _metrics(self, X: Any, y: Any, cost: Cost | None, engine: str, device: str) -> Metrics:
        part = as_part((X, y), self.model.n_in, self.model.n_out, "data")
        check_range(part.X, self._dtype, "X of the data")
        check_codes(self.model.layers[0], part.X, "X of the data")
        chosen, run, program, placement = self._start(cost, engine, device)
        return chosen.evaluate(run, chosen.put(part, program, placement))[0]

    # --- Reading and keeping ------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """A table of the layers: type, sizes, activation, dropout, number of parameters."""
        header = ("layer", "type", "n_in", "n_out", "activation", "p_dropout", "parameters")
        rows = [
            (
                str(index),
                type(layer).__name__,
                f"{layer.n_in:,}",
                f"{layer.n_out:,}",
                layer.activation_fn.name,
                f"{layer.p_dropout:g}",
                f"{sum(math.prod(shape) for _, shape, _ in layer.arrays):,}",
            )
            for index, layer in enumerate(self.model.layers)
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (header, *rows)
        ]
        total = sum(array.size for array in self.arrays.values())
        return "\n".join([*lines, f"{total:,} parameters"])

    def save(self, path: str | Path) -> Path:
        """Write the network to ``path`` (``.safetensors`` is added), and its description to a ``.json`` beside it.

        The file under its final name is always whole, and holds no code. Returns its path.

        Raises:
            InputError: a custom activation, which a file cannot hold.
            FileError: the place cannot be written.
        """
        settings = {
            "mini_batch_size": self.mini_batch_size,
            "seed": self.seed,
            "task": self.task,
            "trained": self.trained,
        }
        return save_model(path, SavedModel(self.model, self.arrays, settings))

    @classmethod
    def load(cls, path: str | Path) -> Network:
        """A network from a file that ``save`` wrote, or from a run folder.

        Raises:
            FileError: missing, truncated, foreign, or written by a newer fcnet.
        """
        saved = load_model(path)
        try:
            network = cls(saved.model.layers, saved.settings["mini_batch_size"], saved.settings["seed"])
            network.task, network.trained = saved.settings["task"], saved.settings["trained"]
        except (KeyError, InputError) as error:
            raise FileError(
                f"{path}: its settings cannot be read ({shown(str(error))}). The file is damaged."
            ) from None
        if network.task not in ("classification", "regression") or not isinstance(network.trained, bool):
            raise FileError(f"{path}: its settings cannot be read. The file is damaged.")
        network.model, network.arrays = saved.model, saved.arrays
        return network


class _ArticleLines(Observer):
    """The article's progress lines, to the letter, on standard output; which engine and device, on standard error."""

    def training_starts(self, info: RunInfo) -> None:
        print_choice(info)

    def chunk_starts(self, step: int, n_steps: int) -> None:
        first = -(-step // PRINT_EVERY) * PRINT_EVERY
        for iteration in range(first, step + n_steps, PRINT_EVERY):
            print(f"Training mini-batch number {iteration}", flush=True)

    def epoch_ends(self, record: EpochRecord, best: bool) -> None:
        if record.validation_accuracy is None:
            return
        print(f"Epoch {record.epoch}: validation accuracy {record.validation_accuracy:.2%}", flush=True)
        if best:
            print("This is the best validation accuracy to date.")
            if record.test_accuracy is not None:
                print(f"The corresponding test accuracy is {record.test_accuracy:.2%}", flush=True)

    def training_ends(self, history: History) -> None:
        if history.ending in ("interrupted", "diverged", "failed"):
            return
        print("Finished training network.")
        if history.best_validation_accuracy is not None:
            print(
                f"Best validation accuracy of {history.best_validation_accuracy:.2%} "
                f"obtained at iteration {history.best_iteration}"
            )
            if history.test_accuracy is not None:
                print(f"Corresponding test accuracy of {history.test_accuracy:.2%}", flush=True)
