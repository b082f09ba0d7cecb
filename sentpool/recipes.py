"""Published ways to train: which objective, how long, how fast, with which pooling."""

from __future__ import annotations

from dataclasses import dataclass

from sentpool.errors import shown, warn
from sentpool.objectives import InfoNCE
from sentpool.pooling import Pooling
from sentpool.pooling.names import is_called


@dataclass(frozen=True)
class Recipe:
    """What a paper trained with.

    All of them use AdamW without weight decay, a learning rate that falls linearly to 0 without warm-up, gradients
    clipped to norm 1, and choose the model with the best Spearman correlation on STS-B's development pairs.

    Attributes
    ----------
    name : str
    objective : InfoNCE
    pooling : str
        The pooling that it was published with; training with another one is possible.
    columns : int
        1 where it takes texts, 3 where it takes triplets with a hard negative.
    learning_rate : float
    epochs : int
    batch_size : int
        Samples of a step, over all processes of the original together.
    max_length : int
        Tokens of a text.
    eval_steps : int
        Steps between evaluations.
    mlm_weight : float
        The weight of the auxiliary loss of masked language modelling; 0 where there is none.
    source : str
        Where the numbers are from.
    """

    name: str
    objective: InfoNCE
    pooling: str
    columns: int
    learning_rate: float
    epochs: int
    batch_size: int
    max_length: int
    eval_steps: int
    mlm_weight: float
    source: str

    def warn_of_pooling(self, pooling: Pooling) -> None:
        """Warn of a pooling that is not the recipe's."""
        if not is_called(pooling, self.pooling):
            warn(
                f"{self.name} was published with the pooling {self.pooling!r}, and the model has {pooling!r}, which "
                f"stays: pooling={self.pooling!r} trains as published"
            )

    def warn_of_data(self, columns: int) -> None:
        """Warn of items of so many sentences that are not what the recipe takes."""
        if columns != self.columns:
            warn(
                f"{self.name} was published with {_ITEMS[self.columns]}, and the data are {_ITEMS[columns]}, which it "
                f"trains on as they are: if that is meant, an objective of sentpool.objectives says so"
            )


_ITEMS = {1: "texts, each its own positive", 2: "pairs, without hard negatives", 3: "triplets with a hard negative"}
_SIMCSE = "princeton-nlp/SimCSE, run_{}_example.sh; Gao et al. 2021, appendix A"
_OH = "nlpods/LayerAttPooler, README and cl/arguments.py; Oh et al. 2022"

_RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="simcse-unsup",
            objective=InfoNCE(temperature=0.05),
            pooling="cls_mlp_train_only",
            columns=1,
            learning_rate=3e-5,
            epochs=1,
            batch_size=64,
            max_length=32,
            eval_steps=125,
            mlm_weight=0.0,
            source=_SIMCSE.format("unsup"),
        ),
        Recipe(
            name="simcse-sup",
            objective=InfoNCE(temperature=0.05, hard_negative_alpha=1.0),
            pooling="cls_mlp",
            columns=3,
            learning_rate=5e-5,
            epochs=3,
            batch_size=512,
            max_length=32,
            eval_steps=125,
            mlm_weight=0.0,
            source=_SIMCSE.format("sup"),
        ),
        # No code of the unsupervised variant is public: this is SimCSE's recipe with the attention over layers.
        Recipe(
            name="oh2022-unsup",
            objective=InfoNCE(temperature=0.05),
            pooling="layer_attention",
            columns=1,
            learning_rate=3e-5,
            epochs=1,
            batch_size=64,
            max_length=32,
            eval_steps=125,
            mlm_weight=0.0,
            source=f"simcse-unsup with the pooling of {_OH}",
        ),
        # The code adds hard_negative_weight, 1.0 unless given, to the own hard negative's logit.
        Recipe(
            name="oh2022-sup",
            objective=InfoNCE(temperature=0.05, hard_negative_weight=1.0),
            pooling="layer_attention",
            columns=3,
            learning_rate=2e-5,
            epochs=3,
            batch_size=256,
            max_length=64,
            eval_steps=100,
            mlm_weight=0.0,
            source=_OH,
        ),
    )
}

NAMES = tuple(_RECIPES)


def from_name(name: str) -> Recipe:
    """The recipe of a name: `simcse-unsup`, `simcse-sup`, `oh2022-unsup` or `oh2022-sup`.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in _RECIPES:
        raise ValueError(f"objective is {shown(name)}; it must be one of {', '.join(NAMES)}, or an objective")
    return _RECIPES[name]


__all__ = ["NAMES", "Recipe", "from_name"]
