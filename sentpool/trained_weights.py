"""Weights that training changed: they are in the core alone, in its panels, from which they come back exactly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sentpool import _core
from sentpool.digests import sha256


def trained_tensors(core) -> dict[str, np.ndarray]:
    """Every tensor of the encoder as it is now, float32, by the core's name.

    Parameters
    ----------
    core
        A finished `sentpool._core.Model`.
    """
    training, slices = _opened(core)
    return {name: training.masters[start:stop].reshape(shape) for name, (start, stop, shape) in slices.items()}


def put_tensors(core, tensors: Mapping[str, np.ndarray]) -> None:
    """Give the encoder other weights, all of them.

    Raises
    ------
    ValueError
        Names or shapes are not the encoder's.
    """
    training, slices = _opened(core)
    shapes = {name: shape for name, (_, _, shape) in slices.items()}
    if shapes != {name: array.shape for name, array in tensors.items()}:
        raise ValueError("the tensors are not those of this encoder")
    for name, (start, stop, _) in slices.items():
        training.masters[start:stop] = tensors[name].ravel()
    training.update()


def training_record(record: dict | None, core) -> dict:
    """What a provenance says of training: what was noted, and the SHA-256 of the weights as they are; or nothing."""
    return {} if record is None else {"trained": record | {"weights_sha256": digest(trained_tensors(core))}}


def digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the names, shapes and numbers of tensors."""
    whole = sha256()
    for name in sorted(tensors):
        whole.update(f"{name} {tensors[name].shape}\n".encode())
        whole.update(np.ascontiguousarray(tensors[name], "<f4").data)
    return whole.hexdigest()


def _opened(core):
    training = _core.Training(core)
    return training, training.slices
