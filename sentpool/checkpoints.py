"""Plain folders that training code left: a pooling's trained tensors lie beside the encoder's, in the same files.

SimCSE (Gao et al. 2021) keeps a dense layer for [CLS], the attention over layers of Oh et al. 2022 its three matrices
and a dense layer. Neither writes into `config.json` which pooling it was; the tensors tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError
from sentpool.fields import Fields
from sentpool.pooling import Dense, LayerAttention, Pooling
from sentpool.tensor_file import StoredTensor
from sentpool.weights import finite_arrays, stored_tensors

_ATTENTION = {part: f"attn.{part}.0.weight" for part in ("query", "key", "value")}
_MLP = ("mlp.dense.weight", "mlp.dense.bias")


@dataclass(frozen=True)
class TrainedPoolings:
    """What a plain folder says about the pooling.

    Attributes
    ----------
    default
        The pooling that the folder was trained for; `mean` where nothing tells.
    by_name
        Poolings whose parameters the folder holds.
    tensors
        The stored names of those parameters.
    notice
        What somebody who did not choose a pooling should know.
    """

    default: Pooling = Pooling("mean")
    by_name: Mapping[str, Pooling] = field(default_factory=dict)
    tensors: frozenset[str] = frozenset()
    notice: str | None = None


def read_trained(folder: Path, config: EncoderConfig) -> TrainedPoolings:
    """Read the pooling that a plain folder was trained with.

    Raises
    ------
    ModelFolderError
        If an attention over layers is not whole or does not fit the encoder, or a parameter is not finite.
    """
    stored = stored_tensors(folder)
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    hidden = config.hidden_size
    if any(name in shapes for name in _ATTENTION.values()):
        return _layer_attention(folder, stored, hidden)
    if [shapes.get(name) for name in _MLP] == [(hidden, hidden), (hidden,)]:
        return _simcse(folder, stored)
    return TrainedPoolings()


def _layer_attention(folder: Path, stored: Mapping[str, StoredTensor], hidden: int) -> TrainedPoolings:
    """The attention over layers; its dense layer is applied in training and afterwards."""
    shapes = dict.fromkeys(_ATTENTION.values(), (hidden, hidden))
    shapes |= dict(zip(_MLP, ((hidden, 2 * hidden), (hidden,)), strict=True))
    for name, shape in shapes.items():
        if name not in stored:
            raise ModelFolderError(f"{folder}: tensor {name!r} is missing, which belongs to an attention over layers")
        if stored[name].shape != shape:
            raise ModelFolderError(
                f"{stored[name].path}: tensor {name!r} has shape {stored[name].shape}; an attention over layers with "
                f"hidden_size {hidden} has {shape}"
            )
    arrays = _arrays(stored, shapes)
    layers = LayerAttention(**{part: arrays[name] for part, name in _ATTENTION.items()})
    pooling = Pooling(layers, head=(_mlp(arrays),))
    return TrainedPoolings(pooling, {"layer_attention": pooling}, frozenset(shapes))


def _simcse(folder: Path, stored: Mapping[str, StoredTensor]) -> TrainedPoolings:
    """[CLS], with SimCSE's dense layer where it was not for training only."""
    plain = Pooling("cls")
    with_mlp = plain.then(_mlp(_arrays(stored, _MLP)))
    fields = Fields.read(folder / "config.json")
    by_name, tensors = {"cls_mlp": with_mlp}, frozenset(_MLP)
    if not fields.has("mlp_only_train"):
        return TrainedPoolings(
            with_mlp,
            by_name,
            tensors,
            f"{folder}: the MLP of SimCSE (mlp.dense) is applied, as after supervised training; whether it was for "
            f"training only, as in unsupervised SimCSE, would be said by mlp_only_train in config.json, which is not "
            f"there: pooling='cls' leaves it out, pooling='cls_mlp' applies it without this warning",
        )
    if not fields.boolean("mlp_only_train"):
        return TrainedPoolings(with_mlp, by_name, tensors)
    return TrainedPoolings(
        plain,
        by_name,
        tensors,
        f"{folder}: the MLP of SimCSE (mlp.dense) is left out, for config.json says mlp_only_train: pooling='cls_mlp' "
        f"applies it, pooling='cls' leaves it out without this warning",
    )


def _arrays(stored: Mapping[str, StoredTensor], names) -> dict[str, np.ndarray]:
    return finite_arrays({name: stored[name] for name in names})


def _mlp(arrays: Mapping[str, np.ndarray]) -> Dense:
    return Dense(*(arrays[name] for name in _MLP), "tanh")
