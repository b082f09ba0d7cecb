"""Plots of results. Functions take `ax`, return Axes and never show anything; matplotlib is the extra `plot`."""

from sentpool.plotting.figure import check_format, save
from sentpool.plotting.probe import layer_heat_map, layer_weights, probe_figure

__all__ = ["check_format", "layer_heat_map", "layer_weights", "probe_figure", "save"]
