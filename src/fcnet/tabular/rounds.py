"""Which rows train each network of a table, which are set aside for it, and which features it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcnet.data.arrays import Part, is_sparse

if TYPE_CHECKING:
    import polars

SHARES = np.linspace(0.0, 1.0, 11)
"""Of the second view in the answer: the ones that are weighed against each other."""
LEAST_SHARE = 0.05
"""A view with a smaller share has none."""


@dataclass(frozen=True)
class Rows:
    """Rows of a table, and what a network reads of them.

    Attributes:
        frame: the columns as they came.
        features: ``(n_rows, width)``.
        target: ``(n_rows,)`` int64 places of classes, or float64 values.
        weights: ``(n_rows,)`` float64, how much each counts; None where all count 1.
    """

    frame: polars.DataFrame
    features: Any
    target: NDArray[Any]
    weights: NDArray[np.float64] | None

    @property
    def counts(self) -> NDArray[np.float64]:
        """How much each row counts."""
        return np.ones(len(self.target)) if self.weights is None else self.weights

    def part(self, answers: NDArray[Any], which: Any = slice(None), view: NDArray[np.int64] | None = None) -> Part:
        """Features, all or those of a view, and answers of some rows."""
        if view is None:
            features = self.features[which]
        elif is_sparse(self.features):
            features = self.features[which][:, view]
        else:  # at once, since the features of all rows are large
            features = self.features[np.ix_(np.arange(len(self.target))[which], view)]
        return Part(features, answers[which], None if self.weights is None else self.weights[which])

    def some(self, which: Any) -> Rows:
        """Some of the rows."""
        weights = None if self.weights is None else self.weights[which]
        return Rows(self.frame[which], self.features[which], self.target[which], weights)


@dataclass(frozen=True)
class Split:
    """Which rows train each member, which are set aside for it, and which features it reads.

    Members come in rounds, one for each view of the features. One round sets aside a share of the rows. Several set aside another
    fold each, so that each row trains most of them and judges one that has not seen it. Validation data of one's own is everyone's.

    Attributes:
        rows: all but validation data of one's own.
        own: that.
        held: the rows that are set aside, a fold for each of the first rounds and then from the start again.
        views: the places of the features that each member of a round reads; None for all.
    """

    rows: Rows
    own: Rows | None
    held: tuple[NDArray[np.int64], ...]
    views: tuple[NDArray[np.int64] | None, ...]

    def view_of(self, member: int) -> int:
        """Which of the views a member has."""
        return member % len(self.views)

    def parts(
        self, answers: Callable[[NDArray[Any]], NDArray[Any]], first: int = 0
    ) -> Callable[[int], tuple[Part, Part]]:
        """A member's training and validation rows; ``answers`` makes of a target what a network is to say.

        Members are counted from ``first``.
        """
        answered = answers(self.rows.target)
        own = None if self.own is None else answers(self.own.target)

        def of(member: int) -> tuple[Part, Part]:
            view = self.views[self.view_of(first + member)]
            if own is not None:
                return self.rows.part(answered, view=view), self.own.part(own, view=view)  # type: ignore[union-attr]
            held = np.zeros(len(answered), bool)
            held[self.held[self._fold_of(first + member)]] = True
            return tuple(self.rows.part(answered, np.flatnonzero(which), view) for which in (~held, held))  # type: ignore[return-value]

        return of

    def judged(self, n_members: int) -> list[tuple[Rows, list[int]]]:
        """Rows that were set aside, and the members that have not seen them."""
        if self.own is not None:
            return [(self.own, list(range(n_members)))]
        members = [[m for m in range(n_members) if self._fold_of(m) == fold] for fold in range(len(self.held))]
        return [(self.rows.some(rows), by) for rows, by in zip(self.held, members, strict=True) if by]

    def _fold_of(self, member: int) -> int:
        return member // len(self.views) % len(self.held)


@dataclass(frozen=True)
class Judged:
    """What members of each view answer for rows that they have not seen.

    Attributes:
        rows: that were set aside.
        members: that have not seen them.
        outputs: ``(n_rows, n_out)``, the mean of the members of each view that there are.
    """

    rows: Rows
    members: list[int]
    outputs: list[NDArray[np.float64]]

    def mixed(self, share: float) -> NDArray[np.float64]:
        """Outputs of both views, the second one's with this share; of the only one as they are."""
        first, *others = self.outputs
        return (1.0 - share) * first + share * others[0] if others else first


def best_share(log_likelihood: Callable[[float], float]) -> float:
    """The second view's share in the answer: the mean of 0, 0.1, ..., 1, each as probable as it makes the rows set aside.

    Few rows thus leave it near one half, and many at the share that suits them best; one below 5% is none.

    Args:
        log_likelihood: share -> the logarithm of the likelihood of the rows set aside.
    """
    found = np.array([log_likelihood(float(share)) for share in SHARES])
    share = float(np.average(SHARES, weights=np.exp(found - found.max())))
    return 0.0 if share < LEAST_SHARE else 1.0 if share > 1.0 - LEAST_SHARE else share
