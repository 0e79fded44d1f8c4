"""The article's network on MNIST: 784-100-10, mini-batches of 10, eta 0.1, 60 epochs, the best of three seeds.

    python examples/mnist.py                 the book's shallow network; the gate is its figure, 97.80%
    python examples/mnist.py --deep          784-1000-1000-10, ReLU, dropout 0.5, eta 0.03, 40 epochs, one seed
    python examples/mnist.py --epochs 3      a quick look; no gate

Each run keeps the network with the best validation accuracy, and reports the test accuracy that goes with it.
"""

import argparse
import statistics
import sys
import time

import fcnet
from fcnet import FullyConnectedLayer, Network, SoftmaxLayer

MINI_BATCH_SIZE = 10


def shallow(seed: int) -> Network:
    layers = [FullyConnectedLayer(n_in=784, n_out=100), SoftmaxLayer(n_in=100, n_out=10)]
    return Network(layers, MINI_BATCH_SIZE, seed)


def deep(seed: int) -> Network:
    layers = [
        FullyConnectedLayer(n_in=784, n_out=1000, activation_fn=fcnet.relu),
        FullyConnectedLayer(n_in=1000, n_out=1000, activation_fn=fcnet.relu, p_dropout=0.5),
        SoftmaxLayer(n_in=1000, n_out=10, p_dropout=0.5),
    ]
    return Network(layers, MINI_BATCH_SIZE, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int)
    options = parser.parse_args()
    make, eta, epochs, seeds, gate = (deep, 0.03, 40, 1, 0.98) if options.deep else (shallow, 0.1, 60, 3, 0.978)

    data = fcnet.load_data("mnist")
    accuracies = []
    for seed in range(options.seeds or seeds):
        began = time.perf_counter()
        network = make(seed)
        history = network.SGD(data.train, options.epochs or epochs, MINI_BATCH_SIZE, eta, data.validation, data.test)
        accuracies.append(history.test_accuracy)
        seconds = time.perf_counter() - began
        print(f"seed {seed}: test accuracy {history.test_accuracy:.2%} of epoch {history.best_epoch}, {seconds:.0f} s")
    best, median = max(accuracies), statistics.median(accuracies)
    print(f"test accuracy: best {best:.2%}, median {median:.2%} of {len(accuracies)}")
    if options.epochs is None and best < gate:
        sys.exit(f"below the gate of {gate:.2%}")


if __name__ == "__main__":
    main()
