"""What a probe found: the layers' scores, and the weights that an attention gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentpool.errors import shown
from sentpool.plotting.figure import axes_or_new, matplotlib_module, model_name, write_in_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sentpool.evaluation.probe_result import ProbeResult


def layer_heat_map(
    result: ProbeResult, tokens: str = "mean", ax: Axes | None = None, *, aggregation: str = "all"
) -> Axes:
    """The single layers of one token pooling: layer × task, each cell with its Spearman ×100.

    Parameters
    ----------
    result : ProbeResult
    tokens : str, default "mean"
    ax : matplotlib Axes, optional
        By default those of a new figure.
    aggregation : {"all", "mean", "wmean"}

    Returns
    -------
    Axes

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        The result has no single layers of `tokens`.
    """
    layers, tasks, scores = result.layer_scores(tokens, aggregation)
    ax = axes_or_new(ax)
    image = ax.imshow(100 * scores, aspect="auto", cmap="viridis", origin="lower")
    write_in_cells(image, 100 * scores, digits=1)
    ax.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
    ax.set_yticks(range(len(layers)), layers)
    ax.set(ylabel="layer", title=f"{model_name(result)}, {tokens} of each layer: Spearman ×100 ({aggregation})")
    return ax


def layer_weights(result: ProbeResult, ax: Axes | None = None, *, pooling: str | None = None) -> Axes:
    """The attention that each layer gets: its mean over a task's sentences, with one standard deviation up and down.

    Parameters
    ----------
    result : ProbeResult
    ax : matplotlib Axes, optional
        By default those of a new figure.
    pooling : str, optional
        Which, where the result has several.

    Returns
    -------
    Axes

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        No pooling was probed that weighs the layers of each sentence, or none of this name.
    """
    name, by_task = _weights_of(result, pooling)
    ax = axes_or_new(ax)
    for k, (task, weights) in enumerate(by_task.items()):
        # Side by side, so that no spread hides another.
        shift = 0.5 * ((k + 0.5) / len(by_task) - 0.5)
        places = [layer + shift for layer in range(len(weights["mean"]))]
        ax.errorbar(places, weights["mean"], weights["sd"], fmt="o", markersize=4, capsize=2, label=task)
    ax.set_xticks(range(len(weights["mean"])))
    ax.set(xlabel="layer", ylabel="mean attention ± sd", title=f"{model_name(result)}, {name}: weights of the layers")
    ax.legend(frameon=False, fontsize="small")
    return ax


def probe_figure(result: ProbeResult) -> Figure:
    """A figure, without pyplot, of what a probe found: a heat map of one token pooling, then any layer weights."""
    figures = matplotlib_module("figure")
    singles = [row["tokens"] for row in result.rows if isinstance(row["layers"], int)]
    tokens = "mean" if "mean" in singles or not singles else singles[0]
    panels = 1 + len(result.layer_weights)
    layers = max(6, len({row["layers"] for row in result.rows if isinstance(row["layers"], int)}))
    figure = figures.Figure(
        figsize=(max(6, 3 + len(result.tasks)), panels * (1.5 + 0.4 * layers)), layout="constrained"
    )
    axes = figure.subplots(panels, squeeze=False)[:, 0]
    layer_heat_map(result, tokens, axes[0])
    for ax, name in zip(axes[1:], result.layer_weights, strict=True):
        layer_weights(result, ax, pooling=name)
    return figure


def _weights_of(result: ProbeResult, pooling: str | None) -> tuple[str, dict]:
    names = list(result.layer_weights)
    if not names:
        raise ValueError(
            "no pooling was probed that weighs the layers of each sentence: probe a model that has LayerAttention, or "
            "pass poolings=LayerAttention(…)"
        )
    if pooling is None and len(names) > 1 or pooling is not None and pooling not in names:
        raise ValueError(f"pooling is {shown(pooling)}; this result has layer weights of {', '.join(names)}: name one")
    name = names[0] if pooling is None else pooling
    return name, result.layer_weights[name]
