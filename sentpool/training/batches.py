"""Which items make a step: seeded shuffling, and no sentence twice in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# The draws of csrc/kernels/philox.h that belong to shuffling.
_SITE = 9
_FEWEST = 2


class Batches:
    """The batches of every epoch.

    An item goes to the first batch that has room and none of its sentences, so that a sentence is no negative of
    itself. Batches are full but for the last ones of an epoch; one with a single item, which has nothing to be compared
    with, is left out.

    Parameters
    ----------
    columns : sequence of sequences
        The sentences of the items, or whatever stands for them: equal values are one sentence.
    batch_size : int
    seed : int
        Equal seeds give equal orders, on any machine and with any version of NumPy.
    shuffle : bool
        If False, every epoch is in the order of the data.
    """

    def __init__(self, columns: Sequence[Sequence], batch_size: int, seed: int, shuffle: bool = True) -> None:
        self.n_items = len(columns[0])
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        codes: dict[object, int] = {}
        self._codes = np.array(
            [[codes.setdefault(value, len(codes)) for value in column] for column in columns], np.int64
        ).T
        self._distinct = len(codes)
        self._starts = [0]
        self._current: tuple[int, list[np.ndarray]] | None = None

    def epoch(self, number: int) -> list[np.ndarray]:
        """The items of each batch of an epoch.

        Raises
        ------
        ValueError
            If no two items differ.
        """
        if self._current is None or self._current[0] != number:
            order = permutation(self.n_items, self.seed, number) if self.shuffle else np.arange(self.n_items)
            batches = [batch for batch in self._without_repeats(order) if len(batch) >= _FEWEST]
            if not batches:
                raise ValueError(
                    f"the data hold {self.n_items} items and {self._distinct} different sentences; a step needs at "
                    f"least two items that share none"
                )
            self._current = number, batches
            if number + 1 == len(self._starts):
                self._starts.append(self._starts[-1] + len(batches))
        return self._current[1]

    def steps(self, epochs: int) -> int:
        """How many steps so many epochs have."""
        while len(self._starts) <= epochs:
            self.epoch(len(self._starts) - 1)
        return self._starts[epochs]

    def at(self, step: int) -> tuple[int, np.ndarray]:
        """The epoch of a step, counted from 0 over all epochs, and its items."""
        epoch = int(np.searchsorted(self._starts, step, side="right")) - 1
        while step >= self.steps(epoch + 1):
            epoch += 1
        return epoch, self.epoch(epoch)[step - self._starts[epoch]]

    def _without_repeats(self, order: np.ndarray) -> list[np.ndarray]:
        if self._distinct == self._codes.size:
            return np.split(order, range(self.batch_size, len(order), self.batch_size))
        batches: list[list[int]] = []
        next_open: list[int] = []  # of each batch, one that is not before its first successor with room
        free_from = np.zeros(self._distinct, np.int64).tolist()  # the first batch behind all with this sentence

        def with_room(batch: int) -> int:
            first = batch
            while batch < len(next_open) and next_open[batch] != batch:
                batch = next_open[batch]
            while first < batch:  # shorten the way for the next one
                next_open[first], first = batch, next_open[first]
            return batch

        codes = self._codes.tolist()
        for item in order.tolist():
            batch = with_room(max(free_from[code] for code in codes[item]))
            if batch == len(batches):
                batches.append([])
                next_open.append(batch)
            batches[batch].append(item)
            for code in codes[item]:
                free_from[code] = batch + 1
            if len(batches[batch]) == self.batch_size:
                next_open[batch] = batch + 1
        return [np.array(batch, np.int64) for batch in batches]


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """0 … n - 1 in the order of 64-bit draws, one for each: Philox4x32-10, counter (epoch, site, item, 0)."""
    item = np.arange(n, dtype=np.uint64)
    words = philox((epoch & 0xFFFFFFFF, _SITE, item & np.uint64(0xFFFFFFFF), item >> np.uint64(32)), seed)
    return np.argsort(words[0] << np.uint64(32) | words[1], kind="stable")


def philox(counter, seed: int) -> tuple[np.ndarray, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011) of counters that broadcast: four arrays of 32-bit words, as uint64."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in counter))
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1 = second >> half ^ c1 ^ np.uint64(k0), second & low
        c2, c3 = first >> half ^ c3 ^ np.uint64(k1), first & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3
