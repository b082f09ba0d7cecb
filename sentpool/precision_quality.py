"""What a precision costs, as a model says it and as its folder keeps it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sentpool.fields import Fields


@dataclass(frozen=True)
class Quality:
    """What a precision costs: cosines of embeddings to those in float32, and STS scores if they were asked for.

    Attributes
    ----------
    sentences : str
        On which sentences it was measured.
    n : int
        How many they are.
    pooling : str
        By what they were pooled.
    cosine_min, cosine_1_percent, cosine_mean : float
        The lowest cosine, that which one sentence in a hundred stays below, and the mean.
    sts : dict of str to (float, float) or None
        For every task Spearman × 100 (`all`) in float32 and in this precision.
    """

    sentences: str
    n: int
    pooling: str
    cosine_min: float
    cosine_1_percent: float
    cosine_mean: float
    sts: dict[str, tuple[float, float]] | None = None

    def __str__(self) -> str:
        text = (
            f"cosine to float32 on {self.n:,} sentence{'s' * (self.n != 1)} ({self.sentences}; {self.pooling}): lowest "
            f"{self.cosine_min:.5f}, 1 % below {self.cosine_1_percent:.5f}, mean {self.cosine_mean:.5f}"
        )
        if self.sts:
            gaps = ", ".join(f"{task} {low - high:+.2f}" for task, (high, low) in self.sts.items())
            text += f"; Spearman × 100 against float32: {gaps}"
        return text


def measure(embeddings: np.ndarray, reference: np.ndarray, sentences: str, pooling: str) -> Quality:
    """The Quality of embeddings (n, d) beside those of float32."""
    a, b = embeddings.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(1) / np.where(lengths > 0, lengths, 1)
    lowest, one_percent, mean = cosines.min(), np.quantile(cosines, 0.01), cosines.mean()
    return Quality(sentences, len(a), pooling, float(lowest), float(one_percent), float(mean))


def read_quality(fields: Fields) -> Quality:
    """What was written of a Quality.

    Raises
    ------
    ModelFolderError
        If a field is missing or is not what sentpool writes.
    """
    cosines = [
        fields.number(name, minimum=-1.01, below=1.01) for name in ("cosine_min", "cosine_1_percent", "cosine_mean")
    ]
    sts = None
    if fields.has("sts"):
        scores = fields.object("sts")
        sts = {task: _pair(scores, task) for task in scores.values}
    return Quality(
        fields.string("sentences"), fields.integer("n", maximum=2**31 - 1), fields.string("pooling"), *cosines, sts=sts
    )


def _pair(scores: Fields, task: str) -> tuple[float, float]:
    pair = scores.values[task]
    if type(pair) is not list or len(pair) != 2 or not all(type(score) is float for score in pair):
        raise scores.error(task, "Spearman × 100 in float32 and in this precision")
    return pair[0], pair[1]
