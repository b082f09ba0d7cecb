"""The bundled pairs: enough of them, well formed, spread over the scale, each sentence once."""

from __future__ import annotations

from collections import Counter

import pytest

from sentpool import SentenceEncoder, evaluation
from sentpool.evaluation.similarity_data import read_tasks

STEPS = {0, 20, 40, 50, 60, 80}  # hundredths of a score


@pytest.fixture(scope="module")
def sample():
    return read_tasks(evaluation.sample_folder()).tasks["sample"]


def test_size_and_subsets(sample):
    assert [pairs.name for pairs in sample.subsets] == ["captions", "headlines", "instructions", "questions"]
    assert [len(pairs.gold) for pairs in sample.subsets] == [50, 50, 50, 50]


def test_scores_are_spread_evenly(sample):
    for pairs in sample.subsets:
        assert pairs.gold.min() == 0
        assert pairs.gold.max() == 5
        assert {round(100 * gold) % 100 for gold in pairs.gold} <= STEPS
        bands = Counter(min(int(gold), 4) for gold in pairs.gold)
        assert all(8 <= bands[band] <= 12 for band in range(5)), (pairs.name, bands)


def test_no_sentence_is_there_twice(sample):
    sentences = [sentence for pairs in sample.subsets for sentence in (*pairs.first, *pairs.second)]
    assert len({sentence.lower() for sentence in sentences}) == len(sentences) == 400


def test_a_good_model_agrees_with_the_scores(minilm):
    result = evaluation.sts(SentenceEncoder(minilm), evaluation.sample_folder())
    assert result.spearman("sample") > 0.75
    assert min(part.spearman for part in result["sample"].subsets.values()) > 0.65
