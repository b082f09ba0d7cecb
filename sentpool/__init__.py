"""Sentence embeddings from BERT encoders in C: the same sentence gives the same bits, on any CPU, in any batch."""

from sentpool import evaluation
from sentpool._version import __version__
from sentpool.config_report import show_config
from sentpool.encoder import EncodeInfo, LayerStates, SentenceEncoder
from sentpool.errors import ModelFolderError, SentpoolWarning
from sentpool.pooling import Pooling
from sentpool.threads import get_num_threads, set_num_threads

__all__ = [
    "EncodeInfo",
    "LayerStates",
    "ModelFolderError",
    "Pooling",
    "SentenceEncoder",
    "SentpoolWarning",
    "__version__",
    "evaluation",
    "get_num_threads",
    "set_num_threads",
    "show_config",
]
