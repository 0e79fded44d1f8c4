"""The book's module ``network3`` on this library: ``import fcnet.network3 as network3``.

Michael Nielsen's "Neural Networks and Deep Learning" (chapter 6) trains its networks with a Theano program of this name.
Its snippets with fully connected and softmax layers run here as they stand, on Python 3 and without Theano. What the
book reads from Theano's shared variables (``net.layers[0].w.get_value()``, ``.eval()``) is there too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet import activations, counters, layers
from fcnet import network as _network
from fcnet.activations import Activation, linear, sigmoid, tanh
from fcnet.activations import relu as ReLU
from fcnet.costs import Cost
from fcnet.data.book import read_book_pickle
from fcnet.data.files import what_is_at
from fcnet.data.idx import read_idx_folder
from fcnet.engines.contract import Precision
from fcnet.errors import InputError, check_path
from fcnet.history import History
from fcnet.host import room_for

__all__ = [
    "GPU",
    "ConvPoolLayer",
    "FullyConnectedLayer",
    "Network",
    "ReLU",
    "SoftmaxLayer",
    "dropout_layer",
    "linear",
    "load_data_shared",
    "sigmoid",
    "size",
    "tanh",
]

GPU = True
"""The book's flag: True tries a GPU and falls back on the CPU, and says which; False stays on the CPU."""

_MESSAGES = {
    True: "Trying to run under a GPU.  If this is not desired, then modify network3.py\nto set the GPU flag to False.",
    False: "Running with a CPU.  If this is not desired, then the modify network3.py to set\nthe GPU flag to True.",
}
_announced: bool | None = None


def _announce() -> None:
    """Print the message of the flag's present value, once. The book does so on import; here the flag can be set first."""
    global _announced
    if _announced is not bool(GPU):
        _announced = bool(GPU)
        print(_MESSAGES[_announced], flush=True)


class Shared(np.ndarray):
    """An array that also answers as Theano's shared variables did."""

    def get_value(self, borrow: bool = False) -> NDArray[Any]:
        """The numbers: a copy, or with ``borrow`` the array itself."""
        plain = self.view(np.ndarray)
        return plain if borrow else plain.copy()

    def eval(self) -> NDArray[Any]:
        """The numbers, copied."""
        return self.get_value()


def _shared(array: NDArray[Any]) -> Shared:
    return array.view(Shared)


def load_data_shared(filename: str | Path = "../data/mnist.pkl.gz") -> list[tuple[Shared, Shared]]:
    """Training, validation and test data, each ``(X, y)``: ``(n, 784)`` pixels in [0, 1] and ``(n,)`` digits.

    Args:
        filename: the book's ``mnist.pkl.gz``, read by an unpickler that admits NumPy arrays and nothing else; or a folder
            with the IDX files of MNIST.

    Raises:
        FileError: missing, damaged, or a pickle that asks for anything but arrays.
    """
    check_path("filename", filename)
    path = Path(filename)
    with room_for(f"The data in {path}"):
        data = read_idx_folder(path) if what_is_at(path) == "folder" else read_book_pickle(path)
    parts = (data.train, data.validation, data.test)
    return [(_shared(part.X), _shared(part.y.astype(np.int32))) for part in parts if part is not None]


def size(data: tuple[Any, Any]) -> int:
    """The number of rows of a data set."""
    return len(data[0])


_dropout_calls = itertools.count()


def dropout_layer(layer: Any, p_dropout: float) -> Any:
    """A layer's outputs with each number dropped with probability p_dropout; every call has a mask of its own."""
    layers.check_p_dropout("dropout_layer", p_dropout)
    array = np.asarray(layer)
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise InputError(
            f"dropout_layer: layer must be an array (n_rows, ...), got {array.dtype} of shape {array.shape}."
        )
    key = counters.key(0, counters.Purpose.DROPOUT, step=next(_dropout_calls))
    return layers.dropout_layer(array.reshape(len(array), -1), p_dropout, key).reshape(array.shape)


class _BookLayer:
    """A layer as the book sees it: sizes, and ``w`` and ``b`` that can be read before and after training.

    Attributes:
        y_out: on a network's last layer, after ``SGD``: the predicted digits of the test data (of the validation data where
            there is no test data).
    """

    def __init__(self, layer: layers.Layer) -> None:
        self._layer = layer
        self._network: _network.Network | None = None
        self._index = 0
        self.y_out: NDArray[Any] | None = None
        self.n_in, self.n_out = layer.n_in, layer.n_out
        self.activation_fn, self.p_dropout = layer.activation_fn, layer.p_dropout

    @property
    def params(self) -> list[Shared]:
        """[w, b]: ``(n_in, n_out)`` and ``(n_out,)``, the network's present numbers."""
        if self._network is None:
            raise InputError("A layer has numbers once it is in a Network: Network([layer, ...], mini_batch_size).")
        return [_shared(array) for array in self._network.parameters[self._index]]

    @property
    def w(self) -> Shared:
        """The weights, ``(n_in, n_out)``."""
        return self.params[0]

    @property
    def b(self) -> Shared:
        """The biases, ``(n_out,)``."""
        return self.params[1]

    def accuracy(self, y: Any) -> float:
        """The fraction of labels y that equal ``y_out``."""
        labels = np.asarray(y)
        if self.y_out is None or labels.shape != self.y_out.shape:
            found = "there are none" if self.y_out is None else f"they have shape {self.y_out.shape}"
            raise InputError(
                f"accuracy compares y, of shape {labels.shape}, with the last layer's predictions for the test data of SGD, "
                f"but {found}. For other data use net.accuracy(X, y)."
            )
        return float(np.mean(labels == self.y_out))


class FullyConnectedLayer(_BookLayer):
    """A fully connected layer, see ``fcnet.FullyConnectedLayer``."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        activation_fn: Activation | Callable[[Any], Any] = sigmoid,
        p_dropout: float = 0.0,
    ) -> None:
        activation = activations.as_activation(activation_fn)
        super().__init__(layers.FullyConnectedLayer(n_in, n_out, activation, p_dropout))


class SoftmaxLayer(_BookLayer):
    """The usual last layer, see ``fcnet.SoftmaxLayer``."""

    def __init__(self, n_in: int, n_out: int, p_dropout: float = 0.0) -> None:
        super().__init__(layers.SoftmaxLayer(n_in, n_out, p_dropout))


class ConvPoolLayer:
    """Here to say that fcnet has no convolutions."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise InputError(
            "fcnet trains fully connected networks; it has no ConvPoolLayer. For the book's convolutional networks use Keras "
            "(keras.layers.Conv2D, MaxPooling2D) or PyTorch (torch.nn.Conv2d, MaxPool2d)."
        )


_networks = itertools.count()


class Network(_network.Network):
    """The book's network: layers, a mini-batch size, and ``SGD`` that prints the book's lines.

    Args:
        layers: layers of this module, from input to output.
        mini_batch_size: rows in a training step.
        seed: decides initial weights and dropout masks. By default the first network of a program has seed 0, the next
            1, and so on: as in the book no two are alike, and a program gives the same networks each time it runs.

    Attributes:
        params: every layer's w and b, in order.
    """

    def __init__(self, layers: Sequence[Any], mini_batch_size: int, seed: int | None = None) -> None:
        _announce()
        if not isinstance(layers, Sequence):
            raise InputError(f"layers must be a list of layers, got {layers!r}. Write [layer, ...].")
        plain = [layer._layer if isinstance(layer, _BookLayer) else layer for layer in layers]
        super().__init__(plain, mini_batch_size, next(_networks) if seed is None else seed)
        self._book_layers = [layer if isinstance(layer, _BookLayer) else _BookLayer(layer) for layer in layers]
        for index, layer in enumerate(self._book_layers):
            if layer._network is not None:
                raise InputError(f"Layer {index} is in another network already. Make a new layer for each network.")
        for index, layer in enumerate(self._book_layers):
            layer._network, layer._index = self, index

    @property
    def layers(self) -> Any:
        """The book's view of the layers: each with w, b and params."""
        return self._book_layers

    @property
    def params(self) -> list[Shared]:
        """Every layer's w and b, in order."""
        return [param for layer in self._book_layers for param in layer.params]

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
        """Train as the book does; see ``fcnet.Network.SGD``. With device "auto" the flag ``GPU`` decides."""
        _announce()
        history = super().SGD(
            training_data,
            epochs,
            mini_batch_size,
            eta,
            validation_data,
            test_data,
            lmbda,
            cost=cost,
            engine=engine,
            device="cpu" if device == "auto" and not GPU else device,
            precision=precision,
            time_budget=time_budget,
        )
        seen = validation_data if test_data is None else test_data
        if seen is not None:
            self._book_layers[-1].y_out = self.predict(seen[0])
        return history

    def test_mb_predictions(self, i: int) -> NDArray[Any]:
        """After ``SGD``: the predicted digits of the i-th mini-batch of the test data."""
        y_out = self._book_layers[-1].y_out
        if y_out is None:
            raise InputError("There are no predictions before SGD. For other data use net.predict(X).")
        return y_out[i * self.mini_batch_size : (i + 1) * self.mini_batch_size]
