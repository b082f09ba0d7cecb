"""What happened in training: loss, scores, alignment and uniformity, weights of the layers over the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sentpool.plotting.colours import GRADIENT
from sentpool.plotting.figure import axes_or_new, matplotlib_module

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sentpool.training.history import History

# Steps that the smooth line of a loss averages, of all.
_SMOOTHED_PART = 0.05


def training_loss(history: History, ax: Axes | None = None) -> Axes:
    """The loss of every step, and its running mean over a twentieth of them.

    Parameters
    ----------
    history : History
    ax : matplotlib Axes, optional
        By default those of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        There are no steps.
    """
    if not history.log:
        raise ValueError("the history has no steps to plot")
    steps, losses = _columns(history.log, "step", "loss")
    ax = axes_or_new(ax)
    ax.plot(steps, losses, linewidth=0.8, alpha=0.4, label="each step")
    width = max(1, round(_SMOOTHED_PART * len(steps)))
    if width > 1:
        means = np.lib.stride_tricks.sliding_window_view(losses, width).mean(axis=1)
        ax.plot(steps[width - 1 :], means, label=f"mean of {width} steps")
        ax.legend(frameon=False, fontsize="small")
    ax.set(xlabel="step", ylabel="loss", title="training loss")
    ax.grid(alpha=0.3)
    return ax


def training_scores(history: History, ax: Axes | None = None) -> Axes:
    """The score of every evaluation, and where the best one is.

    Parameters, errors as `training_loss`.
    """
    _require(history, "score")
    steps, scores = _columns(history.evaluations, "step", "score")
    ax = axes_or_new(ax)
    ax.plot(steps, 100 * scores, marker="o", markersize=4)
    if history.best:
        ax.plot(history.best["step"], 100 * history.best["score"], "*", markersize=13, label="best")
        ax.legend(frameon=False, fontsize="small")
    ax.set(xlabel="step", ylabel="score ×100", title="development score")
    ax.grid(alpha=0.3)
    return ax


def training_space(history: History, ax: Axes | None = None) -> Axes:
    """The way through the plane of alignment and uniformity (Wang & Isola 2020), a mark per evaluation.

    Parameters, errors as `training_loss`.
    """
    rows = _require(history, "alignment")
    steps, x, y = _columns(rows, "step", "uniformity", "alignment")
    ax = axes_or_new(ax)
    ax.plot(x, y, linewidth=0.8, color="grey")
    marks = ax.scatter(x, y, c=steps, cmap=GRADIENT, zorder=3)
    ax.figure.colorbar(marks, ax=ax, label="step")
    ax.set(
        xlabel="uniformity (lower: more even)",
        ylabel="alignment (lower: closer pairs)",
        title="alignment and uniformity",
    )
    ax.grid(alpha=0.3)
    return ax


def training_layer_weights(history: History, ax: Axes | None = None) -> Axes:
    """The mean weight of every layer over the steps, a line per layer.

    Parameters, errors as `training_loss`.
    """
    rows = _require(history, "layer_weights")
    (steps,) = _columns(rows, "step")
    weights = np.array([row["layer_weights"] for row in rows])
    ax = axes_or_new(ax)
    colours = matplotlib_module("cm").ScalarMappable(cmap=GRADIENT).to_rgba(np.arange(weights.shape[1]))
    for layer, colour in enumerate(colours):
        ax.plot(steps, weights[:, layer], color=colour, label=f"layer {layer}")
    ax.set(xlabel="step", ylabel="mean weight", title="weights of the layers")
    ax.legend(frameon=False, fontsize="small", ncols=1 + weights.shape[1] // 8)
    ax.grid(alpha=0.3)
    return ax


def training_figure(history: History) -> Figure:
    """A figure, without pyplot, of all that the history has."""
    draw = [training_loss]
    draw += [training_scores] * _has(history, "score")
    draw += [training_space] * _has(history, "alignment")
    draw += [training_layer_weights] * _has(history, "layer_weights")
    columns = min(2, len(draw))
    rows = -(-len(draw) // columns)
    figure = matplotlib_module("figure").Figure(figsize=(6 * columns, 4.2 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for function, ax in zip(draw, axes, strict=False):
        function(history, ax)
    for ax in axes[len(draw) :]:
        ax.set_axis_off()
    return figure


def _columns(rows: list[dict], *names: str) -> tuple[np.ndarray, ...]:
    return tuple(np.array([row[name] for row in rows], float) for name in names)


def _has(history: History, name: str) -> bool:
    return any(name in row for row in history.evaluations)


def _require(history: History, name: str) -> list[dict]:
    rows = [row for row in history.evaluations if name in row]
    if not rows:
        raise ValueError(f"the history has no {name.replace('_', ' ')}: train with eval_data=… that gives it")
    return rows
