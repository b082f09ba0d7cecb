"""Measures of every layer's token states, text by text: no states of many texts are held."""

from __future__ import annotations

import contextlib
import math

import numpy as np

from sentpool.checks import positive_integer
from sentpool.errors import warn
from sentpool.evaluation.layer_measures import (
    curvature,
    dataset_entropy,
    infonce,
    largest_entropy,
    lidar,
    prompt_entropy,
    unit_states,
)
from sentpool.evaluation.measures import LAYER
from sentpool.progress import progress_bar


def checked_views(views) -> int:
    """How many dropout views: 0, or at least 2.

    Raises
    ------
    TypeError, ValueError
    """
    if views == 0 and not isinstance(views, bool):
        return 0
    if positive_integer("views", views) < 2:
        raise ValueError("views is 1; it must be at least 2, or 0 for neither InfoNCE nor LiDAR")
    return int(views)


def measure_layers(
    model, sentences: list[str], views: int, *, batch_size: int, threads: int | None, show_progress_bar: bool | None
) -> list[dict]:
    """The measures `LAYER` of layers 0 … L.

    Parameters
    ----------
    model : SentenceEncoder
    sentences : list of str
    views : int
        Passes with dropout, by the seeds 0 … views - 1; with 0, or for a model without dropout, InfoNCE and LiDAR are
        nan.
    batch_size, threads, show_progress_bar
        As in `SentenceEncoder.encode`.

    Returns
    -------
    list of dict
        "layer" and the names of `LAYER`.

    Warns
    -----
    SentpoolWarning
        If config.json has no dropout.
    """
    options = {
        "batch_size": batch_size,
        "threads": threads,
        "show_progress_bar": show_progress_bar,
        "one_by_one": True,
    }
    means, of_texts = _undisturbed(model, sentences, options)
    rows = []
    for layer, of_layer in enumerate(of_texts):
        spread = dataset_entropy(means[:, layer])
        of_layer["dataset_entropy"] = spread
        of_layer["dataset_entropy_scaled"] = spread / largest_entropy(*means[:, layer].shape)
        rows.append({"layer": layer} | {name: of_layer.get(name, math.nan) for name in LAYER})
    if views and not any(model.folder.config.dropout):
        warn("config.json has no dropout, so all views of a text are equal: neither InfoNCE nor LiDAR is measured")
    elif views:
        _add_views(rows, model, sentences, views, options)
    return rows


def _undisturbed(model, sentences: list[str], options: dict) -> tuple[np.ndarray, list[dict]]:
    """From a pass without dropout: each text's mean unit state (n, L + 1, H), and each layer's means over the texts."""
    means = _room(model, sentences)
    entropies, scaled, curvatures = (np.empty((len(sentences), model.n_layers + 1)) for _ in range(3))
    for i, states in enumerate(_unit_states(model, sentences, options)):
        entropies[i] = prompt_entropy(states)
        # A single token's entropy is 0 of at most 0.
        scaled[i] = entropies[i] / (largest_entropy(*states.shape[1:]) or 1.0)
        curvatures[i] = curvature(states)
        means[i] = states.mean(axis=1)
    turning = ~np.isnan(curvatures)
    count = turning.sum(axis=0)
    total = np.where(turning, curvatures, 0.0).sum(axis=0)
    return means, [
        {
            "prompt_entropy": float(entropies[:, layer].mean()),
            "prompt_entropy_scaled": float(scaled[:, layer].mean()),
            "curvature": float(total[layer] / count[layer]) if count[layer] else math.nan,
        }
        for layer in range(model.n_layers + 1)
    ]


def _add_views(rows: list[dict], model, sentences: list[str], views: int, options: dict) -> None:
    """Add InfoNCE, of the first two views, and LiDAR."""
    means = []
    for seed in range(views):
        means.append(_room(model, sentences))
        for i, states in enumerate(_unit_states(model, sentences, options, dropout=model._dropout(seed))):
            means[seed][i] = states.mean(axis=1)
    bar = progress_bar(len(rows), "Comparing views", "layers", options["show_progress_bar"])
    with contextlib.closing(bar) if bar is not None else contextlib.nullcontext():
        for layer, row in enumerate(rows):
            of_layer = np.stack([view[:, layer] for view in means], axis=1)
            row["infonce"] = infonce(of_layer[:, 0], of_layer[:, 1])
            row["lidar"] = lidar(of_layer)
            if bar is not None:
                bar.update()


def _unit_states(model, sentences: list[str], options: dict, dropout=None):
    run = model._run(sentences, dropout=dropout, **options)
    with contextlib.closing(run.each_hidden_states()) as each:
        for states in each:
            yield unit_states(states)


def _room(model, sentences: list[str]) -> np.ndarray:
    return np.empty((len(sentences), model.n_layers + 1, model.hidden_size), np.float32)
