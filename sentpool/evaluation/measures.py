"""The one table of measures: how each is called, and which values its authors hold to be better."""

from __future__ import annotations

from typing import NamedTuple


class Measure(NamedTuple):
    """One measure.

    Attributes
    ----------
    label : str
        On an axis.
    heading : str
        In a table.
    digits : int
        Decimals in a table.
    better : {"higher", "lower", None}
        What the measure's authors take to be better; None where they take no side.
    """

    label: str
    heading: str
    digits: int
    better: str | None


SPACE = {
    "mean_cosine": Measure("mean cosine of distinct pairs", "mean cosine", 3, "lower"),
    "mean_cosine_centred": Measure("mean cosine of distinct pairs, mean removed", "centred", 3, None),
    "uniformity": Measure("uniformity", "uniformity", 3, "lower"),
    "alignment": Measure("alignment", "alignment", 3, "lower"),
    "effective_rank": Measure("effective rank", "eff. rank", 1, "higher"),
    "isoscore": Measure("IsoScore", "IsoScore", 3, "higher"),
}
"""Of vectors: `sentpool.evaluation.space_geometry`."""

LAYER = {
    "prompt_entropy": Measure("prompt entropy, nats", "prompt entropy", 3, "higher"),
    "prompt_entropy_scaled": Measure("prompt entropy / log min(T, H)", "/ max", 3, "higher"),
    "dataset_entropy": Measure("dataset entropy, nats", "dataset entropy", 3, "higher"),
    "dataset_entropy_scaled": Measure("dataset entropy / log min(n, H)", "/ max", 3, "higher"),
    "curvature": Measure("curvature, radians", "curvature", 3, "lower"),
    "infonce": Measure("InfoNCE of dropout views", "InfoNCE", 3, "lower"),
    "lidar": Measure("LiDAR of dropout views, nats", "LiDAR", 3, "higher"),
}
"""Of a layer's token states: `sentpool.evaluation.layer_measures`."""

MEASURES = SPACE | LAYER
