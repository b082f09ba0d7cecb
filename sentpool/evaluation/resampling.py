"""Bootstrap resamples of a measure's items, and means and correlations over thousands of them at once.

A resample is a vector of counts: how often each item was drawn. Ranks of a resample follow from one sort of all items
and running sums of counts, so that Spearman's coefficient of a resample costs no sort, and is the one that sorting
would give: the sums are whole numbers, exact in float64 up to some 130,000 items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sentpool.evaluation.significance import Bootstrap

# Counts of one block of resamples; a handful of such arrays live at a time.
_BLOCK_ITEMS = 1 << 19


def draws(sizes: Sequence[int], bootstrap: Bootstrap, stream: int = 0) -> Iterator[list[np.ndarray]]:
    """Resamples of strata, each drawn with replacement within itself, in blocks.

    Parameters
    ----------
    sizes : sequence of int
        Items of each stratum.
    bootstrap : Bootstrap
        How many, and the seed. Equal arguments give equal draws on any machine and under any version of NumPy.
    stream : int
        Numbers independent sets of draws with one seed.

    Yields
    ------
    list of ndarray, int64, shape (block, size)
        One per stratum: how often each item was drawn. Blocks add up to all resamples.
    """
    # Raw draws of Philox, whose sequence NumPy guarantees; what its Generator makes of them may change.
    bits = np.random.Philox(key=np.array([bootstrap.seed, stream], dtype=np.uint64))
    block = max(1, _BLOCK_ITEMS // max(1, sum(sizes)))
    for start in range(0, bootstrap.resamples, block):
        rows = min(block, bootstrap.resamples - start)
        yield [_counts(bits, rows, size) for size in sizes]


def _counts(bits, rows: int, size: int) -> np.ndarray:
    # The upper 32 bits times size, cut: off from uniform by at most size / 2**32.
    items = ((bits.random_raw(rows * size) >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32)
    items = items.astype(np.int64).reshape(rows, size) + size * np.arange(rows, dtype=np.int64)[:, None]
    return np.bincount(items.ravel(), minlength=rows * size).reshape(rows, size)


def mean_replicates(scores: np.ndarray, bootstrap: Bootstrap, stream: int = 0) -> np.ndarray:
    """The mean of each list of scores over the same resamples of their items.

    Parameters
    ----------
    scores : ndarray, shape (lists, n)
    bootstrap : Bootstrap
    stream : int
        As in `draws`.

    Returns
    -------
    ndarray, float64, shape (lists, resamples)
    """
    n = scores.shape[1]
    return np.concatenate([(counts @ scores.T / n).T for (counts,) in draws([n], bootstrap, stream)], axis=1)


def correlation_replicates(
    golds: Sequence[np.ndarray],
    lists: Sequence[Sequence[np.ndarray]],
    coefficient: str,
    bootstrap: Bootstrap,
    stream: int = 0,
) -> np.ndarray:
    """A task's coefficient under SentEval's three aggregations, for each list of cosines over the same resamples.

    Parameters
    ----------
    golds : sequence of ndarray
        Gold scores of each subset's pairs. Pairs are drawn within their subset, whose size stays.
    lists : sequence of sequence of ndarray
        For each model the cosines of each subset's pairs.
    coefficient : {"spearman", "pearson"}
    bootstrap : Bootstrap
    stream : int
        As in `draws`.

    Returns
    -------
    ndarray, float64, shape (lists, 3, resamples)
        `all`, `mean`, `wmean`; nan where a resample leaves a coefficient undefined.
    """
    kind = {"spearman": _Spearmans, "pearson": _Pearsons}[coefficient]
    subsets = [kind(gold, [one[k] for one in lists]) for k, gold in enumerate(golds)]
    whole = kind(np.concatenate(golds), [np.concatenate(one) for one in lists]) if len(golds) > 1 else None
    sizes = [len(gold) for gold in golds]
    weights = np.array(sizes)[:, None, None] / max(1, sum(sizes))
    blocks = []
    for counts in draws(sizes, bootstrap, stream):
        of_subsets = np.stack([subset.of(some) for subset, some in zip(subsets, counts, strict=True)])
        together = of_subsets[0] if whole is None else whole.of(np.concatenate(counts, axis=1))
        blocks.append(np.stack([together, of_subsets.mean(axis=0), (weights * of_subsets).sum(axis=0)], axis=1))
    return np.concatenate(blocks, axis=2)


class _Spearmans:
    """Spearman's coefficients of one list with several, over resamples."""

    def __init__(self, gold: np.ndarray, lists: Sequence[np.ndarray]) -> None:
        self._gold, self._lists = Ranks(gold), [Ranks(values) for values in lists]

    def of(self, counts: np.ndarray) -> np.ndarray:
        """Shape (lists, rows)."""
        if counts.shape[1] == 0:
            return np.full((len(self._lists), len(counts)), np.nan)
        gold = self._gold.of(counts)
        weighted = counts * gold
        spread = (weighted * gold).sum(axis=1)
        return np.stack([self._of_one(values.of(counts), counts, weighted, spread) for values in self._lists])

    @staticmethod
    def _of_one(ranks: np.ndarray, counts: np.ndarray, weighted: np.ndarray, spread: np.ndarray) -> np.ndarray:
        return _ratio((weighted * ranks).sum(axis=1), (counts * ranks * ranks).sum(axis=1), spread)


class _Pearsons:
    """Pearson's coefficients of one list with several, over resamples."""

    def __init__(self, gold: np.ndarray, lists: Sequence[np.ndarray]) -> None:
        # About the means of all items: what is subtracted below is small then, and nothing cancels.
        gold, *lists = (_centred(values) for values in (gold, *lists))
        self._moments = [np.stack([gold, x, gold * gold, x * x, gold * x], axis=1) for x in lists]

    def of(self, counts: np.ndarray) -> np.ndarray:
        """Shape (lists, rows)."""
        if counts.shape[1] == 0:
            return np.full((len(self._moments), len(counts)), np.nan)
        return np.stack([self._of_one(moments, counts) for moments in self._moments])

    @staticmethod
    def _of_one(moments: np.ndarray, counts: np.ndarray) -> np.ndarray:
        gold, x, gold_gold, x_x, gold_x = (counts @ moments).T / counts.shape[1]
        return _ratio(gold_x - gold * x, _spread(gold, gold_gold), _spread(x, x_x))


class Ranks:
    """Ranks of one list of numbers in resamples, equal values sharing the average of theirs.

    Parameters
    ----------
    values : ndarray, shape (n,)
    """

    def __init__(self, values: np.ndarray) -> None:
        distinct, self._group = np.unique(values, return_inverse=True)
        self._order = np.argsort(self._group, kind="stable")
        self._starts = np.searchsorted(self._group[self._order], np.arange(len(distinct)))

    def of(self, counts: np.ndarray) -> np.ndarray:
        """Twice the deviation of each item's rank from the mean rank, whole numbers, float64 (rows, n).

        An item that was not drawn has the rank of those between which it would be; its count of 0 takes it out of sums.
        """
        sizes = np.add.reduceat(counts[:, self._order], self._starts, axis=1)
        last = np.cumsum(sizes, axis=1)
        return (2 * last - sizes - last[:, -1:]).astype(np.float64)[:, self._group]


def _centred(values: np.ndarray) -> np.ndarray:
    """Deviations from the mean; exactly 0 where all values are equal."""
    return values - (values[0] if values.size and values.min() == values.max() else values.sum() / max(1, values.size))


def _spread(mean: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    """The variance; 0 where it is all rounding, as of a resample that drew one value again and again."""
    variance = mean_square - mean * mean
    return np.where(variance > 1e-14 * mean_square, variance, 0)


def _ratio(covariance: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        coefficients = covariance / np.sqrt(x * y)
    return np.where((x > 0) & (y > 0), np.clip(coefficients, -1, 1), np.nan)
