"""What every whole-process script is given, and how it reports an epoch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1]))
from memory import peak_memory

FOLDER, SETTINGS = Path(sys.argv[1]), json.loads(sys.argv[2])
SIZES = (784, *SETTINGS["hidden"], 10)


def rows(part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``(X, y)`` to train (part "train") or to test."""
    name = SETTINGS["data"] if part == "train" else part
    return np.load(FOLDER / f"{name}-X.npy"), np.load(FOLDER / f"{name}-y.npy")


def report(accuracy: Any) -> bool:
    """Tell the parent of an epoch's test accuracy; whether that was the goal."""
    print(json.dumps({"accuracy": float(accuracy), "memory": peak_memory()}), flush=True)
    return float(accuracy) >= SETTINGS["goal"]
