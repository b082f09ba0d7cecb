"""Plots of a geometry: spectra, the plane of alignment and uniformity, measures over layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sentpool.errors import shown
from sentpool.plotting.colours import GRADIENT, series
from sentpool.plotting.figure import axes_or_new, matplotlib_module, model_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sentpool.evaluation.geometry_result import GeometryResult
    from sentpool.evaluation.layer_ranking import LayersResult


def spectrum(result: GeometryResult, ax: Axes | None = None, *, tokens: str | None = None, after: str = "") -> Axes:
    """The singular values of every single layer of one token pooling, each divided by the largest; log scale.

    Parameters
    ----------
    result : GeometryResult
    ax : matplotlib Axes, optional
        By default those of a new figure.
    tokens : str, optional
        By default the first; for a result without layers, its own vectors are shown.
    after : str
        Which step, as in ``result.rows``.

    Returns
    -------
    Axes

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        The result holds no spectra, or none of these.
    """
    if not result.spectra:
        raise ValueError("this result holds no spectra: it was saved without them; save(path, spectra=True)")
    singles = result.single_tokens()
    tokens = tokens or next(iter(singles), result.own["tokens"])
    found = [
        (row["layers"], values)
        for row, values in zip(result.rows, result.spectra, strict=True)
        if (row["tokens"], row["after"]) == (tokens, after)
        and (isinstance(row["layers"], int) or not singles)
        and len(values)
        and values[0] > 0
    ]
    if not found:
        raise ValueError(f"no spectrum for tokens={shown(tokens)}, after={shown(after)}; token poolings: {singles}")
    ax = axes_or_new(ax)
    colours = matplotlib_module("pyplot").get_cmap(GRADIENT)(np.linspace(0, 0.92, len(found)))
    for (layers, values), colour in zip(found, colours, strict=True):
        visible = values[values > values[0] * np.finfo(np.float32).eps]  # below is but rounding
        label = f"layer {layers}" if singles else layers
        ax.plot(range(1, len(visible) + 1), visible / values[0], color=colour, linewidth=1.5, label=label)
    ax.set_yscale("log")
    ax.set(
        xlabel="rank of the singular value",
        ylabel="singular value / largest",
        title=", ".join(filter(None, (_model(result), tokens, after and f"after {after}"))) + ": spectra",
    )
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize="small", ncols=1 + (len(found) > 8))
    return ax


def alignment_uniformity(results, ax: Axes | None = None, *, after: str = "") -> Axes:
    """The plane of Wang & Isola: every single layer of every token pooling, joined in order, and the model's own.

    Lower is better on both axes: good spaces lie at the lower left.

    Parameters
    ----------
    results : GeometryResult or mapping of str to GeometryResult
        Several models, by the names to be shown; of several, only the vectors that each result calls its own.
    ax : matplotlib Axes, optional
        By default those of a new figure.
    after : str
        Which step, as in ``result.rows``.

    Returns
    -------
    Axes

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        A result has no alignment, for want of positive pairs.
    """
    several = hasattr(results, "items")
    groups = _own_points(results, after) if several else _layer_points(results, after)
    if not groups:
        raise ValueError("nothing has an alignment here: geometry needs pairs with high gold scores, or positives=…")
    ax = axes_or_new(ax)
    for (name, points), (colour, mark) in zip(groups.items(), series(), strict=False):
        _, x, y = zip(*points, strict=True)
        # A point of its own may lie on a layer's: hollow and larger, both are seen.
        look = {"markersize": 11, "markerfacecolor": "none", "linewidth": 0} if len(points) == 1 else {"linewidth": 1}
        ax.plot(x, y, color=colour, marker=mark, label=name, **look)
    ax.margins(0.08)
    _label_points(ax, [point for points in groups.values() if len(points) > 1 for point in points])
    title = "alignment and uniformity" if several else f"{_model(results)}: alignment and uniformity of each layer"
    ax.set(xlabel="uniformity (lower: more even)", ylabel="alignment (lower: closer pairs)", title=title)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize="small")
    return ax


def measure_over_layers(
    result: GeometryResult | LayersResult, measure: str = "uniformity", ax: Axes | None = None
) -> Axes:
    """One measure of every single layer, a line for each token pooling.

    Parameters
    ----------
    result : GeometryResult or LayersResult
    measure : str
        A column of ``result.rows`` or ``result.layer_rows``; of a LayersResult also "score".
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
        An unknown measure, or one that the result does not have.
    """
    from sentpool.evaluation.measures import LAYER, MEASURES

    tokens = result.tokens if hasattr(result, "tokens") else result.single_tokens()
    lines = {name: result.over_layers(measure, name) for name in (tokens[:1] if measure in LAYER else tokens)}
    if not lines:
        raise ValueError("the result has no single layers")
    ax = axes_or_new(ax)
    for (name, (layers, values)), (colour, mark) in zip(lines.items(), series(), strict=False):
        scale = 100 if measure == "score" else 1
        ax.plot(layers, scale * values, color=colour, marker=mark, markersize=5, label=name)
    label = "Spearman ×100" if measure == "score" else MEASURES[measure].label
    ax.set(xlabel="layer", ylabel=label, title=f"{_model(result)}: {label}")
    ax.set_xticks(next(iter(lines.values()))[0])
    ax.grid(alpha=0.3)
    if measure not in LAYER:
        ax.legend(frameon=False, fontsize="small")
    return ax


def geometry_figure(result: GeometryResult | LayersResult) -> Figure:
    """A figure, without pyplot, of all measures over the layers; with spectra and plane where the result has them."""
    from sentpool.evaluation.measures import MEASURES

    names = [name for name in ("score", *MEASURES) if _has(result, name) and not name.endswith(("_scaled", "_centred"))]
    spectra = bool(getattr(result, "spectra", None))
    plane = hasattr(result, "own") and bool(_layer_points(result, ""))
    panels = len(names) + spectra + plane
    columns = min(3, panels) or 1
    figure = matplotlib_module("figure").Figure(
        figsize=(5.2 * columns, 3.9 * max(1, math.ceil(panels / columns))), layout="constrained"
    )
    axes = iter(figure.subplots(math.ceil(panels / columns) or 1, columns, squeeze=False).flat)
    if plane:
        alignment_uniformity(result, next(axes)).set_title("alignment and uniformity")
    if spectra:
        spectrum(result, next(axes)).set_title("spectra")
    for name in names:
        measure_over_layers(result, name, next(axes)).set_title("")
    for ax in axes:
        ax.set_axis_off()
    figure.suptitle(f"Geometry of {_model(result)}")
    return figure


def _label_points(ax: Axes, points: list[tuple[str, float, float]]) -> None:
    """Write labels beside points, on a side where there is neither point nor label; where there is none, no label."""
    places = ax.transData.transform([(x, y) for _, x, y in points]) * 72 / ax.figure.dpi if points else []
    labels: list[np.ndarray] = []
    for k, (label, x, y) in enumerate(points):
        taken = [*places[:k], *places[k + 1 :], *labels]
        for across, up in ((9, 8), (-9, 8), (9, -8), (-9, -8)):
            middle = places[k] + (across, up)
            if all(np.abs(middle - other).max() > 10 for other in taken):
                ax.annotate(
                    label, (x, y), (across, up), textcoords="offset points", ha="center", va="center", fontsize="small"
                )
                labels.append(middle)
                break


def _has(result, measure: str) -> bool:
    """Whether a measure has a number for any single layer."""
    try:
        return not np.isnan(result.over_layers(measure)[1]).all()
    except ValueError:
        return False


def _layer_points(result: GeometryResult, after: str) -> dict[str, list[tuple[str, float, float]]]:
    """(layer, uniformity, alignment) by token pooling; the poolings that are no single layer, each by itself."""
    groups: dict[str, list[tuple[str, float, float]]] = {}
    for row in result.rows:
        if row["after"] == after and not math.isnan(row["alignment"] + row["uniformity"]):
            alone = not isinstance(row["layers"], int)
            name = "own pooling" if row["layers"] == "model" else row["layers"] if alone else row["tokens"]
            groups.setdefault(name, []).append((str(row["layers"]), row["uniformity"], row["alignment"]))
    return groups


def _own_points(results, after: str) -> dict[str, list[tuple[str, float, float]]]:
    groups = {}
    for name, result in results.items():
        row = result.at(result.own["layers"], result.own["tokens"], after)
        if not math.isnan(row["alignment"] + row["uniformity"]):
            groups[name] = [(name, row["uniformity"], row["alignment"])]
    return groups


def _model(result) -> str:
    return model_name(result, "embeddings")
