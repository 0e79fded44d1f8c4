"""Write counters.json: frozen draws, so that no release changes what a seed means.

Run from the repository's root: python tests/golden/make_counters.py
"""

import json
from pathlib import Path

import numpy as np

from fcnet import counters
from fcnet.counters import Purpose

FILE = Path(__file__).with_name("counters.json")


def golden() -> dict:
    """Draws for a handful of places, as numbers that JSON keeps exactly."""
    rows = np.array([0, 1, 5, 1000], np.uint32)
    places = [(0, 0, 0), (0, 1, 0), (7, 0, 3), (2**32, 2, 2**33 + 5), (2**64 - 1, 1, 12345)]
    return {
        "key": [
            {
                "seed": seed,
                "purpose": purpose.name,
                "layer": layer,
                "step": step,
                "words": counters.key(seed, purpose, layer, step).tolist(),
            }
            for seed, layer, step in places
            for purpose in Purpose
        ],
        "bits": [
            {
                "rows": rows.tolist(),
                "n_units": n_units,
                "bits": counters.bits(counters.key(3, Purpose.DROPOUT), rows, n_units).tolist(),
            }
            for n_units in (1, 2, 5)
        ],
        "normal": counters.normal(counters.key(3, Purpose.PARAMETERS), (3, 3)).tolist(),
        "uniform": counters.uniform(counters.key(3, Purpose.PARAMETERS), (5,)).tolist(),
        "permutation": counters.permutation(counters.key(3, Purpose.ORDER), 20).tolist(),
        "drop_threshold": {str(p): int(counters.drop_threshold(p)) for p in (0.0, 0.1, 0.25, 0.5, 1 - 1e-12)},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden(), indent=1) + "\n")
