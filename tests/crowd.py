"""24 threads that predict while another trains: right answers, and no growth of memory.

    python tests/crowd.py 1000

prints a table, and exits with 1 where an answer was wrong or memory grew by more than 20 MB after the first tenth.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from pathlib import Path

import numpy as np

import fcnet

THREADS = 24
X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def trained(epochs):
    network = fcnet.Network([fcnet.FullyConnectedLayer(6, 8), fcnet.SoftmaxLayer(8, 2)], 20)
    fcnet.train(network, (X, Y), epochs=epochs, engine="native", device="cpu", verbose=False)
    return network


def memory():
    """Resident bytes of this process now; its highest where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main(arguments):
    each = int(arguments[0]) if arguments else 1000
    network, ended, wrong = trained(3), threading.Event(), []
    expected = network.predict_proba(X)

    def predict(n):
        for _ in range(n):
            if not np.array_equal(network.predict_proba(X), expected):
                wrong.append(1)

    def train():
        while not ended.is_set():
            trained(1)

    def crowd(n):
        threads = [threading.Thread(target=predict, args=(n,)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    began = time.perf_counter()
    trainer = threading.Thread(target=train)
    trainer.start()
    crowd(max(1, each // 10))
    before = memory()
    crowd(each - each // 10)
    grown = memory() - before
    ended.set()
    trainer.join()
    print(f"| {THREADS} threads x {each:,} predictions while another trains | |")
    print("| --- | ---: |")
    print(f"| wrong answers | {len(wrong)} |\n| growth of memory, MB | {grown / 1e6:.1f} |")
    print(f"| seconds | {time.perf_counter() - began:.0f} |")
    return bool(wrong) or grown > 20e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
