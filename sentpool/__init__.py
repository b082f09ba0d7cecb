"""Sentence embeddings from BERT encoders in C: the same sentence gives the same bits, on any CPU, in any batch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sentpool._version import __version__

if TYPE_CHECKING:
    from sentpool import evaluation, objectives, plotting, pooling, recipes, search, training
    from sentpool.config_report import show_config
    from sentpool.embedding_precision import quantize_embeddings
    from sentpool.encoder import EncodeInfo, SentenceEncoder
    from sentpool.errors import ModelFolderError, SentpoolWarning
    from sentpool.layer_states import LayerStates
    from sentpool.pooling import Pooling
    from sentpool.threads import get_num_threads, set_num_threads
    from sentpool.training import Trainer

__all__ = [
    "EncodeInfo",
    "LayerStates",
    "ModelFolderError",
    "Pooling",
    "SentenceEncoder",
    "SentpoolWarning",
    "Trainer",
    "__version__",
    "evaluation",
    "get_num_threads",
    "objectives",
    "plotting",
    "pooling",
    "quantize_embeddings",
    "recipes",
    "search",
    "set_num_threads",
    "show_config",
    "training",
]

_MODULES = ("_core", "evaluation", "objectives", "plotting", "pooling", "recipes", "search", "training")

# Loaded at the first use: the command line, whose modules are in this package too, can then say in one line why the
# core does not load, and answer `--version` without it.
_HOMES = {
    "EncodeInfo": "sentpool.encoder",
    "LayerStates": "sentpool.layer_states",
    "ModelFolderError": "sentpool.errors",
    "Pooling": "sentpool.pooling",
    "SentenceEncoder": "sentpool.encoder",
    "SentpoolWarning": "sentpool.errors",
    "Trainer": "sentpool.training",
    "get_num_threads": "sentpool.threads",
    "quantize_embeddings": "sentpool.embedding_precision",
    "set_num_threads": "sentpool.threads",
    "show_config": "sentpool.config_report",
}


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
