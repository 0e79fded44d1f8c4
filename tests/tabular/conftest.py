"""Where the tests of the readers find real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets: the one that FCNET_DATA names, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("FCNET_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no folder of real data: set FCNET_DATA")
    return folder
