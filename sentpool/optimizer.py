"""AdamW over several stores of parameters: which of them are trained, which decay, how far a step goes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sentpool import _core
from sentpool.checks import one_of, positive_number
from sentpool.errors import shown
from sentpool.parameter_store import ParameterStore
from sentpool.threads import resolve

_BLOCK = 1 << 16  # parameters that a thread takes at a time; the order of the norm's sum depends on it
_UNDECAYED = re.compile("bias|norm", re.IGNORECASE)
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
SCHEDULES = ("linear", "constant")


@dataclass(frozen=True)
class ParameterRules:
    """Which parameters of a store are trained.

    Attributes
    ----------
    freeze_embeddings
        Leave the tensors named `embeddings.*` as they are, and the projection to the hidden size.
    freeze_layers
        Leave so many of the lowest layers as they are, and the embeddings too.
    frozen
        Leave all as they are: so the encoder's, where only a head is trained.
    """

    freeze_embeddings: bool = False
    freeze_layers: int = 0
    frozen: bool = False

    def __post_init__(self) -> None:
        one_of("freeze_embeddings", self.freeze_embeddings, (False, True))
        one_of("frozen", self.frozen, (False, True))
        if isinstance(self.freeze_layers, bool) or not isinstance(self.freeze_layers, (int, np.integer)):
            raise TypeError(f"freeze_layers must be an integer, not {shown(self.freeze_layers)}")
        if self.freeze_layers < 0:
            raise ValueError(f"freeze_layers is {self.freeze_layers}; it must be a number of layers, 0 for none")

    def check(self, names) -> None:
        """Raise ValueError unless tensors of these names have as many layers as shall be frozen."""
        layers = {int(found[1]) for found in map(_LAYER.search, names) if found}
        if self.freeze_layers > len(layers):
            raise ValueError(
                f"freeze_layers is {self.freeze_layers}; the model has {len(layers)} layers with weights of their own"
            )

    def trains(self, name: str) -> bool:
        """Whether the tensor of this name is trained."""
        if self.frozen:
            return False
        if name.startswith(("embeddings.", "embeddings_project.")):
            return not (self.freeze_embeddings or self.freeze_layers)
        layer = _LAYER.search(name)
        return layer is None or int(layer[1]) >= self.freeze_layers

    def decays(self, name: str) -> bool:
        """Whether weight decay applies: not to biases and normalisations, as in BERT."""
        return not _UNDECAYED.search(name)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019) and clipping of the gradients' global norm.

    A step: ``m += (1 - b1) (g - m)``, ``v = b2 v + (1 - b2) g^2``,
    ``p = (1 - lr decay) p - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)``, where g are the gradients times
    ``min(1, max_grad_norm / (norm + 1e-6))``, as torch has it. Powers of b1 and b2 are repeated products, so the step
    has the same bits on every machine.

    Parameters
    ----------
    groups
        By name: a `ParameterStore` and its `ParameterRules`. Their order is that of the norm's sum.
    betas, eps
        The constants b1, b2 and eps.
    weight_decay
        The decay of tensors that decay, not below 0.
    max_grad_norm
        The largest norm of all trained gradients together; None: any.
    threads
        How many threads to use; None means `get_num_threads()`. The bits do not depend on it.

    Attributes
    ----------
    step_count : int
        Steps taken so far.

    Raises
    ------
    TypeError, ValueError
        If a value is not as said, or nothing would be trained.
    """

    def __init__(
        self,
        groups: Mapping[str, tuple[ParameterStore, ParameterRules]],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = 1.0,
        threads: int | None = None,
    ) -> None:
        for beta in betas:
            if not 0 <= beta < 1:
                raise ValueError(f"betas is {shown(betas)}; both must be from 0 to below 1")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay is {shown(weight_decay)}; it must be a number not below 0")
        self._betas, self._eps, self._weight_decay = tuple(betas), positive_number("eps", eps), float(weight_decay)
        self._max_norm = None if max_grad_norm is None else positive_number("max_grad_norm", max_grad_norm)
        self._threads = resolve(threads)
        self._groups = {name: _Group(store, rules) for name, (store, rules) in groups.items()}
        if not any(len(group.blocks) for group in self._groups.values()):
            raise ValueError("nothing is trained: every parameter is frozen")
        self._restart()

    def step(self, learning_rate: float) -> float:
        """Take one step, unless the norm of the gradients is not finite; the gradients stay.

        Returns
        -------
        float
            The norm before clipping, of all trained parameters' gradients. Where it is NaN or infinite, no parameter,
            moment or counter has changed.
        """
        norm = self.gradient_norm()
        if not math.isfinite(norm):
            return norm
        self._count()
        first, second = self._betas
        clip = 1.0 if self._max_norm is None else min(1.0, self._max_norm / (norm + 1e-6))
        constants = (
            clip,
            1 - first,
            second,
            1 - second,
            math.sqrt(1 - self._powers[1]),
            learning_rate / (1 - self._powers[0]),
            1 - learning_rate * self._weight_decay,
            self._eps,
        )
        for group in self._groups.values():
            store = group.store
            _core.adamw(
                store.masters, group.first, group.second, store.gradients, group.blocks, constants, self._threads
            )
        return norm

    def gradient_norm(self) -> float:
        """The norm of all trained parameters' gradients, summed in float64 in one order."""
        total = 0.0
        for group in self._groups.values():
            total += _core.gradient_squares(group.store.gradients, group.blocks, self._threads)
        return math.sqrt(total)

    def moments(self) -> dict[str, np.ndarray]:
        """The first and second moments of each group's trained parameters, as `<group>.first` and `<group>.second`.

        They are views: a step changes them.
        """
        return {
            f"{name}.{moment}": getattr(group, moment)
            for name, group in self._groups.items()
            for moment in ("first", "second")
        }

    def restore(self, step_count: int, moments: Mapping[str, np.ndarray]) -> None:
        """Go on from what `step_count` and `moments` were.

        Raises
        ------
        ValueError
            If the moments are not those of the same groups and rules; nothing has changed then.
        """
        own = self.moments()
        shapes = {name: np.shape(array) for name, array in moments.items()}
        expected = {name: array.shape for name, array in own.items()}
        if shapes != expected:
            raise ValueError(f"moments have shapes {shown(shapes)}; these parameters have {shown(expected)}")
        self._restart()
        for _ in range(step_count):
            self._count()
        for name, array in own.items():
            array[...] = moments[name]

    def _restart(self) -> None:
        self.step_count = 0
        self._powers = (1.0, 1.0)

    def _count(self) -> None:
        self.step_count += 1
        self._powers = (self._powers[0] * self._betas[0], self._powers[1] * self._betas[1])


class _Group:
    """A store, the blocks of it that are trained, and their moments without what is frozen."""

    def __init__(self, store: ParameterStore, rules: ParameterRules) -> None:
        rules.check(store.slices)
        blocks, moments = [], 0
        for name, (start, stop, _) in store.slices.items():
            if rules.trains(name):
                for first in range(start, stop, _BLOCK):
                    last = min(first + _BLOCK, stop)
                    blocks.append((first, last, moments, rules.decays(name)))
                    moments += last - first
        self.store = store
        self.blocks = np.array(blocks, np.int64).reshape(-1, 4)
        self.first, self.second = np.zeros(moments, np.float32), np.zeros(moments, np.float32)


def learning_rate_at(
    step: int, *, learning_rate: float, total_steps: int, warmup_steps: int = 0, schedule: str = "linear"
) -> float:
    """The learning rate of a step, as transformers' schedules have it.

    Parameters
    ----------
    step
        Steps taken before, from 0 on.
    learning_rate
        The highest one.
    total_steps
        With schedule `linear`, the step at which the rate would reach 0.
    warmup_steps
        Steps in which the rate rises from 0.
    schedule
        `linear` or `constant`: what follows.
    """
    one_of("schedule", schedule, SCHEDULES)
    if step < warmup_steps:
        return learning_rate * (step / warmup_steps)
    if schedule == "constant":
        return learning_rate
    return learning_rate * max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


__all__ = ["SCHEDULES", "AdamW", "ParameterRules", "learning_rate_at"]
