"""Several trainings at the same time, each on its part of the processor's threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import chain

from fcnet.engines.native.threads import available_threads
from fcnet.history import Observer

MOST_BYTES = 1 << 30
"""Of features that a network reads: where they take more, networks train one after the other, since each has a copy of its rows."""


def at_once(n_networks: int, feature_bytes: int, n_threads: int | None) -> int:
    """How many networks train at the same time: as many as share the threads out evenly.

    Threads that share one network's step wait for each other several times in each step; networks of their own never wait.

    Args:
        n_networks: in all.
        feature_bytes: of one network's rows.
        n_threads: at most so many; by default as the native engine takes them.
    """
    if feature_bytes > MOST_BYTES:
        return 1
    threads = available_threads(n_threads)
    return max(number for number in range(1, min(n_networks, threads) + 1) if threads % number == 0)


class Ends(Observer):
    """Ends each training that it watches, at the end of a chunk, as Ctrl-C does, from ``now`` on."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def now(self) -> None:
        """End them."""
        self._flag.set()

    def chunk_ends(self, steps_done: int, cost: float) -> None:
        """Raise KeyboardInterrupt where they are to end."""
        if self.told:
            raise KeyboardInterrupt

    @property
    def told(self) -> bool:
        """Whether they are to end."""
        return self._flag.is_set()


def share_out(n_jobs: int, workers: int, job: Callable[[int, Ends, bool], None]) -> BaseException | None:
    """Do jobs 0, 1, ... by several workers, each of which takes the next when it is done with one.

    The first worker is the calling thread, where signals arrive, and it begins with job 0. Once a job ends in an error no other is begun, and those under way are
    told to end.

    Args:
        n_jobs: how many there are.
        workers: how many are done at the same time.
        job: is called with its number, the observer that ends it, and whether this is the calling thread.

    Returns:
        The error that a job ended in, another one before Ctrl-C; None where all are done.
    """
    ends, others, errors = Ends(), iter(range(1, n_jobs)), list[BaseException]()

    def work(calling: bool = False) -> None:
        try:
            for number in chain([0] if calling else [], others):
                if ends.told:
                    return
                job(number, ends, calling)
        except BaseException as error:
            errors.append(error)
            ends.now()

    def work_beside(finished: threading.Event) -> None:
        work()
        finished.set()

    beside = [threading.Event() for _ in range(workers - 1)]
    try:
        for finished in beside:
            threading.Thread(target=work_beside, args=(finished,)).start()
        work(calling=True)
        while not all(finished.is_set() for finished in beside):
            try:
                for finished in beside:
                    finished.wait()  # a join that Ctrl-C interrupts takes the thread for ended
            except KeyboardInterrupt as error:
                errors.append(error)
                ends.now()
    finally:
        ends.now()  # where a second Ctrl-C came between
    return next((error for error in errors if not isinstance(error, KeyboardInterrupt)), next(iter(errors), None))
