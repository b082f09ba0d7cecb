"""Where an encoder drops values in training, and with which probabilities."""

from __future__ import annotations

from typing import Any, NamedTuple


class Sites(NamedTuple):
    """One thing for every place where values are dropped, in the order of the core.

    Attributes
    ----------
    embedding
        The embedding output.
    attention
        Attention probabilities.
    attention_output
        What attention gives, before the residual.
    inner
        Inside the feed-forward, before its second projection.
    feed_forward
        What it gives, before the residual.
    """

    embedding: Any
    attention: Any
    attention_output: Any
    inner: Any
    feed_forward: Any


class Dropout(NamedTuple):
    """Dropout of a run: the probability at every place, and the seed of the masks."""

    rates: Sites
    seed: int
