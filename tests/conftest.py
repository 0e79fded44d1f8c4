"""Where real data lies; and caches of compiled code for the tests alone, so that they neither read nor fill the user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE = "FCNET_COMPILES_BESIDE"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets: the one that FCNET_DATA names, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("FCNET_DATA") or Path(__file__).parents[1].parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no folder of real data: set FCNET_DATA")
    return folder


def pytest_configure(config):
    folder = config.rootpath / ".pytest_cache" / "compiled"
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder))
    os.environ.setdefault(BESIDE, "1")  # no second compiling process beside each test's
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "xla"))
