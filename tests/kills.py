"""Trainings that are killed: each by SIGKILL at a random moment, then resumed to its end, whose bytes must be the same.

    python tests/kills.py 200 [SEED]

prints a table, and exits with 1 where any training ended with other bytes. Children are forked from one process that has
everything imported and compiled, and write a checkpoint after every chunk of a few steps, so that many are killed within the
writing of one.
"""

from __future__ import annotations

import collections
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fcnet
from fcnet import keeper, loop, training
from fcnet.keeper import checkpoint_files, newest_checkpoint

LAYERS = (fcnet.FullyConnectedLayer(30, 40, fcnet.relu, p_dropout=0.1), fcnet.SoftmaxLayer(40, 3, p_dropout=0.3))
OPTIMIZERS = {
    "sgd": fcnet.SGD,
    "momentum": fcnet.Momentum,
    "nesterov": fcnet.Nesterov,
    "adam": fcnet.Adam,
    "adamw": fcnet.AdamW,
}
SCHEDULES = {"constant": fcnet.Constant, "cosine": fcnet.Cosine, "exponential": fcnet.Exponential}


def data(seed, n_rows):
    generator = np.random.default_rng(seed)
    y = np.arange(n_rows) % 3
    return (np.eye(3, 30)[y] + generator.normal(size=(n_rows, 30))).astype(np.float32), y


TRAIN, VALIDATION = data(1, 1200), data(2, 200)


def train(optimizer, schedule, folder=None):
    """The digest of what a training ends with: its network, and the figures of its epochs."""
    network = fcnet.Network(LAYERS, mini_batch_size=16)
    places = {} if folder is None else {"resume" if checkpoint_files(folder) else "checkpoint": folder}
    history = training.train(
        network, TRAIN, VALIDATION, epochs=20, optimizer=OPTIMIZERS[optimizer](SCHEDULES[schedule](0.02)), l2=0.01,
        early_stopping=15, engine="native", device="cpu", n_threads=1, verbose=False, checkpoint_every="0s", **places,
    )  # fmt: skip
    figures = [
        (r.epoch, r.training_cost, r.validation_cost, r.validation_accuracy, r.learning_rate) for r in history.epochs
    ]
    arrays = b"".join(array.tobytes() for _, array in sorted(network.arrays.items()))
    return hashlib.sha256(arrays + repr((figures, history.best_epoch)).encode()).hexdigest()


def in_a_child(work):
    """A forked process that does some work and ends."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"a child failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
    return child


def run(kills, seed=0):
    """So many trainings, each killed once at least; (how many ended alike, counts of where they were killed)."""
    loop.FIRST_CHUNK, loop.CHUNK_SECONDS = 8, 0.0005
    keeper._SHARE = 0
    rolls, counts, whole, alike = random.Random(seed), collections.Counter(), {}, 0
    seconds = {}
    for number in range(kills):
        setting = rolls.choice(sorted(OPTIMIZERS)), rolls.choice(sorted(SCHEDULES))
        if setting not in whole:
            whole[setting] = train(*setting)
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                train(*setting, Path(folder))
            seconds[setting] = time.perf_counter() - began
        folder = Path(tempfile.mkdtemp(prefix="fcnet-kills-"))
        result = folder / "result"
        while not result.exists():
            child = in_a_child(lambda: (folder / "result").write_text(train(*setting, folder)))  # noqa: B023
            time.sleep(rolls.uniform(0.0, 1.1 * seconds[setting]))
            if counts["trainings killed"] <= number or rolls.random() < 0.5:
                os.kill(child, signal.SIGKILL)
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL:
                counts["kills"] += 1
                counts["trainings killed"] = number + 1
                if list((folder / keeper.FOLDER).glob("*.partial")):
                    counts["kills while a checkpoint was written"] += 1
                found = checkpoint_files(folder)
                if not found:
                    counts["kills before the first checkpoint"] += 1
                elif newest_checkpoint(folder).so_far.weight:
                    counts["resumed within an epoch"] += 1
            elif counts["trainings killed"] <= number:  # it was over before: once more
                shutil.rmtree(folder)
                folder.mkdir()
                result = folder / "result"
        alike += result.read_text() == whole[setting]
        shutil.rmtree(folder)
    return alike, counts


def main(arguments):
    kills = int(arguments[0]) if arguments else 200
    began = time.perf_counter()
    alike, counts = run(kills, int(arguments[1]) if len(arguments) > 1 else 0)
    print("| SIGKILL at random moments | |")
    print("| --- | ---: |")
    for name, number in {"trainings that ended with the same bytes": f"{alike}/{kills}", **counts}.items():
        print(f"| {name} | {number} |")
    print(f"| seconds | {time.perf_counter() - began:.0f} |")
    return alike != kills


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
