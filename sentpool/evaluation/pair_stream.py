"""Which pairs are to be compared and in what order, so that few sentences wait for their partners at any time."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sentpool.evaluation.similarity_data import Task


@dataclass(frozen=True)
class PairStream:
    """The distinct sentences and pairs of some tasks, in the order in which they are encoded and compared.

    A pair is compared once, when the later of its sentences arrives; that sentence's cosine with the other is the same
    number in either direction. A sentence is needed until its last pair has been compared.

    Attributes
    ----------
    sentences : list of str
    earlier, later : ndarray, int64, shape (D,)
        The two sentences of each distinct pair, as indices into `sentences`, earlier <= later; ascending in `later`.
    needed_until : ndarray, int64, shape (len(sentences),)
        For each sentence the last one with which it makes a pair.
    places : dict of str to list of ndarray
        For each task and subset, which distinct pair every line is.
    """

    sentences: list[str]
    earlier: np.ndarray
    later: np.ndarray
    needed_until: np.ndarray
    places: dict[str, list[np.ndarray]]

    @classmethod
    def of(cls, tasks: Iterable[Task]) -> PairStream:
        """The stream of all pairs of the tasks."""
        numbers: dict[str, int] = {}
        pairs: dict[tuple[int, int], int] = {}
        places: dict[str, list[np.ndarray]] = {}
        for task in tasks:
            places[task.name] = []
            for subset in task.subsets:
                lines = []
                for texts in zip(subset.first, subset.second, strict=True):
                    a, b = (numbers.setdefault(text, len(numbers)) for text in texts)
                    lines.append(pairs.setdefault((min(a, b), max(a, b)), len(pairs)))
                places[task.name].append(np.array(lines, dtype=np.int64))
        order = _with_few_waiting(len(numbers), pairs)
        texts = list(numbers)
        ends = np.sort(_inverse(order)[np.array(list(pairs), dtype=np.int64).reshape(-1, 2)], axis=1)
        by_arrival = np.argsort(ends[:, 1], kind="stable")
        earlier, later = ends[by_arrival].T
        needed_until = np.arange(len(order))
        np.maximum.at(needed_until, earlier, later)
        rank = _inverse(by_arrival)
        return cls(
            [texts[number] for number in order],
            np.ascontiguousarray(earlier),
            np.ascontiguousarray(later),
            needed_until,
            {task: [rank[lines] for lines in subsets] for task, subsets in places.items()},
        )


def _with_few_waiting(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """An order of the sentences 0 … count - 1: next comes a partner of those before that leaves the fewest pairs open.

    This is King's heuristic for a small wavefront. In order of appearance more than a thousand of the STS
    sentences would wait at a time, those of SICK above all, whose pairs are spread over three files.
    """
    partners: list[list[int]] = [[] for _ in range(count)]
    for a, b in pairs:
        if a != b:
            partners[a].append(b)
            partners[b].append(a)
    open_pairs = [len(some) for some in partners]
    placed = [False] * count
    order: list[int] = []
    for start in range(count):
        candidates = [(open_pairs[start], start)]
        while candidates:
            _, sentence = heapq.heappop(candidates)
            if placed[sentence]:
                continue
            placed[sentence] = True
            order.append(sentence)
            for partner in partners[sentence]:
                open_pairs[partner] -= 1
                if not placed[partner]:  # an older entry of it sorts behind this one
                    heapq.heappush(candidates, (open_pairs[partner], partner))
    return order


def _inverse(order) -> np.ndarray:
    inverse = np.empty(len(order), dtype=np.int64)
    inverse[order] = np.arange(len(order))
    return inverse
