"""How many threads there are, and work that several do at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def available_threads(asked: int | None = None) -> int:
    """As many as asked for; else as the usual environment variables say; else one a core that this process may use."""
    if asked is not None:
        return asked
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal() and int(os.environ[name]) > 0:
            return int(os.environ[name])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(n_threads: int, work: Callable[[int], None]) -> None:
    """Call ``work(0)`` here and ``work(1)`` and so on in threads of their own, all at the same time; their errors are raised here."""
    if n_threads == 1:
        work(0)
        return
    errors: list[BaseException] = []

    def beside(thread: int) -> None:
        try:
            work(thread)
        except BaseException as error:
            errors.append(error)

    others = [threading.Thread(target=beside, args=(thread,)) for thread in range(1, n_threads)]
    for other in others:
        other.start()
    work(0)
    for other in others:
        other.join()
    if errors:
        raise errors[0]


def in_parts(n_threads: int, n: int, work: Callable[[slice, int], None]) -> None:
    """Call ``work(part, thread)`` in so many threads, which share ``n`` things out: each has those of ``part``."""
    in_threads(n_threads, lambda thread: work(slice(n * thread // n_threads, n * (thread + 1) // n_threads), thread))
