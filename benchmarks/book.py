"""The book's run, 784-100-10 for 60 epochs with batches of 10, as a command from start to end; and two peers' same run.

fcnet's side is ``fcnet train mnist``: it reads the compressed files, tests and validates every epoch, and writes model,
history and curves. The peers read arrays and only test.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from markdown_tables import number, table
from whole_run import SCRIPTS, Settings, users_environment, watch

EPOCHS = 60
SETTINGS = Settings(hidden=(100,), activation="sigmoid", optimizer="sgd", learning_rate=0.1, batch=10, data="mnist")
PEERS = ("scikit-learn", "PyTorch")
LIMIT = 3600.0


def run(folder: Path, peers_epochs: int | None, quick: bool) -> tuple[str, dict[str, Any], bool]:
    """Measure; the peers for some epochs, or for all of them where ``peers_epochs`` is None."""
    epochs = 1 if quick else EPOCHS
    measured = min(epochs, peers_epochs or epochs)
    seconds = {"fcnet": _command(epochs)}
    notes = {"fcnet": "measured, `fcnet train`"}
    for name in PEERS:
        whole = watch(SCRIPTS[name], folder, SETTINGS.of(0, measured, 2.0), LIMIT)
        notes[name] = whole.out or "measured"
        seconds[name] = None if whole.out else whole.seconds
        if whole.epochs and measured < epochs:
            seconds[name] = whole.seconds + (epochs - whole.epochs) * whole.epoch_seconds
            notes[name] = f"extrapolated from {whole.epochs} epochs"
    fcnet = seconds["fcnet"]
    rows = [
        [name, number(took) if took else "-", f"{took / fcnet:.1f}" if took and fcnet else "-", notes[name]]
        for name, took in seconds.items()
    ]
    text = table(("contestant", "seconds in all", "times fcnet", "how"), rows)
    title = f"## The book's run: {SETTINGS}, {epochs} epochs, {epochs * 5000:,} steps"
    return f"{title}\n\n{text}", {"epochs": epochs, "seconds": seconds, "how": notes}, True


def _command(epochs: int) -> float | None:
    """Seconds of ``fcnet train mnist``; None, and its last words, where it fails."""
    fcnet = Path(sys.executable).with_name("fcnet")
    command = [
        *(str(fcnet) if fcnet.exists() else shutil.which("fcnet") or "fcnet", "train", "mnist"),
        *("--hidden", "100", "--activation", "sigmoid", "--dropout", "0"),
        *("--optimizer", "sgd", "--learning-rate", "0.1", "--schedule", "constant"),
        *("--batch-size", "10", "--epochs", str(epochs), "--device", "cpu"),
    ]
    with tempfile.TemporaryDirectory(prefix="fcnet-book-") as folder:
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--out", f"{folder}/run"], env=users_environment(), capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
    if done.returncode != 0:
        print(done.stderr.strip()[-2000:], file=sys.stderr)
        return None
    return seconds
