"""The estimator contract: scikit-learn's common checks, with no expected failures."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from fcnet import MLPClassifier, MLPRegressor

ESTIMATORS = [
    MLPClassifier(max_iter=100),
    MLPRegressor(max_iter=100),
    MLPClassifier(max_iter=100, solver="lbfgs", class_weight="balanced"),
    MLPClassifier(max_iter=100, activation="gelu", learning_rate_init=0.01),
    MLPRegressor(max_iter=100, solver="adamw"),
]

pytestmark = pytest.mark.filterwarnings("ignore")  # the checks train for a few epochs only


@parametrize_with_checks(ESTIMATORS)
def test_every_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", [MLPClassifier(max_iter=50), MLPRegressor(max_iter=50)])
def test_check_estimator(estimator):
    results = check_estimator(estimator, on_skip=None)
    assert [result for result in results if result["status"] not in ("passed", "skipped")] == []
