"""Poolings: tokens to one vector per layer, layers to one vector, then a head. Small objects that compose.

>>> from sentpool import pooling
>>> pooling.Pooling(pooling.Layers([1, -1], tokens="cls"), head=(pooling.Normalize(),))
Pooling(Layers(indices=[1, -1], tokens=['cls']), head=(Normalize(),))
"""

from sentpool.pooling.attention import LayerAttention, SbertWk
from sentpool.pooling.composition import Pooling
from sentpool.pooling.fresh import initial
from sentpool.pooling.head import Dense, Normalize, Truncate
from sentpool.pooling.layers import TOKEN_POOLINGS, LayerPooling, Layers, ScalarMix, WeightedLayer
from sentpool.pooling.names import NAMES
from sentpool.pooling.postprocessing import AllButTheTop, Whitening
from sentpool.pooling.saved import from_config

__all__ = [
    "NAMES",
    "TOKEN_POOLINGS",
    "AllButTheTop",
    "Dense",
    "LayerAttention",
    "LayerPooling",
    "Layers",
    "Normalize",
    "Pooling",
    "SbertWk",
    "ScalarMix",
    "Truncate",
    "WeightedLayer",
    "Whitening",
    "from_config",
    "initial",
]
