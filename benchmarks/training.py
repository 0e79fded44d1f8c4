"""Training raced: microseconds a step, after everyone has been seen to do the same work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from judge import training_cost
from machine import cores
from markdown_tables import number, table
from peers import CPU_ONLY, FCNET, TRAINING, is_peer
from peers.sgemm import OPERATIONS
from race import Effort, Racer, note, race
from workloads import WORKLOADS, Task, Workload

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Outcome:
    """One workload's race.

    Attributes:
        workload: what was raced.
        steps: after how many the costs were compared.
        racers: the contestants.
        peaks: sgemm, with one thread and with one a core.
        costs: training cost of each contestant after ``steps``.
        wrong: contestants whose cost is not fcnet's: they did other work.
    """

    workload: Workload
    steps: int
    racers: list[Racer]
    peaks: list[Racer]
    costs: dict[str, float]
    wrong: list[str]

    @property
    def peak(self) -> float:
        """GFLOP/s of sgemm at its best."""
        return max((OPERATIONS / timing.median / 1e3 for racer in self.peaks if (timing := racer.timing)), default=0.0)

    @property
    def best_peer(self) -> Racer | None:
        """The fastest other library that did the same work."""
        peers = [racer for racer in self.racers if is_peer(racer.name) and racer.name not in self.wrong]
        return min((peer for peer in peers if peer.timing), key=lambda peer: peer.timing.median, default=None)

    @property
    def ratio(self) -> float | None:
        """fcnet's time as a fraction of the best peer's."""
        fcnet = next(racer for racer in self.racers if racer.name == FCNET)
        if fcnet.timing is None or self.best_peer is None:
            return None
        return fcnet.timing.median / self.best_peer.timing.median


def run(folder: Path, names: list[str], effort: Effort, quick: bool) -> tuple[str, list[Any], bool]:
    """Race the workloads: the report, the same as data, and whether fcnet and everyone else there did the same work."""
    outcomes = [_race(Task(WORKLOADS[name], folder), effort, quick) for name in names]
    sections = [_summary(outcomes), *map(_section, outcomes)]
    return (
        "\n\n".join(sections),
        [_data(outcome) for outcome in outcomes],
        all(FCNET in o.costs and not o.wrong for o in outcomes),
    )


def _race(task: Task, effort: Effort, quick: bool) -> Outcome:
    workload = task.workload
    steps = max(1, workload.judged_steps // 10) if quick else workload.judged_steps
    racers = [Racer(name, home, CPU_ONLY, (task,)) for name, home in TRAINING.items()]
    peaks = [
        Racer(f"sgemm, {n} thread(s)", "peers.sgemm:Sgemm", dict.fromkeys(THREAD_VARIABLES, str(n)), ())
        for n in sorted({1, cores()})
    ]
    everyone = [*racers, *peaks]
    try:
        costs = {}
        for racer in everyone:
            note(f"{workload.name}: {racer.name} starts")
            racer.start()
            if racer in racers and (parameters := racer.ask(("proof", steps))) is not None:
                costs[racer.name] = training_cost(task, parameters)
        race(everyone, effort)
    finally:
        for racer in everyone:
            racer.stop()
    return Outcome(workload, steps, racers, peaks, costs, _wrong(costs, workload.tolerance))


def _wrong(costs: dict[str, float], tolerance: float) -> list[str]:
    """Whose cost isn't fcnet's; without fcnet, the first contestant's."""
    if not costs:
        return []
    expected = costs.get(FCNET, next(iter(costs.values())))
    return [name for name, cost in costs.items() if not abs(cost - expected) <= tolerance * expected]


# --- The report -------------------------------------------------------------------------------------------------------


def _summary(outcomes: list[Outcome]) -> str:
    rows = []
    for outcome in outcomes:
        fcnet, best = outcome.racers[-1].timing, outcome.best_peer
        rows.append(
            [
                f"`{outcome.workload.name}`",
                f"{best.name} {number(best.timing.median)}" if best else "-",
                number(fcnet.median) if fcnet else "-",
                f"{outcome.ratio:.2f}" if outcome.ratio else "-",
                f"{outcome.workload.goal:.2f}",
                number(outcome.workload.operations / fcnet.median / 1e3) if fcnet else "-",
                number(outcome.peak),
            ]
        )
    columns = ("workload", "best peer, µs", "fcnet, µs", "ratio", "goal", "fcnet GFLOP/s", "sgemm GFLOP/s")
    return f"## Training\n\n{table(columns, rows)}"


def _section(outcome: Outcome) -> str:
    workload = outcome.workload
    columns = (
        "contestant",
        "µs a step",
        "10th to 90th percentile",
        "to best peer",
        "GFLOP/s",
        "% of sgemm",
        f"cost after {outcome.steps} steps",
        "memory, MB",
        "of which after imports",
        "tuned to",
    )
    rows = [_row(outcome, racer) for racer in outcome.racers]
    peaks = [
        f"{racer.name}: {number(OPERATIONS / timing.median / 1e3)} GFLOP/s ({number(timing.low)} to "
        f"{number(timing.high)} µs for 1024 x 1024 x 1024)"
        for racer in outcome.peaks
        if (timing := racer.timing)
    ]
    verdict = f"Training costs agree within {workload.tolerance:.0%}."
    if outcome.wrong:
        verdict = (
            f"**FAILED: after {outcome.steps} steps the training cost of {', '.join(outcome.wrong)} is not fcnet's "
            f"within {workload.tolerance:.0%}: not the same work.**"
        )
    if len(outcome.costs) < 2:
        verdict = "Nobody to compare training costs with."
    return "\n\n".join([f"### `{workload.name}`: {workload}", table(columns, rows), verdict, "\n".join(peaks)])


def _row(outcome: Outcome, racer: Racer) -> list[str]:
    timing = racer.timing
    if timing is None:
        return [racer.name, racer.out or "-", *["-"] * 8]
    speed = outcome.workload.operations / timing.median / 1e3
    best = outcome.best_peer
    cost = f"{outcome.costs[racer.name]:.4f}{' WRONG' if racer.name in outcome.wrong else ''}"
    total, imported = racer.memory or (0.0, 0.0)
    return [
        racer.name,
        number(timing.median),
        f"{number(timing.low)} to {number(timing.high)}",
        f"{timing.median / best.timing.median:.2f}" if best else "-",
        number(speed),
        f"{100 * speed / outcome.peak:.0f}" if outcome.peak else "-",
        cost,
        f"{total:.0f}",
        f"{total - imported:.0f}",
        racer.description,
    ]


def _data(outcome: Outcome) -> dict[str, Any]:
    return {
        "workload": asdict(outcome.workload),
        "steps_judged": outcome.steps,
        "sgemm_gflops": outcome.peak,
        "ratio": outcome.ratio,
        "best_peer": outcome.best_peer.name if outcome.best_peer else None,
        "wrong": outcome.wrong,
        "contestants": [
            racer.as_data() | {"cost": outcome.costs.get(racer.name)} for racer in (*outcome.racers, *outcome.peaks)
        ],
    }
