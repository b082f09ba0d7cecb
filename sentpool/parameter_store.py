"""Parameters and their gradients in two flat buffers, tensor after tensor: what an optimiser walks through."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


class ParameterStore:
    """Float32 parameters and their gradients.

    Parameters
    ----------
    masters, gradients
        float32 (n,), writable and without gaps; kept, not copied.
    slices
        By name: (start, stop, shape) of each tensor in both.

    Raises
    ------
    ValueError
        If the buffers or a slice do not fit.
    """

    def __init__(
        self, masters: np.ndarray, gradients: np.ndarray, slices: Mapping[str, tuple[int, int, tuple[int, ...]]]
    ) -> None:
        if masters.ndim != 1 or masters.shape != gradients.shape:
            raise ValueError(
                f"masters has shape {masters.shape} and gradients {gradients.shape}; both must have the same, (n,)"
            )
        for name, (start, stop, shape) in slices.items():
            if not 0 <= start <= stop <= len(masters) or stop - start != math.prod(shape):
                raise ValueError(
                    f"slices[{name!r}] is {start, stop, shape}, which does not fit into {len(masters)} values"
                )
        self.masters, self.gradients, self.slices = masters, gradients, dict(slices)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> ParameterStore:
        """A store of copies of the arrays, with gradients of zero."""
        slices, end = {}, 0
        for name, array in arrays.items():
            slices[name] = (end, end + array.size, array.shape)
            end += array.size
        store = cls(np.empty(end, np.float32), np.zeros(end, np.float32), slices)
        for name, array in arrays.items():
            store.parameter(name)[...] = array
        return store

    def parameter(self, name: str) -> np.ndarray:
        """A view of one tensor."""
        return self._view(self.masters, name)

    def gradient(self, name: str) -> np.ndarray:
        """A view of one tensor's gradient."""
        return self._view(self.gradients, name)

    def parameters(self) -> dict[str, np.ndarray]:
        """Views of all tensors by name."""
        return {name: self.parameter(name) for name in self.slices}

    def add_gradients(self, gradients: Mapping[str, np.ndarray]) -> None:
        """Add to the gradients of the named tensors."""
        for name, gradient in gradients.items():
            view = self.gradient(name)
            np.add(view, gradient, out=view)

    def clear_gradients(self) -> None:
        """Set all gradients to zero."""
        self.gradients.fill(0)

    def _view(self, buffer: np.ndarray, name: str) -> np.ndarray:
        start, stop, shape = self.slices[name]
        return buffer[start:stop].reshape(shape)


__all__ = ["ParameterStore"]
