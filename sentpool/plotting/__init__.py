"""Plots of results. Functions take `ax`, return Axes and never show anything; matplotlib is the extra `plot`."""

from sentpool.plotting.figure import check_format, save
from sentpool.plotting.geometry import alignment_uniformity, geometry_figure, measure_over_layers, spectrum
from sentpool.plotting.probe import layer_heat_map, layer_weights, probe_figure
from sentpool.plotting.similarity import similarity_matrix
from sentpool.plotting.sts import sts_scatter
from sentpool.plotting.training import (
    training_figure,
    training_layer_weights,
    training_loss,
    training_scores,
    training_space,
)

__all__ = [
    "alignment_uniformity",
    "check_format",
    "geometry_figure",
    "layer_heat_map",
    "layer_weights",
    "measure_over_layers",
    "probe_figure",
    "save",
    "similarity_matrix",
    "spectrum",
    "sts_scatter",
    "training_figure",
    "training_layer_weights",
    "training_loss",
    "training_scores",
    "training_space",
]
