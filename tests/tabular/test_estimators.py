"""``TabularClassifier`` and ``TabularRegressor``: scikit-learn's contract, and tables as people have them."""

from __future__ import annotations

import datetime
import json
import math
import pickle
import time
import warnings

import numpy as np
import polars
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from fcnet import TabularClassifier, TabularRegressor
from fcnet.data.table import read_table
from fcnet.errors import FileError, InputError, TrainingWarning
from fcnet.tabular.calibration import (
    expected_calibration_error,
    fit_temperature,
    interval_correction,
    tempered,
    unsmoothed,
)
from fcnet.tabular.frames import as_frame
from fcnet.tabular.recipe import FEWEST_EPOCHS, PRESETS, CosineLog
from fcnet.tabular.rounds import best_share


@pytest.mark.parametrize(
    "estimator", [TabularClassifier("fast"), TabularRegressor("fast")], ids=["classifier", "regressor"]
)
@pytest.mark.filterwarnings("ignore")
def test_check_estimator(estimator):
    results = check_estimator(estimator, on_skip=None)
    assert [result for result in results if result["status"] not in ("passed", "skipped")] == []


def messy(n=600, seed=0):
    """A table with everything in it, its classes and its values."""
    draw = np.random.default_rng(seed)
    x, group = draw.normal(size=n), draw.integers(0, 3, n)
    day = [datetime.date(2024, 1, 1) + datetime.timedelta(int(k)) for k in draw.integers(0, 365, n)]
    value = 2 * x + 3 * (group == 1) + 0.2 * draw.normal(size=n)
    frame = polars.DataFrame({
        "x": [None if hole else v for v, hole in zip(x, draw.random(n) < 0.1, strict=True)],
        "group": [("red", "green", "blue")[g] for g in group], "flag": draw.random(n) > 0.5, "day": day,
        "many": [f"m{k}" for k in draw.integers(0, 300, n)], "nothing": [None] * n, "always": [1] * n,
    })  # fmt: skip
    return frame, np.where(value > 1, "yes", "no"), value


@pytest.fixture(scope="module")
def classifier():
    frame, labels, _ = messy()
    return TabularClassifier("fast", random_state=0).fit(frame, labels)


def test_a_messy_table(classifier):
    frame, labels, _ = messy(seed=1)
    assert classifier.score(frame, labels) > 0.8
    probabilities = classifier.predict_proba(frame)
    assert probabilities.shape == (600, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert classifier.classes_.tolist() == ["no", "yes"]
    text = classifier.summary()
    assert "nothing  empty" in text
    assert "calibration error" in text
    best = np.argsort(classifier.feature_importances_)[::-1][:2]
    assert {frame.columns[place] for place in best} == {"x", "group"}
    assert (classifier.feature_importances_[5:] == 0).all()


def test_frames_alike_and_columns_in_any_order(classifier):
    pandas = pytest.importorskip("pandas")
    frame, _, _ = messy(50, seed=2)
    expected = classifier.predict_proba(frame)
    table = pandas.DataFrame({name: frame[name].to_list() for name in frame.columns})
    for other in (frame.to_arrow(), table, frame[:, ::-1], table.assign(more=1)[["more", *table.columns[::-1]]]):
        np.testing.assert_array_equal(classifier.predict_proba(other), expected)
    np.testing.assert_array_equal(
        classifier.predict_proba(frame.with_columns(polars.lit("new").alias("group")))[0].shape, (2,)
    )
    with pytest.raises(InputError, match="lacks the columns x, day"):
        classifier.predict(frame.drop("x", "day"))
    with pytest.raises(InputError, match=r"'x' holds 'tall' in row 4, and had a number"):
        classifier.predict(frame.with_columns(x=polars.Series(["1", "2", "3", "tall"] + ["5"] * 46)))


def test_the_same_seed_gives_the_same_answers_also_pickled_and_cloned(classifier):
    frame, labels, _ = messy()
    again = clone(classifier).fit(frame, labels)
    np.testing.assert_array_equal(again.predict_proba(frame), classifier.predict_proba(frame))
    copy = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(copy.predict_proba(frame), classifier.predict_proba(frame))
    other = TabularClassifier("fast", random_state=1).fit(frame, labels)
    assert (other.predict_proba(frame) != classifier.predict_proba(frame)).any()


def test_regression_with_intervals():
    frame, _, values = messy(1500)
    model = TabularRegressor("fast", interval=0.8, random_state=0).fit(frame, values)
    unseen, _, truth = messy(1500, seed=1)
    assert model.score(unseen, truth) > 0.8
    low, high = model.predict_interval(unseen).T
    assert 0.7 < ((low <= truth) & (truth <= high)).mean() < 0.9
    assert model.coverage_ >= 0.8
    assert "intervals of 80% cover" in model.summary()
    predicted = model.predict(unseen)
    assert values.min() <= predicted.min()
    assert predicted.max() <= values.max()
    with pytest.raises(InputError, match="There are no intervals"):
        TabularRegressor("fast", max_time=1).fit(frame[:60], values[:60]).predict_interval(frame)


def test_hundreds_of_categories_stay_sparse():
    draw = np.random.default_rng(0)
    code, x = draw.integers(0, 300, 4000), draw.normal(size=4000)
    labels = (code % 2 == 0) ^ (draw.random(4000) < 0.05)
    frame = polars.DataFrame({"code": [f"c{k}" for k in code], "x": x})
    model = TabularClassifier("fast", random_state=0).fit(frame[:3000], labels[:3000])
    assert model.columns_.sparse
    assert model.score(frame[3000:], labels[3000:]) > 0.85
    assert model.feature_importances_[0] > 0.3


def test_several_networks_are_averaged(monkeypatch):
    from dataclasses import replace

    from fcnet.tabular import recipe

    monkeypatch.setitem(recipe.PRESETS, "best", replace(recipe.PRESETS["fast"], members=3, epochs=3, plain=False))
    frame, labels, _ = messy(200)
    model = TabularClassifier("best", random_state=0).fit(frame, labels)
    assert len(model.members_) == 3
    weights = [arrays["layers.0.weights"] for arrays in model.members_]
    assert (weights[0] != weights[1]).any()
    assert "3 networks" in model.summary()


def test_networks_with_and_without_linear_pieces_share_the_answer(tmp_path):
    draw = np.random.default_rng(0)
    X = draw.normal(size=(1500, 4))
    noise = draw.normal(size=1500)
    smooth, steps = X @ [1.0, -1.0, 0.5, 0.0] + 3.0 * noise, np.sign(np.sin(8.0 * X[:, 0])) + 0.1 * noise

    def share_of_plain(model):
        plain = np.array([len(arrays["layers.0.weights"]) == 4 for arrays in model.members_])
        return model.shares_[plain].sum()

    pieces = TabularRegressor("fast", random_state=0).fit(X, steps)
    assert share_of_plain(pieces) < 0.2
    model = TabularRegressor("fast", random_state=0, interval=0.8).fit(X, smooth)
    assert share_of_plain(model) > 0.2
    first = model.members_[np.argmax(model.shares_)]
    assert len(model.limits_["layers.0.weights"]) == len(first["layers.0.weights"])
    assert model.shares_.sum() == pytest.approx(1.0)
    model.save(tmp_path / "saved")
    loaded = TabularRegressor.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(loaded.predict_interval(X), model.predict_interval(X))
    file = tmp_path / "saved" / "table.json"
    description = json.loads(file.read_text())
    for shares in ([1.0], [0.0] * len(model.shares_), ["a"] * len(model.shares_), [math.nan] * len(model.shares_), 1):
        file.write_text(json.dumps(description | {"shares": shares}))
        with pytest.raises(FileError, match="cannot be read"):
            TabularRegressor.load(tmp_path / "saved")


def test_a_share_is_as_sure_as_the_rows_make_it():
    """The mean over shares by their likelihood; with many rows the likeliest, with none one half."""

    def log_likelihood(n):
        return lambda share: -n * (share - 0.3) ** 2

    assert best_share(log_likelihood(0)) == pytest.approx(0.5)
    assert 0.3 < best_share(log_likelihood(5)) < 0.5
    assert best_share(log_likelihood(10_000)) == pytest.approx(0.3)
    assert best_share(lambda share: -1e6 * share) == 0.0
    assert best_share(lambda share: 1e6 * share) == 1.0


def test_a_file_of_version_1_has_alike_networks(tmp_path):
    draw = np.random.default_rng(0)
    X = draw.normal(size=(200, 3))
    model = TabularRegressor("fast", random_state=0).fit(X, X.sum(axis=1))
    model.save(tmp_path)
    file = tmp_path / "table.json"
    description = json.loads(file.read_text()) | {"version": 1}
    del description["shares"]
    file.write_text(json.dumps(description))
    assert set(TabularRegressor.load(tmp_path).shares_) == {1.0 / len(model.members_)}


def test_each_of_several_networks_sets_aside_another_fold(monkeypatch):
    from dataclasses import replace

    from fcnet.tabular import recipe

    monkeypatch.setitem(recipe.PRESETS, "best", replace(recipe.PRESETS["fast"], members=3, epochs=3, steps=(3, 3)))
    seen = []

    def noted(network, training, validation, **settings):
        seen.append([{tuple(row) for row in part.X.tolist()} for part in (training, validation)])
        return train(network, training, validation, **settings)

    train = recipe.train
    monkeypatch.setattr(recipe, "train", noted)
    draw = np.random.default_rng(0)
    X, y = draw.normal(size=(70, 2)), draw.normal(size=70)
    model = TabularRegressor("best", validation_fraction=0.2).fit(X, y)
    assert [(len(training), len(validation)) for training, validation in seen] == [(56, 14)] * 3
    assert all(not training & validation for training, validation in seen)
    assert len(set.union(*(validation for _, validation in seen))) == 42
    assert model.feature_importances_.shape == (2,)
    seen.clear()
    TabularRegressor("best").fit(X[:50], y[:50], eval_set=(X[50:], y[50:]))
    assert [(len(training), len(validation)) for training, validation in seen] == [(50, 20)] * 3


def test_weights_of_rows():
    draw = np.random.default_rng(0)
    X = draw.normal(size=(600, 1))
    y = np.where(np.arange(600) % 2, 1.0, -1.0) + 0.01 * X[:, 0]
    model = TabularRegressor("fast", random_state=0).fit(X, y, weights=np.where(np.arange(600) % 2, 9.0, 1.0))
    assert model.target_mean_ == pytest.approx(0.8, abs=0.01)
    assert model.predict(X).mean() == pytest.approx(0.8, abs=0.15)
    labels = np.where(np.arange(600) % 2, "b", "a")
    model = TabularClassifier("fast", random_state=0).fit(X, labels, weights=np.where(np.arange(600) % 2, 3.0, 1.0))
    assert (model.predict(X) == "b").all()
    assert model.predict_proba(X)[:, 1].mean() == pytest.approx(0.75, abs=0.05)
    for bad, message in (
        (np.ones(3), "X has 600 rows and weights has 3"),
        (-np.ones(600), "weights holds -1.0 in row 1"),
        (np.zeros(600), "weights are 0 in every row"),
        (["a"] * 600, "weights must be a number for each row"),
    ):
        with pytest.raises(InputError, match=message):
            TabularClassifier("fast").fit(X, labels, weights=bad)


def test_save_and_load(classifier, tmp_path):
    frame, _, values = messy(200, seed=4)
    classifier.save(tmp_path / "classes")
    loaded = TabularClassifier.load(tmp_path / "classes")
    np.testing.assert_array_equal(loaded.predict_proba(frame), classifier.predict_proba(frame))
    assert (loaded.predict(frame) == classifier.predict(frame)).all()
    with pytest.raises(FileError, match="it holds 'classification', expected regression"):
        TabularRegressor.load(tmp_path / "classes")
    regressor = TabularRegressor("fast", interval=0.8, random_state=0).fit(frame, values)
    regressor.save(tmp_path / "classes")  # in its place
    loaded = TabularRegressor.load(tmp_path / "classes")
    np.testing.assert_array_equal(loaded.predict_interval(frame), regressor.predict_interval(frame))
    with pytest.raises(AttributeError, match="no importances"):
        loaded.feature_importances_
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(FileError, match="holds other files"):
        classifier.save(tmp_path / "other")
    with pytest.raises(FileError):
        TabularClassifier.load(tmp_path / "other")


def test_ctrl_c_keeps_the_best_network(monkeypatch):
    from fcnet.tabular import recipe

    def interrupted(network, *arguments, **settings):
        train(network, *arguments, **settings | {"epochs": 3})
        raise KeyboardInterrupt

    train = recipe.train
    monkeypatch.setattr(recipe, "train", interrupted)
    frame, labels, _ = messy(200)
    model = TabularClassifier("fast", random_state=0, n_threads=1)
    with pytest.raises(KeyboardInterrupt):
        model.fit(frame, labels)
    assert len(model.history_.epochs) == 3
    assert model.predict(frame).shape == (200,)


def test_a_time_limit_ends_it():
    frame, labels, _ = messy(2000)
    TabularClassifier("fast", max_time=0.5).fit(frame[:100], labels[:100])  # compiles
    began = time.perf_counter()
    model = TabularClassifier(max_time=1.5, random_state=0).fit(frame, labels)
    assert time.perf_counter() - began < 8.0
    rates = [record.learning_rate for record in model.history_.epochs]
    assert rates[-1] < 0.3 * max(rates)  # the schedule fits the time


def test_the_recipe_follows_the_number_of_rows():
    recipe = PRESETS["default"]
    few, some, many = (recipe.laid_out(n) for n in (300, 2000, 2_000_000))
    steps = [laid.epochs * -(-n // recipe.batch_size) for laid, n in ((few, 300), (some, 2000), (many, 2_000_000))]
    assert recipe.steps[0] <= steps[0] < recipe.steps[0] + 2
    assert few.epochs > some.epochs == recipe.epochs
    assert many.epochs == FEWEST_EPOCHS
    assert few.weight_decay == some.weight_decay == recipe.weight_decay
    assert many.weight_decay == pytest.approx(recipe.weight_decay / 1000)
    assert [recipe.pieces_for(n) for n in (10, 1000, 3000, 50_000, 200_000, 2_000_000)] == [16, 16, 30, 48, 25, 16]
    assert [PRESETS["fast"].pieces_for(n) for n in (10, 50_000, 2_000_000)] == [16] * 3


def test_own_validation_data():
    frame, labels, _ = messy()
    model = TabularClassifier("fast", random_state=0).fit(
        frame[:400], labels[:400], eval_set=(frame[400:], labels[400:])
    )
    assert model.columns_.n_rows == 400
    assert model.validation_score_ == pytest.approx(model.score(frame[400:], labels[400:]))
    with pytest.raises(InputError, match="the class 'maybe' in row 1"):
        TabularClassifier("fast").fit(frame, labels, eval_set=(frame[:2], ["maybe", "no"]))


def test_suspicious_columns_are_named():
    frame, labels, _ = messy(200)
    frame = frame.with_columns(polars.Series("number", range(200)), polars.Series("answer", labels))
    with pytest.warns(TrainingWarning) as caught:
        model = TabularClassifier("fast", max_time=1).fit(frame, labels)
    text = " ".join(str(warning.message) for warning in caught)
    assert "Not used, because it names or numbers rows: number." in text
    assert "The column 'answer' may give the answer away" in text
    assert "drop=['answer']" in text
    assert model.leaks_.keys() == {"answer"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        TabularClassifier("fast", max_time=1, drop=["answer", "number"]).fit(frame, labels)


FRAME, LABELS, VALUES = messy(60)
REFUSED = [
    (TabularClassifier("best est"), FRAME, LABELS, "unknown preset 'best est'. Did you mean 'best'"),
    (TabularClassifier(max_time=0), FRAME, LABELS, "max_time must be"),
    (TabularClassifier(drop="x"), FRAME, LABELS, "drop must be a list"),
    (TabularClassifier(drop=["y"]), FRAME, LABELS, "no column 'y' to drop"),
    (TabularClassifier(validation_fraction=1), FRAME, LABELS, "validation_fraction must lie"),
    (TabularClassifier(n_threads=0), FRAME, LABELS, "n_threads must be a positive integer, got 0"),
    (TabularRegressor(interval=90), FRAME, VALUES, "interval must lie"),
    (TabularClassifier(), FRAME, ["a"] * 60, "y has one class, .*'a'.*, in every row"),
    (TabularClassifier(), FRAME, VALUES.astype(str), "y has 60 classes in 60 rows, too few rows of each"),
    (TabularClassifier(), FRAME, [None, *LABELS[1:]], r"y is missing \(NaN, None or inf\) in row 1"),
    (TabularRegressor(), FRAME, [*VALUES[:59], np.nan], "y contains NaN or infinity .* row 60"),
    (TabularRegressor(), FRAME, LABELS, "Expected numbers; for classes use TabularClassifier"),
    (TabularRegressor(), FRAME, VALUES[:9], "X has 60 rows and y has 9"),
    (TabularRegressor(), FRAME.select("always"), VALUES, "No column is left"),
]


@pytest.mark.parametrize(("estimator", "X", "y", "message"), REFUSED)
def test_what_is_refused(estimator, X, y, message):
    with pytest.raises(InputError, match=message):
        estimator.fit(X, y)


def test_before_fit():
    with pytest.raises(NotFittedError):
        TabularClassifier().predict(FRAME)


# --- Calibration --------------------------------------------------------------------------------------------------------


def test_few_rows_that_are_all_right_are_no_reason_to_be_certain():
    probabilities = np.tile([0.9, 0.1], (30, 1))
    surest = tempered(probabilities, fit_temperature(probabilities, np.zeros(30, np.int64)))[0, 0]
    assert surest == pytest.approx(1.0 - 0.5 / 32, abs=1e-3)


def test_a_temperature_undoes_too_much_confidence():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(20_000, 3))
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (truth.cumsum(axis=1) < draw.random((20_000, 1))).sum(axis=1)
    sure = tempered(truth, 1 / 3)
    assert fit_temperature(sure, labels) == pytest.approx(3.0, rel=0.05)
    assert expected_calibration_error(sure, labels) > 0.15
    assert expected_calibration_error(tempered(sure, 3.0), labels) < 0.02


def test_smoothing_is_taken_back():
    truth = np.random.default_rng(0).dirichlet(np.full(4, 0.5), size=1000)
    answers = 0.9 * truth + 0.1 / 4
    taken_back = unsmoothed(answers, 0.1)
    assert np.abs(taken_back - truth).max() < 0.1 / 4
    sure = truth.min(axis=1) > 0.1
    assert np.abs(taken_back - truth)[sure].max() < 2e-3
    assert unsmoothed(answers, 0.0) is answers


def test_taking_smoothing_back_keeps_the_order_of_answers_below_it():
    answers = np.array([[0.9979, 0.002, 0.0001]])
    assert list(unsmoothed(answers, 0.1)[0].argsort()) == [2, 1, 0]
    assert (unsmoothed(answers, 0.1) > 0.0).all()


def test_smoothed_targets_leave_probabilities_that_are_right():
    draw = np.random.default_rng(0)
    X = draw.normal(size=(12_000, 2))
    p = 1.0 / (1.0 + np.exp(-3.0 * X[:, 0]))
    y = (draw.random(len(X)) < p).astype(int)
    model = TabularClassifier("fast", random_state=0).fit(X[:6000], y[:6000])
    wrong = np.abs(model.predict_proba(X[6000:])[:, 1] - p[6000:]).mean()
    assert wrong < 0.02
    assert model.temperature_ == pytest.approx(1.0, abs=0.1)


def test_a_file_of_version_2_answers_as_it_did(tmp_path):
    draw = np.random.default_rng(0)
    X = draw.normal(size=(200, 3))
    model = TabularClassifier("fast", random_state=0).fit(X, X.sum(axis=1) > 0.0)
    model.save(tmp_path)
    file = tmp_path / "table.json"
    description = json.loads(file.read_text()) | {"version": 2, "temperature": 1.0}
    del description["label_smoothing"]
    file.write_text(json.dumps(description))
    old = TabularClassifier.load(tmp_path)
    np.testing.assert_allclose(old.predict_proba(X), old._outputs(as_frame(X)), rtol=1e-6)


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    assert expected_calibration_error(probabilities, np.array([0, 1, 1, 1])) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)


def test_the_interval_correction_is_the_conformal_one():
    low, high, values = np.zeros(9), np.ones(9), np.array([0.5, 1.5, 2.0, -1.0, 0.9, 0.2, 0.3, 0.4, 0.6])
    assert interval_correction(low, high, values, 0.8) == 1.0  # the 8th smallest of the 9 misses
    assert interval_correction(low, high, values, 0.5) == pytest.approx(-0.2)


def test_the_schedule_has_cycles():
    rates = CosineLog(1.0)(np.linspace(0, 10, 1001), 10.0)
    assert rates[0] == pytest.approx(0, abs=1e-12)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert ((rates[1:-1] > rates[:-2]) & (rates[1:-1] >= rates[2:])).sum() == 4


# --- Real tables --------------------------------------------------------------------------------------------------------


def test_real_tables(shared_data):
    titanic = read_table(shared_data / "tables" / "titanic.csv")
    X, y = titanic.drop("survived"), titanic["survived"]
    with pytest.warns(TrainingWarning) as caught:
        model = TabularClassifier("fast", random_state=0).fit(X, y)
    assert [str(warning.message).split(" may")[0].split(" Leave")[0] for warning in caught] == [
        "Not used, because it names or numbers rows: name.",
        "The column 'boat'",
        "The column 'body'",
    ]
    assert model.validation_score_ > 0.9  # they do leak
    abalone = read_table(shared_data / "tables" / "abalone.csv")
    model = TabularRegressor("fast", random_state=0).fit(abalone.drop("rings")[:3000], abalone["rings"][:3000])
    assert model.score(abalone[3000:], abalone["rings"][3000:]) > 0.45
