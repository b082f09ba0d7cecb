"""A small model and data to probe, poolings of every kind, and what each row must equal."""

from __future__ import annotations

import math
import warnings

import numpy as np
from fabricate import sentence_transformers_folder

from sentpool import SentenceEncoder, SentpoolWarning, evaluation, pooling
from sentpool.pooling import Dense, LayerAttention, Layers, Normalize, Pooling, ScalarMix, WeightedLayer

L, H = 3, 24
WORDS = ["the", "cat", "dog", "sat", "on", "mat", "big", "small", "runs", "happy", "!", "b", "c", "unhappy"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def attention(seed=0):
    layers = LayerAttention(*(normal(H, H, seed=seed + s) for s in range(3)))
    return Pooling(layers, head=(Dense(normal(H, 2 * H, seed=9), normal(H), "tanh"),))


class Sharpened:
    """A pooling of a user's own."""

    tokens = ("mean", "last_token")

    def forward(self, states):
        return (states[:, -1, 0] * 2.0 + states[:, 0, 1].astype(np.float64))[:, :10]


def write_data(folder, seed=0):
    """Three subsets whose pairs share sentences, within a subset and across; some turned round, some twice."""
    rng = np.random.default_rng(seed)
    sentences = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(70)]
    pairs = [tuple(rng.choice(sentences, 2)) for _ in range(90)]
    pairs += [(b, a) for a, b in pairs[:7]] + pairs[20:25] + [(sentences[3], sentences[3])]
    order = rng.permutation(len(pairs))
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("one", order[:50]), ("two", order[50:80]), ("three", order[80:])):
        lines = "".join(f"{rng.uniform(0, 5):.1f}\t{pairs[k][0]}\t{pairs[k][1]}\n" for k in part)
        (folder / f"{name}.tsv").write_text(lines, encoding="utf-8")
    return folder


def new_model(folder):
    """Of L layers and hidden size H, its embeddings of length 1."""
    return SentenceEncoder(
        sentence_transformers_folder(folder, head=("Normalize",), num_hidden_layers=L, hidden_size=H)
    )


def sts(model, folder, chosen, tasks=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SentpoolWarning)  # constant cosines, as of [CLS] before the first layer
        return evaluation.sts(model, folder, tasks, pooling=chosen)


def assert_rows_are_those_of_sts(model, folder, result, poolings, tasks=None):
    """Each row to the last bit; `poolings` says what encode is told for which (tokens, layers)."""
    rows = {(row["tokens"], row["layers"], row["task"], row["aggregation"]): row for row in result.rows}
    assert len(rows) == len(result.rows)
    for (tokens, layers), chosen in poolings.items():
        for task, scores in sts(model, folder, chosen, tasks).items():
            for aggregation in ("all", "mean", "wmean"):
                row = rows.pop((tokens, layers, task, aggregation))
                assert row["pairs"] == scores.n
                for coefficient in ("spearman", "pearson"):
                    expected = getattr(getattr(scores, coefficient), aggregation)
                    found = row[coefficient]
                    assert found == expected or math.isnan(found) and math.isnan(expected), (tokens, layers, task)
    return rows


def every_single_layer(tokens=pooling.TOKEN_POOLINGS, layers=range(L + 1)):
    return {(token, layer): Pooling(Layers([layer], token)) for token in tokens for layer in layers}


AVERAGES = {"first_last": [1, -1], "embedding_last": [0, -1], "top2": [-2, -1], "all_layers": "all"}


def every_average(tokens=pooling.TOKEN_POOLINGS):
    return {(token, name): Pooling(Layers(layers, token)) for token in tokens for name, layers in AVERAGES.items()}


GIVEN = {
    ("mean", "scalar mix"): ScalarMix(normal(L + 1), gamma=1.7),
    ("mean+last_token", "weighted"): WeightedLayer([1.0, 0.5], layer_start=2, tokens=("mean", "last_token")),
    ("cls+mean", "attention"): attention(),
    ("mean+last_token", "own"): Sharpened(),
    ("max", "unit"): Pooling("max", head=(Normalize(),)),
    ("cls+max", "both"): ("cls", "max"),
}
