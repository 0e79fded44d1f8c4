"""A drop-in: the same code, the same networks, the same company."""

from __future__ import annotations

import inspect
import io
import pickle

import joblib
import numpy as np
import pytest
import sklearn
from scipy import sparse
from sklearn import neural_network
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_multilabel_classification, make_regression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fcnet
from fcnet import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

IRIS = load_iris(return_X_y=True)
DIGITS = load_digits(return_X_y=True)
DIGITS = (DIGITS[0] / 16.0, DIGITS[1])
VALUES = make_regression(300, 6, noise=1.0, random_state=0)
VALUES = (VALUES[0], VALUES[1] / 100)
SEVERAL = (VALUES[0], np.column_stack([VALUES[1], VALUES[1] ** 2]))
LABELS = make_multilabel_classification(200, random_state=0)
KINDS = ["MLPClassifier", "MLPRegressor"]

# --- The same constructor -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_with_its_default_and_place(kind):
    theirs = inspect.signature(getattr(neural_network, kind)).parameters
    own = inspect.signature(getattr(fcnet, kind)).parameters
    for name, parameter in theirs.items():
        assert own[name].default == parameter.default, name
        assert own[name].kind == parameter.kind, name
    assert [name for name in own if name in theirs] == list(theirs)
    assert all(own[name].kind == inspect.Parameter.KEYWORD_ONLY for name in own.keys() - theirs.keys())


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_and_fitted_attribute(kind):
    theirs, own = getattr(neural_network, kind)(max_iter=2), getattr(fcnet, kind)(max_iter=2)
    for estimator in (theirs, own):
        estimator.fit(*IRIS)
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert public - set(dir(own)) <= {"set_callbacks"}


# --- The same networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "settings"),
    [
        ("MLPClassifier", DIGITS, {}),
        ("MLPClassifier", DIGITS, {"early_stopping": True, "alpha": 1.0, "batch_size": 64}),
        ("MLPClassifier", (IRIS[0], IRIS[1] == 1), {"early_stopping": True, "activation": "logistic"}),
        ("MLPClassifier", DIGITS, {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.2}),
        ("MLPClassifier", DIGITS, {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5}),
        ("MLPClassifier", DIGITS, {"solver": "lbfgs"}),
        ("MLPClassifier", LABELS, {"hidden_layer_sizes": (30, 20), "activation": "tanh"}),
        ("MLPRegressor", VALUES, {"solver": "sgd", "momentum": 0.5, "nesterovs_momentum": False}),
        ("MLPRegressor", VALUES, {"solver": "sgd", "momentum": 1}),
        ("MLPRegressor", VALUES, {"shuffle": False, "batch_size": 7, "beta_1": 0.5, "epsilon": 1e-3}),
        ("MLPRegressor", SEVERAL, {"early_stopping": True, "activation": "identity"}),
        ("MLPRegressor", VALUES, {"solver": "lbfgs", "alpha": 0.1}),
        ("MLPRegressor", (VALUES[0], np.round(np.abs(VALUES[1]))), {"loss": "poisson", "learning_rate_init": 0.01}),
    ],
)
def test_the_same_random_state_gives_the_same_network(kind, data, settings):
    """Weights begin, orders are drawn and rows are set aside as there: what remains is rounding."""
    theirs, own = (
        getattr(library, kind)(random_state=3, **{"max_iter": 12} | settings).fit(*data)
        for library in (neural_network, fcnet)
    )
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(theirs, name), getattr(own, name), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-9)
    assert own.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(own.predict(data[0]), theirs.predict(data[0]), rtol=1e-6, atol=1e-9)
    if settings.get("solver") != "lbfgs":
        np.testing.assert_allclose(
            own.loss_curve_, theirs.loss_curve_, rtol=0.02
        )  # the penalty is that of an epoch's ends
        assert own.t_ == theirs.t_
        if theirs.validation_scores_:
            np.testing.assert_allclose(own.validation_scores_, theirs.validation_scores_)


def test_partial_fit_and_warm_start_go_on_as_there():
    for settings, calls in (({}, "partial_fit"), ({"warm_start": True, "max_iter": 4}, "fit")):
        theirs, own = (library.MLPRegressor(random_state=1, **settings) for library in (neural_network, fcnet))
        for _ in range(5):
            for estimator in (theirs, own):
                getattr(estimator, calls)(*VALUES)
        np.testing.assert_allclose(own.coefs_[0], theirs.coefs_[0], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(own.loss_curve_, theirs.loss_curve_, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_the_data_s_type_is_the_network_s(dtype, solver):
    estimator = MLPRegressor(solver=solver, max_iter=3).fit(VALUES[0].astype(dtype), VALUES[1].astype(dtype))
    assert {array.dtype.name for array in estimator.coefs_ + estimator.intercepts_} == {dtype}
    assert estimator.predict(VALUES[0].astype(dtype)).dtype == dtype


# --- The same company ---------------------------------------------------------------------------------------------------


def test_pipeline_clone_and_grid_search():
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(random_state=0, max_iter=60))
    search = GridSearchCV(pipeline, {"mlpclassifier__dropout": [0.0, 0.2], "mlpclassifier__alpha": [1e-4, 1e-2]}, cv=3)
    assert search.fit(*IRIS).best_score_ > 0.8
    assert clone(search.best_estimator_)[-1].get_params() == search.best_estimator_[-1].get_params()


def test_grid_search_in_two_processes():
    grid = {"learning_rate_init": [0.003, 0.01]}
    results = [
        GridSearchCV(MLPClassifier(random_state=0, max_iter=20), grid, cv=2, n_jobs=n_jobs).fit(*IRIS).cv_results_
        for n_jobs in (1, 2)
    ]
    np.testing.assert_array_equal(results[0]["mean_test_score"], results[1]["mean_test_score"])


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_pickle_and_joblib_go_on_where_they_were(kind, tmp_path):
    estimator = kind(random_state=0, max_iter=5, dropout=0.1).fit(*IRIS)
    joblib.dump(estimator, tmp_path / "estimator")
    copies = [pickle.loads(pickle.dumps(estimator)), joblib.load(tmp_path / "estimator")]
    estimator.partial_fit(*IRIS)
    for copy in copies:
        copy.partial_fit(*IRIS)
        np.testing.assert_array_equal(copy.coefs_[0], estimator.coefs_[0])
    stored = io.BytesIO()
    pickle.dump(estimator, stored)
    assert b"fcnet.engines" not in stored.getvalue()


def test_metadata_routing():
    weights = np.where(IRIS[1] == 0, 1.0, 0.01)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = MLPClassifier(random_state=0, max_iter=30).set_fit_request(sample_weight=True)
        estimator.set_partial_fit_request(eval_set=True, classes=True)
        routed = cross_validate(
            estimator.set_score_request(sample_weight=False), *IRIS, params={"sample_weight": weights}, cv=2,
            return_estimator=True,
        )  # fmt: skip
        pipeline = make_pipeline(StandardScaler(), MLPClassifier(max_iter=3).set_fit_request(eval_set=True))
        pipeline.fit(*IRIS, eval_set=IRIS)
    plain = cross_validate(MLPClassifier(random_state=0, max_iter=30), *IRIS, cv=2, return_estimator=True)
    assert np.abs(routed["estimator"][0].coefs_[0] - plain["estimator"][0].coefs_[0]).max() > 1e-4
    assert len(pipeline[-1].validation_loss_curve_) == 3


def test_text_labels():
    names = np.array(["setosa", "versicolor", "virginica"])[IRIS[1]]
    estimator = MLPClassifier(random_state=0, max_iter=100, learning_rate_init=0.01).fit(IRIS[0], names.tolist())
    assert estimator.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert estimator.score(IRIS[0], names) > 0.9


# --- Data frames and sparse matrices ------------------------------------------------------------------------------------


def frames():
    columns = {name: IRIS[0][:, index] for index, name in enumerate("abcd")}

    def pandas():
        return pytest.importorskip("pandas").DataFrame(columns)

    def polars():
        return pytest.importorskip("polars").DataFrame(columns)

    def arrow():
        return pytest.importorskip("pyarrow").table(columns)

    return [pandas, polars, arrow]


@pytest.mark.parametrize("frame", frames(), ids=lambda frame: frame.__name__)
def test_feature_names_in(frame):
    X = frame()
    estimator = MLPClassifier(random_state=0, max_iter=3, early_stopping=True).fit(X, IRIS[1])
    assert estimator.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    plain = MLPClassifier(random_state=0, max_iter=3, early_stopping=True).fit(*IRIS)
    np.testing.assert_array_equal(estimator.predict_proba(X), plain.predict_proba(IRIS[0]))
    renamed = X.rename(columns={"a": "z"}) if frame.__name__ == "pandas" else None
    if renamed is not None:
        with pytest.raises(ValueError, match="feature names should match"):
            estimator.predict(renamed)


@pytest.mark.parametrize("transform", ["pandas", "polars"])
def test_set_output_of_a_scaler_before_it(transform):
    pytest.importorskip(transform)
    frame = {function.__name__: function for function in frames()}[transform]()
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(max_iter=2)).set_output(transform=transform)
    assert pipeline.fit(frame, IRIS[1])[-1].feature_names_in_.tolist() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csr_array, sparse.csc_array, sparse.coo_array])
@pytest.mark.parametrize("settings", [{}, {"solver": "lbfgs"}, {"early_stopping": True}, {"dropout": (0.2, 0.2)}])
def test_sparse_inputs(container, settings):
    X = np.where(np.random.default_rng(0).uniform(size=(120, 30)) < 0.1, 1.0, 0.0)
    y = (X[:, 0] + X[:, 1] > 0).astype(int)
    dense, sparse_ = (MLPClassifier(random_state=0, max_iter=5, **settings).fit(x, y) for x in (X, container(X)))
    np.testing.assert_allclose(sparse_.coefs_[0], dense.coefs_[0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(sparse_.predict_proba(container(X)), dense.predict_proba(X), rtol=1e-6)
    sparse_.partial_fit(container(X), y) if settings == {} else None


# --- To scikit-learn and back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("MLPClassifier", IRIS),
        ("MLPClassifier", (IRIS[0], IRIS[1] == 1)),
        ("MLPClassifier", (IRIS[0], np.array(["x", "y", "z"])[IRIS[1]])),
        ("MLPClassifier", LABELS),
        ("MLPRegressor", VALUES),
        ("MLPRegressor", SEVERAL),
    ],
)
def test_to_scikit_learn_and_back(kind, data):
    own = getattr(fcnet, kind)(random_state=0, max_iter=10).fit(*data)
    theirs = own.to_sklearn()
    assert type(theirs) is getattr(neural_network, kind)
    back = getattr(fcnet, kind).from_sklearn(theirs)
    for other in (theirs, back):
        if data[1].dtype.kind == "U":
            np.testing.assert_array_equal(other.predict(data[0]), own.predict(data[0]))
        else:
            np.testing.assert_allclose(other.predict(data[0]), own.predict(data[0]), rtol=1e-10)
        assert other.score(*data) == pytest.approx(own.score(*data))
        other.partial_fit(*data)
    assert clone(theirs).fit(*data).n_iter_ == own.n_iter_
    assert getattr(fcnet, kind).from_sklearn(getattr(neural_network, kind)(alpha=3.0)).alpha == 3.0


def test_exchange_refused():
    with pytest.raises(fcnet.InputError, match=r"scikit-learn has no activation 'gelu'"):
        MLPClassifier(activation="gelu", max_iter=1).fit(*IRIS).to_sklearn()
    with pytest.raises(fcnet.InputError, match=r"from_sklearn needs a sklearn\.neural_network\.MLPClassifier"):
        MLPClassifier.from_sklearn(neural_network.MLPRegressor())


# --- Parameter errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        (
            "alpha",
            -1,
            r"The 'alpha' parameter of MLPClassifier must be a float in the range \[0, inf\)\. Got -1 instead\.",
        ),
        ("solver", "adm", r"must be a str among .* or an optimizer .*\. Got 'adm' instead\. Did you mean 'adam'\?"),
        ("activation", "sigmod", r"Got 'sigmod' instead\. Did you mean 'sigmoid'\?"),
        ("learning_rate", "cosin", r"Did you mean 'cosine'\?"),
        ("hidden_layer_sizes", (4, -1), r"hidden_layer_sizes must be > 0, got \[4, -1\]"),
        (
            "hidden_layer_sizes",
            0,
            r"'hidden_layer_sizes' parameter of MLPClassifier must be an int in the range \[1, inf\)",
        ),
        ("batch_size", 1.5, r"must be a str among {'auto'} or an int in the range \[1, inf\)\. Got 1\.5 instead"),
        ("early_stopping", "yes", r"must be a bool\. Got 'yes' instead"),
        ("max_iter", True, r"must be an int in the range \[1, inf\)\. Got True instead"),
        ("dropout", 1.0, r"'dropout' parameter of MLPClassifier must be a float in the range \[0, 1\) or a sequence"),
        ("tol", float("nan"), r"'tol'.*Got nan instead"),
        ("loss", "logloss", r"Did you mean 'log_loss'\?"),
        ("random_state", -1, r"must be an int, a numpy\.random\.RandomState or None"),
        ("engine", "nativ", r"Did you mean 'native'\?"),
        ("max_time", 0, r"must be None or a float in the range \(0, inf\)"),
        ("label_smoothing", 0.1, None),
    ],
)
def test_parameter_errors(parameter, value, message):
    estimator = MLPClassifier(**{parameter: value, "max_iter": 1} if parameter != "max_iter" else {parameter: value})
    if message is None:
        estimator.fit(*IRIS)
        return
    with pytest.raises(fcnet.InputError, match=message):
        estimator.fit(*IRIS)


def test_unknown_parameters():
    with pytest.raises(TypeError, match=r"MLPClassifier has no parameter 'dropuot'\. Did you mean 'dropout'\?"):
        MLPClassifier(dropuot=0.1)
    with pytest.raises(
        ValueError, match=r"MLPRegressor has no parameter 'early_stoping'\. Did you mean 'early_stopping'\?"
    ):
        MLPRegressor().set_params(early_stoping=True)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), r"sample_weight\.shape == \(3,\), expected \(150,\)"),
        (-np.ones(150), r"sample_weight must be 0 or above"),
        (np.zeros(150), r"not all zero"),
    ],
)
def test_sample_weight_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        MLPClassifier().fit(*IRIS, sample_weight=weights)
