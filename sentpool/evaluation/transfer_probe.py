"""What frozen vectors know of labels: logistic regression on labelled text, under SentEval's rules."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sentpool.checks import positive_integer, positive_number
from sentpool.checks import seed as checked_seed
from sentpool.errors import shown
from sentpool.evaluation.embedding import describe_model, embed
from sentpool.evaluation.labelled_data import LabelledTask, describe, read_labelled
from sentpool.evaluation.logistic_regression import fit, predict
from sentpool.evaluation.significance import Bootstrap
from sentpool.evaluation.transfer_result import Predicted, TransferResult
from sentpool.progress import progress_bar

# C, as SentEval's validation.py tries it with scikit-learn.
_STRENGTHS = tuple(2.0**k for k in range(-2, 4))
_STRENGTHS_WITHOUT_DEV = tuple(2.0**k for k in range(-1, 6))


def transfer(
    model,
    folder,
    tasks=None,
    *,
    folds: int = 10,
    strengths: Sequence[float] | None = None,
    seed: int = 0,
    resamples: int = 1000,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
    **encode_options,
) -> TransferResult:
    """Classify labelled texts by a logistic regression on their vectors, under SentEval's rules.

    A task that is one list is cut into `folds` of equal class shares. Each fold is predicted by a regression trained
    on the others, whose regularisation is chosen by a cross-validation within them. A task with ``test`` is predicted
    from ``train``; ``dev`` chooses the regularisation, or a cross-validation within ``train`` where there is none. Each
    distinct text of all tasks is encoded once, in one call; the encoder is not trained.

    Parameters
    ----------
    model : SentenceEncoder, object with ``encode``, or callable
        As in `sts`.
    folder : str or Path
        Holds ``NAME.tsv``, a task that is one list, or ``NAME/train.tsv`` and ``NAME/test.tsv`` and perhaps
        ``NAME/dev.tsv``. A line is a label, a tab and a text, in UTF-8.
    tasks : str or sequence of str, optional
        Only these; by default all that the folder holds.
    folds : int
        At least 2; a task has at least so many texts of every class.
    strengths : sequence of float, optional
        The values of C that are tried, see `logistic_regression.fit`; of equally good ones the smallest is taken. By
        default SentEval's: ¼ … 8, and ½ … 32 for a task with ``test`` but without ``dev``.
    seed : int
        Of the folds and of the intervals.
    resamples : int
        Of the bootstrap of texts that gives every accuracy its 95 % interval; 0: no intervals.
    batch_size, show_progress_bar, **encode_options
        As in `sts`.

    Returns
    -------
    TransferResult

    Raises
    ------
    FileNotFoundError
        The folder does not exist or holds no task.
    ValueError
        An unknown task, a malformed line (named by file and line), a task of one class, a class with too few texts, an
        argument out of range, or vectors of the wrong shape or with NaN or infinity.
    TypeError
        As in `sts`.

    Warns
    -----
    SentpoolWarning
        A regression that did not converge.

    Examples
    --------
    >>> result = evaluation.transfer(model, "data/transfer")        # doctest: +SKIP
    >>> result.accuracy("MR"), result.interval("MR")                # doctest: +SKIP
    """
    began = time.perf_counter()
    if positive_integer("folds", folds) < 2:
        raise ValueError("folds is 1: pass at least 2")
    seed = checked_seed("seed", seed)
    strengths = None if strengths is None else _checked_strengths(strengths)
    bootstrap = None if resamples == 0 else Bootstrap.checked(resamples, seed, 0.95)
    found = read_labelled(folder, tasks)
    plans = [_plan(task, folds, strengths, seed) for task in found]
    index = dict.fromkeys(text for task in found for texts, _ in task.parts.values() for text in texts)
    index = {text: k for k, text in enumerate(index)}
    read = time.perf_counter()
    # Before the long part: a model that cannot say what it is shall fail at once.
    description = describe_model(model)
    started = time.perf_counter()
    vectors, encoding = embed(
        model, list(index), batch_size=batch_size, show_progress_bar=show_progress_bar, **encode_options
    )
    encoded = time.perf_counter()
    bar = progress_bar(sum(plan.fits for plan in plans), "Fitting", "regressions", show_progress_bar)
    predicted = {}
    for task, plan in zip(found, plans, strict=True):
        rows = [index[text] for texts, _ in task.parts.values() for text in texts]
        predicted[task.name] = plan.predicted(task, vectors[rows].astype(np.float64), bar)
    if bar is not None:
        bar.close()
    return TransferResult(
        tasks=predicted,
        protocol={"folds": folds, "seed": seed, "strengths": {plan.name: list(plan.strengths) for plan in plans}},
        bootstrap=bootstrap,
        model=description,
        encoding=encoding,
        data=describe(folder, found),
        seconds={"read": read - began, "encode": encoded - started, "fit": time.perf_counter() - encoded},
    )


def _checked_strengths(strengths) -> tuple[float, ...]:
    if isinstance(strengths, (str, bytes)) or not hasattr(strengths, "__iter__"):
        raise TypeError(f"strengths is {shown(strengths)}: expected a sequence of numbers above 0")
    values = tuple(sorted(positive_number(f"strengths[{k}]", value) for k, value in enumerate(strengths)))
    if not values:
        raise ValueError("strengths is empty: pass at least one number above 0")
    return values


class _Round(NamedTuple):
    """One set of predictions: from the rows `train` for the rows `test`, with folds of `train` to choose C by."""

    train: np.ndarray
    test: np.ndarray
    validations: list[tuple[np.ndarray, np.ndarray]]


class _Plan(NamedTuple):
    """Which regressions a task needs; all rows are masks over its texts."""

    name: str
    strengths: tuple[float, ...]
    rounds: list[_Round]

    @property
    def fits(self) -> int:
        """How many regressions there are."""
        return sum(len(one.validations) * len(self.strengths) + 1 for one in self.rounds)

    def predicted(self, task: LabelledTask, vectors: np.ndarray, bar) -> Predicted:
        classes = np.concatenate([labels for _, labels in task.parts.values()])
        answers = np.full(len(classes), -1, dtype=np.int64)
        chosen, dev = [], []
        for one in self.rounds:
            masks = np.repeat([train for train, _ in one.validations], len(self.strengths), axis=0)
            grid = np.tile(self.strengths, len(one.validations))
            weights = fit(vectors, classes, masks, grid, bar)
            held_out = np.repeat([test for _, test in one.validations], len(self.strengths), axis=0)
            right = [
                np.mean(predict(vectors[rows], of_one) == classes[rows])
                for rows, of_one in zip(held_out, weights, strict=True)
            ]
            # SentEval rounds to a hundredth of a percent; the first, so the smallest, of equal ones.
            scores = np.round(np.reshape(right, (-1, len(self.strengths))).mean(axis=0), 4)
            best = int(np.argmax(scores))
            chosen.append(self.strengths[best])
            dev.append(float(scores[best]))
            (weights,) = fit(vectors, classes, one.train[None], np.array([self.strengths[best]]), bar)
            answers[one.test] = predict(vectors[one.test], weights)
        scored = np.any([one.test for one in self.rounds], axis=0)
        return Predicted(task.classes, answers[scored], classes[scored], chosen, dev)


def _plan(task: LabelledTask, folds: int, strengths: tuple[float, ...] | None, seed: int) -> _Plan:
    bits = np.random.Philox(key=np.array([seed, zlib.crc32(task.name.encode())], dtype=np.uint64))
    sizes = [len(labels) for _, labels in task.parts.values()]
    classes = np.concatenate([labels for _, labels in task.parts.values()])
    part = dict(zip(task.parts, np.repeat(np.eye(len(sizes), dtype=bool), sizes, axis=1), strict=True))
    if "dev" in task.parts:
        rounds = [_Round(part["train"], part["test"], [(part["train"], part["dev"])])]
    else:
        cut = part.get("train", part.get(""))
        # So that no class is missing even from what is trained on within a fold.
        least = max(folds, 4)
        counts = np.bincount(classes[cut], minlength=len(task.classes))
        if counts.min() < least:
            rare = task.classes[int(counts.argmin())]
            raise ValueError(
                f"{task.name}: {counts.min()} texts have the label {shown(rare)}; folds={folds} needs {least} of every "
                "class: pass a smaller `folds`, or leave the class out"
            )
        if "test" in task.parts:
            rounds = [_Round(cut, part["test"], _validations(classes, cut, folds, bits))]
        else:
            rounds = [
                _Round(train, test, _validations(classes, train, folds, bits))
                for train, test in _validations(classes, cut, folds, bits)
            ]
    default = _STRENGTHS_WITHOUT_DEV if task.parts.keys() == {"train", "test"} else _STRENGTHS
    return _Plan(task.name, strengths or default, rounds)


def _validations(classes: np.ndarray, rows: np.ndarray, folds: int, bits) -> list[tuple[np.ndarray, np.ndarray]]:
    """The chosen rows cut into folds: for each, masks of the others and of itself. Classes are spread evenly."""
    fold = np.full(len(classes), -1)
    dealt = 0
    for number in range(int(classes.max()) + 1):
        members = np.flatnonzero(rows & (classes == number))
        members = members[np.argsort(bits.random_raw(len(members)), kind="stable")]
        fold[members] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    return [(rows & (fold != k), fold == k) for k in range(folds)]
