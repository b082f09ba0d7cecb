"""An STS task pair by pair: gold scores against cosines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sentpool.plotting.colours import COLOURS
from sentpool.plotting.figure import axes_or_new, model_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sentpool.evaluation.report import STSResult


def sts_scatter(
    result: STSResult, task: str | None = None, ax: Axes | None = None, *, subset: str | None = None
) -> Axes:
    """Every pair of a task: its gold score and its cosine, and the mean cosine at each whole gold score.

    Parameters
    ----------
    result : STSResult
        With the scores of pairs.
    task : str, optional
        By default the first.
    ax : matplotlib Axes, optional
        By default those of a new figure.
    subset : str, optional
        Only this subset of the task.

    Returns
    -------
    Axes

    Raises
    ------
    ImportError
        matplotlib is not installed.
    KeyError
        No such task or subset.
    ValueError
        The result was saved without the scores of pairs.
    """
    task = next(iter(result)) if task is None else task
    gold, cosines = result.gold(task, subset), result.scores(task, subset)
    spearman = result[task].subsets[subset].spearman if subset else result.spearman(task)
    ax = axes_or_new(ax)
    # Fainter the more there are, so that crowds show.
    alpha = float(np.clip(60 / np.sqrt(len(gold)) / 10, 0.12, 0.8))
    ax.scatter(gold, cosines, s=12, color=COLOURS[0], alpha=alpha, linewidths=0)
    ax.scatter([], [], s=12, color=COLOURS[0], label=f"{len(gold):,} pairs")  # one that a legend shows
    bins = np.rint(gold)
    places = [place for place in np.unique(bins) if (bins == place).sum() >= 5]
    means = [cosines[bins == place].mean() for place in places]
    ax.plot(places, means, color=COLOURS[1], marker="D", markersize=6, label="mean cosine around a whole score")
    name = f"{task} {subset}" if subset else task
    ax.set(
        xlabel="gold score",
        ylabel="cosine similarity",
        title=f"{model_name(result)}, {name}: Spearman ×100 = {100 * spearman:.2f}",
    )
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    return ax
