"""L-BFGS: scipy's, over the engine's cost and gradient of all rows."""

from __future__ import annotations

import functools
import time
import warnings
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController

from fcnet.engines.contract import TrainState
from fcnet.estimators.training import Job, Parameters, sum_of_squares

STOPPED_BY_CALLBACK = 99
"""scipy's status where a callback raised StopIteration."""


def train_lbfgs(job: Job) -> Parameters:
    """scipy's L-BFGS-B over the engine's cost and gradient of all rows."""
    estimator, program, choice = job.estimator, job.program, job.choice
    engine = choice.engine
    data = engine.put(job.part, program, choice.placement)
    l2 = float(estimator.alpha) / job.total_weight
    names = list(job.parameters)
    shapes = [job.parameters[name].shape for name in names]
    ends = np.cumsum([0, *(job.parameters[name].size for name in names)])
    places = [slice(start, end) for start, end in pairwise(ends.tolist())]
    run = engine.start(program, TrainState(job.parameters, {}), choice.placement)
    started = time.perf_counter()

    def unpack(flat: NDArray[np.float64]) -> Parameters:
        flat = flat.astype(program.dtype, copy=False)
        return {name: flat[place].reshape(shape) for name, place, shape in zip(names, places, shapes, strict=True)}

    def cost_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        engine.replace(run, unpack(flat))
        cost, gradient = engine.cost_and_gradient(run, data, l2)
        return cost, np.concatenate([gradient[name].ravel() for name in names], dtype=np.float64)

    def late(flat: NDArray[np.float64]) -> None:
        if estimator.max_time is not None and time.perf_counter() - started >= estimator.max_time:
            raise StopIteration

    with np.errstate(all="ignore"), _thread_pools().limit(limits=1, user_api="blas"):
        result = minimize(
            cost_and_gradient,
            np.concatenate([job.parameters[name].ravel() for name in names], dtype=np.float64),
            method="L-BFGS-B",
            jac=True,
            callback=late,
            options={"maxfun": estimator.max_fun, "maxiter": estimator.max_iter, "gtol": estimator.tol},
        )
    estimator.n_iter_ = min(int(result.nit), int(estimator.max_iter))
    trained = unpack(result.x)
    penalty = 0.5 * l2 * sum_of_squares(trained)
    estimator.loss_ = job.loss_scale * (float(result.fun) - penalty) + penalty
    if estimator.verbose:
        print(f"lbfgs: {result.nit} iterations, {result.nfev} evaluations, loss = {result.fun:.8f}. {result.message}")
    if result.status not in (0, STOPPED_BY_CALLBACK):
        warnings.warn(
            f"lbfgs failed to converge after {result.nit} iteration(s) (status={result.status}): {result.message}. Increase "
            f"the number of iterations (max_iter={estimator.max_iter}) or of evaluations (max_fun={estimator.max_fun}), or "
            "scale the data to about -1 to 1.",
            ConvergenceWarning,
            stacklevel=2,
        )
    return {name: array.copy() for name, array in trained.items()}


@functools.cache
def _thread_pools() -> ThreadpoolController:
    """The thread pools of this process. scipy's vectors are short, and BLAS threads that wait for more would take the
    engine's cores: with two threads each, a fit took ten times as long."""
    return ThreadpoolController()
