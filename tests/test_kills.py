"""The short form of ``python tests/kills.py 200``, in a process of its own, which forks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_trainings_that_are_killed_end_with_the_same_bytes():
    command = [sys.executable, Path(__file__).with_name("kills.py"), "5", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "ended with the same bytes | 5/5 |" in ended.stdout
    assert int(re.search(r"\| kills \| (\d+) \|", ended.stdout)[1]) >= 5
