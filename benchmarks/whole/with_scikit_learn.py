"""scikit-learn: one ``partial_fit`` an epoch, shuffled; it has no dropout."""

import epochs
import numpy as np
from sklearn.neural_network import MLPClassifier

settings = epochs.SETTINGS
model = MLPClassifier(
    settings["hidden"],
    activation={"sigmoid": "logistic", "relu": "relu"}[settings["activation"]],
    solver=settings["optimizer"],
    alpha=0.0,
    batch_size=settings["batch"],
    learning_rate_init=settings["learning_rate"],
    momentum=0.0,
    nesterovs_momentum=False,
    random_state=np.random.RandomState(settings["seed"]),  # a number would repeat one order every epoch
)
X, y = epochs.rows("train")
X_test, y_test = epochs.rows("test")
for _ in range(settings["epochs"]):
    model.partial_fit(X, y, classes=np.arange(10))
    if epochs.report(model.score(X_test, y_test)):
        break
