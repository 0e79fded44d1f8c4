"""Targets: from what a person calls classes and values to what a network reads, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import type_of_target, unique_labels

from fcnet.errors import InputError

ClassKind = Literal["binary", "multiclass", "multilabel"]


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of a classifier.

    Attributes:
        labels: ``(n_classes,)``, sorted, of whatever type they came in.
        kind: "binary" (one class too), "multiclass", or "multilabel": a row has any number of them.
        sparse_output: whether multilabel predictions are sparse, as the training targets were.
    """

    labels: NDArray[Any]
    kind: ClassKind
    sparse_output: bool = False

    @classmethod
    def of(cls, y: Any) -> Classes:
        """The classes in targets ``(n_rows,)``, or ``(n_rows, n_classes)`` of 0 and 1.

        Raises:
            ValueError: targets that are not classes.
        """
        binarizer = LabelBinarizer(sparse_output=False).fit(y)
        kind: ClassKind = "multiclass"
        if binarizer.y_type_.startswith("multilabel"):
            kind = "multilabel"
        elif binarizer.y_type_ == "binary":
            kind = "binary"
        return cls(binarizer.classes_, kind, sparse.issparse(y))

    @property
    def n_outputs(self) -> int:
        """How many outputs a network needs for them."""
        return 1 if self.kind == "binary" else len(self.labels)

    def encode(self, y: Any, dtype: Any) -> NDArray[Any]:
        """Labels ``(n_rows,)`` of int64 for several classes; else values 0 and 1, ``(n_rows, n_outputs)``."""
        if self.kind == "multilabel":
            dense = y.toarray() if sparse.issparse(y) else np.asarray(y)
            return np.ascontiguousarray(dense, dtype)
        places = np.searchsorted(self.labels, y)
        if self.kind == "binary":
            return (places == 1).astype(dtype)[:, None]
        return places.astype(np.int64)

    def decode(self, outputs: NDArray[Any]) -> Any:
        """The classes that outputs ``(n_rows, n_outputs)`` stand for."""
        if self.kind == "multilabel":
            chosen = (outputs > 0.5).astype(np.int64)
            return sparse.csr_matrix(chosen) if self.sparse_output else chosen
        if self.kind == "multiclass":
            return self.labels[np.argmax(outputs, axis=1)]
        return self.labels[np.minimum(outputs[:, 0] > 0.5, len(self.labels) - 1).astype(np.int64)]

    def accuracy(self, outputs: NDArray[Any], encoded: NDArray[Any], weights: NDArray[np.float64] | None) -> float:
        """The fraction of rows, by weight, all of whose classes are right."""
        if self.kind == "multiclass":
            right = np.argmax(outputs, axis=1) == encoded
        else:
            right = ((outputs > 0.5) == (encoded > 0.5)).all(axis=1)
        return float(np.average(right, weights=weights))

    def check_known(self, y: Any, all_of_them: bool) -> None:
        """Refuse targets with other classes; with ``all_of_them``, as after a warm start, also those that lack some."""
        if self.kind == "multilabel":
            if y.ndim != 2 or y.shape[1] != len(self.labels):
                raise InputError(
                    f"`y` must have one column of 0 and 1 for each of {len(self.labels)} classes, got shape {y.shape}."
                )
            return
        classes = unique_labels(y)
        if all_of_them and set(classes) != set(self.labels):
            raise InputError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit."
                f" Previously got {self.labels}, `y` has {classes}"
            )
        if len(np.setdiff1d(classes, self.labels)):
            raise InputError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.labels}. 'y' has {classes}."
            )


def classes_of_first_part(y: Any, classes: Any) -> Classes:
    """The classes of a first ``partial_fit``: those that it names, or the columns of a multilabel y.

    Raises:
        ValueError: no classes were named.
    """
    if type_of_target(y).startswith("multilabel"):
        return Classes.of(y)
    if classes is None:
        raise InputError("classes must be passed on the first call to partial_fit.")
    return Classes.of(np.unique(np.asarray(classes)) if not isinstance(classes, np.ndarray) else classes)


class ClassWeights:
    """How much a row counts for its class, over successive parts of the data.

    "balanced" weighs a class by n_rows / (n_classes * rows of that class), of all the rows seen so far, by their weights.
    """

    def __init__(self) -> None:
        self.seen: Any = 0.0

    def of_rows(
        self, class_weight: Any, y: Any, classes: Classes, row_weights: NDArray[np.float64] | None
    ) -> NDArray[np.float64] | None:
        """``(n_rows,)``, or None where every class counts 1.

        Raises:
            InputError: a weight for a class that is not there.
        """
        if class_weight is None:
            return None
        if classes.kind == "multilabel":
            dense = y.toarray() if sparse.issparse(y) else y
            return compute_sample_weight(class_weight, dense)
        if isinstance(class_weight, Sequence) and not isinstance(class_weight, str):
            raise InputError(
                f"The 'class_weight' parameter must be a dict, 'balanced' or None for one target; got {class_weight!r}."
            )
        places = np.searchsorted(classes.labels, y)
        if isinstance(class_weight, dict):
            known = classes.labels.tolist()
            if unknown := [label for label in class_weight if label not in known]:
                raise InputError(f"class_weight names {unknown}, but the classes are {known}.")
            by_class = np.array([class_weight.get(label, 1.0) for label in known], np.float64)
        else:
            seen = self.seen + np.bincount(places, weights=row_weights, minlength=len(classes.labels))
            present = seen > 0
            by_class = seen.sum() / (np.count_nonzero(present) * np.where(present, seen, 1.0))
            self.seen = seen
        return by_class[places]
