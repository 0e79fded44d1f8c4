"""scikit-learn's own tests of its two classes, from the installed file, on fcnet's.

The file is executed under another name while ``sklearn.neural_network`` shows fcnet's classes, so that also what it parametrises
over is ours. Nothing of it is copied.
"""

from __future__ import annotations

import importlib.util

import pytest
import sklearn.neural_network

import fcnet

EXEMPT = {
    "test_gradient": "calls the private _loss_grad_lbfgs; tests/test_conformance.py checks the engines' gradients",
}

pytestmark = pytest.mark.filterwarnings("default")  # as scikit-learn runs them


@pytest.fixture(name="global_random_seed")
def random_seed():
    return 42


def load_tests():
    found = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    spec = importlib.util.spec_from_file_location("sklearn_test_mlp_on_fcnet", found.origin)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.neural_network, "MLPClassifier", fcnet.MLPClassifier)
        patch.setattr(sklearn.neural_network, "MLPRegressor", fcnet.MLPRegressor)
        spec.loader.exec_module(module)
    return {name: value for name, value in vars(module).items() if name.startswith("test_")}


TESTS = load_tests()
globals().update({name: test for name, test in TESTS.items() if name not in EXEMPT})


def test_nothing_is_exempt_that_is_not_there():
    assert TESTS.keys() >= EXEMPT.keys()
    assert len(TESTS) - len(EXEMPT) > 30
