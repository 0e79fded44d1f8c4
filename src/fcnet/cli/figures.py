"""What a table's answers are worth: figures, a line of words, a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnet.data.files import shown
from fcnet.tabular.calibration import expected_calibration_error


class ClassesJudged:
    """Figures of a classifier: accuracy, mean of -log p of the right class, calibration error; and the confusion matrix."""

    def __init__(self, probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        self.probabilities, self.labels = probabilities, labels
        self.n_rows = len(labels)

    def figures(self) -> dict[str, float]:
        """By name."""
        right = self.probabilities[np.arange(self.n_rows), self.labels]
        return {
            "accuracy": float((self.probabilities.argmax(axis=1) == self.labels).mean()),
            "cost": float(-np.log(np.maximum(right, 1e-30)).mean()),
            "calibration_error": expected_calibration_error(self.probabilities, self.labels),
        }

    def words(self) -> str:
        """In a line."""
        found = self.figures()
        return f"accuracy {found['accuracy']:.2%}, cost {found['cost']:.4f}, calibration error {found['calibration_error']:.3f}"

    def draw(self, folder: Path, estimator: Any) -> None:
        """The confusion matrix, ``confusion.png``."""
        from matplotlib.figure import Figure

        n = self.probabilities.shape[1]
        matrix = np.zeros((n, n), np.int64)
        np.add.at(matrix, (self.labels, self.probabilities.argmax(axis=1)), 1)
        figure = Figure(figsize=(5, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.imshow(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        names = [shown(str(label))[:20].replace("$", r"\$") for label in estimator.classes_.tolist()]
        if n <= 30:
            axes.set_xticks(range(n), names, rotation=90 if n > 5 else 0)
            axes.set_yticks(range(n), names)
        if n <= 12:
            for row, column in np.ndindex(n, n):
                axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=8)
        axes.set(xlabel="predicted", ylabel="true")
        figure.savefig(folder / "confusion.png", dpi=120)


class ValuesJudged:
    """Figures of a regressor: R^2, root of the mean squared error, mean absolute error, coverage of the intervals."""

    def __init__(
        self, predicted: NDArray[np.float64], values: NDArray[np.float64], ends: NDArray[np.float64] | None
    ) -> None:
        self.predicted, self.values, self.ends = predicted, values, ends
        self.n_rows = len(values)

    def figures(self) -> dict[str, float]:
        """By name."""
        errors = self.predicted - self.values
        spread = np.square(self.values - self.values.mean()).sum()
        found = {
            "r2": float(1.0 - np.square(errors).sum() / spread) if spread > 0 else 0.0,
            "rmse": float(np.sqrt(np.square(errors).mean())),
            "mae": float(np.abs(errors).mean()),
        }
        if self.ends is not None:
            low, high = self.ends.T
            found["coverage"] = float(((low <= self.values) & (self.values <= high)).mean())
        return found

    def words(self) -> str:
        """In a line."""
        found = self.figures()
        coverage = f", intervals cover {found['coverage']:.1%}" if self.ends is not None else ""
        return f"R^2 {found['r2']:.4f}, root mean squared error {found['rmse']:.4g}, mean absolute error {found['mae']:.4g}{coverage}"

    def draw(self, folder: Path, estimator: Any) -> None:
        """Predicted against true values, ``predicted.png``; at most 5,000 points."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 4.5), layout="constrained")
        axes = figure.subplots()
        shown_rows = slice(None, None, max(1, self.n_rows // 5000))
        axes.plot(self.values[shown_rows], self.predicted[shown_rows], ".", markersize=3, alpha=0.5)
        low, high = min(self.values.min(), self.predicted.min()), max(self.values.max(), self.predicted.max())
        axes.plot([low, high], [low, high], color="0.6", linewidth=1)
        axes.set(xlabel="true", ylabel="predicted")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(folder / "predicted.png", dpi=120)
