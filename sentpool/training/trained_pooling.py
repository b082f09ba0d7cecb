"""A pooling while it is trained: its parameters and their gradients as the optimiser has them."""

from __future__ import annotations

from sentpool.parameter_store import ParameterStore
from sentpool.pooling import Pooling


class TrainedPooling:
    """A pooling and the store of its parameters.

    Attributes
    ----------
    pooling : Pooling
        With the parameters of the last `update`.
    store : ParameterStore
    """

    def __init__(self, pooling: Pooling) -> None:
        self.pooling = pooling
        self.store = ParameterStore.of(pooling.trainable_parameters())

    def update(self) -> None:
        """Give the pooling the parameters that the store holds."""
        if self.store.slices:
            self.pooling = self.pooling.with_parameters(self.store.parameters())
