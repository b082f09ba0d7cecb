"""Resamples, intervals and tests: against sorting, SciPy, published values and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sentpool import evaluation
from sentpool.evaluation.resampling import Ranks, correlation_replicates, draws, mean_replicates
from sentpool.evaluation.significance import (
    Bootstrap,
    bootstrap_p,
    holm,
    percentile_interval,
    student_p,
    williams,
)

stats = pytest.importorskip("scipy.stats")


def a_bootstrap(resamples=200, seed=0):
    return Bootstrap(resamples, seed, 0.95)


def all_draws(sizes, bootstrap, stream=0):
    """Counts of every resample, one array per stratum."""
    return [np.concatenate(blocks) for blocks in zip(*draws(sizes, bootstrap, stream), strict=True)]


def items_of(counts):
    return np.repeat(np.arange(len(counts)), counts)


def test_draws_are_whole_resamples_with_replacement():
    first, second = all_draws([7, 300], a_bootstrap(4000))
    assert first.shape == (4000, 7)
    assert (first.sum(axis=1) == 7).all()
    assert (second.sum(axis=1) == 300).all()
    # Each item's count is binomial (size, 1/size): 4,000 of them have a mean within 5 standard errors of 1.
    assert np.abs(first.mean(axis=0) - 1).max() < 5 * math.sqrt(6 / 7 / 4000)
    assert np.abs(first.var() - 6 / 7) < 0.05
    assert np.corrcoef(first[:, 0], second[:, 0])[0, 1] == pytest.approx(0, abs=0.08)


def test_draws_depend_on_seed_and_stream_alone(monkeypatch):
    once = all_draws([50], a_bootstrap())[0]
    monkeypatch.setattr("sentpool.evaluation.resampling._BLOCK_ITEMS", 170)
    assert np.array_equal(all_draws([50], a_bootstrap())[0], once)
    assert not np.array_equal(all_draws([50], a_bootstrap(seed=1))[0], once)
    assert not np.array_equal(all_draws([50], a_bootstrap(), stream=1)[0], once)


def test_draws_are_those_of_philox_by_hand():
    """NumPy promises the raw sequence of Philox; item = floor(upper 32 bits * size / 2**32)."""
    raw = np.random.Philox(key=np.array([3, 5], dtype=np.uint64)).random_raw(200)
    items = [[(int(word) >> 32) * 2 >> 32 for word in raw[2 * row : 2 * row + 2]] for row in range(100)]
    (counts,) = all_draws([2], Bootstrap(100, 3, 0.95), stream=5)
    assert counts.tolist() == [[row.count(0), row.count(1)] for row in items]


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0, 2.0, 5.0, 1.0], [1.0], [2.0, 2.0], [0.5, -1.0, 7.0]])
def test_ranks_are_those_of_sorting_the_resample(values):
    values = np.array(values)
    (counts,) = all_draws([len(values)], a_bootstrap(100))
    for row, ranks in zip(counts, Ranks(values).of(counts), strict=True):
        items = items_of(row)
        expected = 2 * stats.rankdata(values[items]) - len(items) - 1
        assert ranks[items].tolist() == expected.tolist()


@pytest.mark.parametrize("coefficient", ["spearman", "pearson"])
def test_replicates_are_the_coefficients_of_resamples(coefficient):
    """SciPy on the drawn pairs themselves, aggregated by SentEval's rules, with ties in both lists."""
    generator = np.random.default_rng(4)
    golds = [generator.integers(0, 6, n).astype(float) for n in (20, 33, 9)]
    models = [[np.round(gold + generator.normal(size=len(gold)), k) for gold in golds] for k in (0, 9)]
    bootstrap = a_bootstrap(100)
    replicates = correlation_replicates(golds, models, coefficient, bootstrap, stream=2)
    assert replicates.shape == (2, 3, 100)
    counts = all_draws([20, 33, 9], bootstrap, stream=2)
    function = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[coefficient]
    for model, of_model in zip(models, replicates, strict=True):
        for k in range(100):
            drawn = [items_of(some[k]) for some in counts]
            pairs = [(gold[i], x[i]) for gold, x, i in zip(golds, model, drawn, strict=True)]
            parts = [function(*pair)[0] for pair in pairs]
            together = function(*(np.concatenate(side) for side in zip(*pairs, strict=True)))[0]
            expected = [together, np.mean(parts), np.average(parts, weights=[20, 33, 9])]
            assert of_model[:, k] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("coefficient", ["spearman", "pearson"])
def test_what_is_undefined_is_nan(coefficient):
    gold, constant = np.array([1.0, 2.0, 4.0]), np.full(3, 0.1)
    assert np.isnan(correlation_replicates([gold], [[constant]], coefficient, a_bootstrap(100))).all()
    some = correlation_replicates([gold], [[gold * 0.3]], coefficient, a_bootstrap(300))[0, 0]
    # One item drawn three times leaves nothing to correlate: 3 of 27 resamples; the others agree perfectly.
    assert np.isnan(some).mean() == pytest.approx(1 / 9, abs=0.06)
    assert some[~np.isnan(some)] == pytest.approx(1)
    assert percentile_interval(some, 0.95) == pytest.approx((1, 1))
    empty = correlation_replicates([np.empty(0)], [[np.empty(0)]], coefficient, a_bootstrap(100))
    assert np.isnan(empty).all()
    assert np.isnan(percentile_interval(empty[0, 0], 0.95)).all()
    assert math.isnan(bootstrap_p(empty[0, 0]))


def test_means_over_the_same_resamples():
    scores = np.random.default_rng(0).random((2, 12))
    (counts,) = all_draws([12], a_bootstrap())
    expected = [[one[items_of(row)].mean() for row in counts] for one in scores]
    assert mean_replicates(scores, a_bootstrap()) == pytest.approx(np.array(expected), abs=1e-14)


def test_p_is_where_the_interval_touches_zero():
    replicates = np.arange(-4.5, 95.5)  # 5 of 100 below 0
    assert bootstrap_p(replicates) == pytest.approx(2 * 6 / 101)
    assert percentile_interval(replicates, 1 - 0.13).low > 0 > percentile_interval(replicates, 1 - 0.08).low
    assert bootstrap_p(-replicates) == bootstrap_p(replicates)
    assert bootstrap_p(np.zeros(100)) == 1
    assert bootstrap_p(np.ones(999)) == pytest.approx(0.002)


@pytest.mark.parametrize(
    "r12, r13, r23, n, t, t_within, p, p_within",
    [
        # r.test of the R package psych, manual: "p < 0.1000759"
        (0.693458895410494, 0.695966022434845, 0.988475791500198, 5105, None, None, 0.1000759, 5e-8),
        # the same, Steiger's (1980) case A
        (0.4, 0.5, 0.1, 103, -0.89, 0.005, 0.37, 0.005),
        # cocor (Diedenhofen & Musch 2015), published outputs with r to four digits
        (0.5447, 0.8, 0.0729, 70, -2.8114, 5e-4, 0.0065, 5e-5),
        (0.8066, 0.2383, 0.2255, 177, 9.3823, 5e-3, 0.0, 5e-5),
        (-0.1741, 0.2015, 0.3734, 646, -9.0340, 5e-3, 0.0, 5e-5),
    ],
)
def test_williams_against_published_values(r12, r13, r23, n, t, t_within, p, p_within):
    result = williams(r12, r13, r23, n)
    assert result.df == n - 3
    if t is not None:
        assert result.t == pytest.approx(t, abs=t_within)
    assert result.p == pytest.approx(p, abs=p_within)
    assert williams(r13, r12, r23, n) == pytest.approx((-result.t, n - 3, result.p))


def test_williams_holds_its_level_under_the_null():
    """Two equally good normal predictors: p is uniform (Kolmogorov–Smirnov over 2,000 samples)."""
    generator = np.random.default_rng(11)
    root = np.linalg.cholesky(np.array([[1, 0.7, 0.7], [0.7, 1, 0.8], [0.7, 0.8, 1]]))
    found = []
    for _ in range(2000):
        r = np.corrcoef(root @ generator.normal(size=(3, 40)))
        found.append(williams(r[0, 1], r[0, 2], r[1, 2], 40).p)
    assert stats.kstest(found, "uniform").pvalue > 0.001
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.016)


def test_williams_at_the_edges():
    assert williams(0.5, 0.5, 0.9, 10) == (0, 7, 1)
    assert math.isnan(williams(math.nan, 0.5, 0.1, 10).p)
    with pytest.raises(ValueError, match="n is 3: Williams' test needs at least 4"):
        williams(0.1, 0.2, 0.3, 3)
    with pytest.raises(ValueError, match=r"r13 is 1\.2"):
        williams(0.1, 1.2, 0.3, 10)
    with pytest.raises(ValueError, match="no data have these"):
        williams(0.9, -0.9, 0.9, 10)


def test_student_p_is_scipys():
    generator = np.random.default_rng(2)
    for _ in range(2000):
        t, df = 10 ** generator.uniform(-8, 2), int(10 ** generator.uniform(0, 6))
        expected = 2 * stats.t.sf(t, df)
        if expected > 1e-200:
            assert student_p(-t, df) == pytest.approx(expected, rel=1e-8)
    assert student_p(0, 5) == 1


def test_holm_by_hand():
    # Sorted 0.005 0.01 0.03 0.04 times 4 3 2 1, never falling: 0.02 0.03 0.06 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([]).size == 0
    corrected = holm([0.02, math.nan, 0.5])
    assert corrected[[0, 2]] == pytest.approx([0.04, 0.5])
    assert math.isnan(corrected[1])


@pytest.mark.parametrize(
    "resamples, seed, confidence, error, message",
    [
        (50, 0, 0.95, ValueError, "resamples is 50"),
        (2.5, 0, 0.95, TypeError, "resamples must be a positive integer"),
        (1000, -1, 0.95, ValueError, "seed is -1"),
        (1000, 0, 95, ValueError, "confidence is 95"),
        (1000, 0, True, ValueError, "confidence is True"),
    ],
)
def test_arguments_of_the_bootstrap(resamples, seed, confidence, error, message):
    with pytest.raises(error, match=message):
        Bootstrap.checked(resamples, seed, confidence)


def normal_triples(n, generator):
    """Gold scores and two models' scores, jointly normal, and the true difference of Spearman's coefficients."""
    correlations = np.array([[1, 0.8, 0.75], [0.8, 1, 0.85], [0.75, 0.85, 1]])
    true = [6 / math.pi * math.asin(r / 2) for r in correlations[0, 1:]]
    return np.linalg.cholesky(correlations) @ generator.normal(size=(3, n)), true[0] - true[1]


def coverage(n, repetitions, resamples, kind):
    generator = np.random.default_rng(7)
    covered = 0
    for seed in range(repetitions):
        (gold, a, b), true = normal_triples(n, generator)
        bootstrap = a_bootstrap(resamples, seed)
        if kind == "spearman":
            replicates = correlation_replicates([gold], [[a], [b]], "spearman", bootstrap)[:, 0]
        else:
            # In [0, 1] with a third of them 0, as scores of queries are; both models are equally good on average.
            scores = np.maximum(0, 1.5 * stats.norm.cdf(np.stack([a, b])) - 0.5)
            replicates, true = mean_replicates(scores, bootstrap), 0.0
        low, high = percentile_interval(replicates[0] - replicates[1], 0.95)
        covered += low <= true <= high
    return covered / repetitions


@pytest.mark.parametrize("kind", ["spearman", "mean"])
def test_coverage_roughly(kind):
    assert 0.92 <= coverage(80, 300, 400, kind) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("kind", ["spearman", "mean"])
def test_95_percent_intervals_cover_93_to_97_percent(kind, n):
    assert 0.93 <= coverage(n, 1000, 1000, kind) <= 0.97


def test_sts_gives_every_number_its_interval(tmp_path):
    def embed(sentences):
        return np.array([[1 + len(s), s.count("e"), s.count("a")] for s in sentences], dtype=np.float32)

    result = evaluation.sts(embed, evaluation.sample_folder(), resamples=200, seed=5)
    name = next(iter(result))
    ((subset, (cosines, gold)),) = list(result.pairs[name].items())[:1]
    low, high = result.interval(name)
    assert low < result.spearman(name) < high
    assert result.to_frame().loc[name, ["spearman_all_low", "spearman_all_high"]].tolist() == [low, high]
    assert "95 % intervals (bootstrap, 200 resamples)" in repr(result)
    assert f"{100 * low:.2f}–{100 * high:.2f}" in repr(result)
    assert f"{100 * low:.2f}–{100 * high:.2f}" in result._repr_html_()
    again = evaluation.sts(embed, evaluation.sample_folder(), resamples=200, seed=5)
    assert again.intervals == result.intervals
    result.save(tmp_path / "x.json", scores=False)
    loaded = evaluation.STSResult.load(tmp_path / "x.json")
    assert loaded.intervals == result.intervals
    assert loaded.bootstrap == result.bootstrap == (200, 5, 0.95)
    assert repr(loaded) == repr(result)
    without = evaluation.sts(embed, evaluation.sample_folder(), resamples=0)
    assert "% intervals" not in repr(without)
    with pytest.raises(ValueError, match="made with resamples=0"):
        without.interval(name)
