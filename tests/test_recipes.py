"""The published numbers, and what is said where pooling or data are others."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from fabricate import bert_folder

from sentpool import SentenceEncoder, SentpoolWarning, Trainer, objectives, recipes
from sentpool.pooling import Dense, LayerAttention, Pooling

# learning rate, epochs, batch, length, alpha: SimCSE's run_unsup_example.sh and run_sup_example.sh (4 processes of 128)
# and the README of LayerAttPooler (4 processes of 64, hard_negative_weight 1.0).
PUBLISHED = {
    "simcse-unsup": (3e-5, 1, 64, 32, 1),
    "simcse-sup": (5e-5, 3, 512, 32, 1),
    "oh2022-unsup": (3e-5, 1, 64, 32, 1),
    "oh2022-sup": (2e-5, 3, 256, 64, math.e),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name):
    recipe = recipes.from_name(name)
    numbers = (recipe.learning_rate, recipe.epochs, recipe.batch_size, recipe.max_length)
    assert (*numbers, recipe.objective.hard_negative_alpha) == PUBLISHED[name]
    assert recipe.objective.temperature == 0.05 and not recipe.objective.symmetric
    assert recipe.objective.roles(recipe.columns) == ((0, 0) if "unsup" in name else (0, 1, 2))


def test_they_are_there_without_an_import_of_their_own():
    code = "import sentpool; sentpool.objectives.InfoNCE(), sentpool.recipes.NAMES; sentpool.training"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names():
    with pytest.raises(ValueError, match="objective is 'simcse'; it must be one of simcse-unsup, simcse-sup"):
        recipes.from_name("simcse")


def test_another_pooling_is_said():
    square, wide = np.eye(4, dtype=np.float32), np.ones((4, 8), np.float32)
    poolings = {
        "cls_mlp": Pooling("cls", head=(Dense(square, square[0], "tanh"),)),
        "cls_mlp_train_only": Pooling("cls", head=(Dense(square, square[0], "tanh", train_only=True),)),
        "layer_attention": Pooling(LayerAttention(square, square, square), head=(Dense(wide, square[0], "tanh"),)),
    }
    for name in recipes.NAMES:
        recipe = recipes.from_name(name)
        recipe.warn_of_pooling(poolings[recipe.pooling])  # any warning would be an error
        others = [pooling for called, pooling in poolings.items() if called != recipe.pooling]
        for pooling in (Pooling("mean"), Pooling("cls"), *others):
            with pytest.warns(SentpoolWarning, match=f"{name} .* pooling={recipe.pooling!r} trains as published"):
                recipe.warn_of_pooling(pooling)


ITEMS = {
    1: ["the cat sat", "a dog runs"],
    2: [("a cat", "the cat"), ("a dog", "the dog")],
    3: [("a cat", "the cat", "no cat"), ("a dog", "the dog", "no dog")],
}


@pytest.mark.parametrize("columns", ITEMS)
@pytest.mark.parametrize("name", recipes.NAMES)
def test_other_data_are_said_once(tmp_path, name, columns):
    recipe = recipes.from_name(name)
    model = SentenceEncoder(bert_folder(tmp_path / "m"))
    for head_only in (False, True):
        trainer = Trainer(
            model, name, pooling=recipe.pooling, max_steps=1, batch_size=2, head_only=head_only, max_length=8
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(ITEMS[columns])
        said = [str(warning.message) for warning in caught]
        if columns == recipe.columns:
            assert said == []
        else:
            assert len(said) == 1 and name in said[0]
            assert ("triplets" in said[0]) == (3 in (columns, recipe.columns))
            assert ("pairs" in said[0]) == (columns == 2)


def test_an_objective_says_nothing_of_data(tmp_path):
    """Nor does a recipe of layer states: pairs of them may be those of texts under two dropouts."""
    model = SentenceEncoder(bert_folder(tmp_path / "m"), pooling="mean")
    for items in ITEMS.values():
        Trainer(model, objectives.InfoNCE(), max_steps=1, batch_size=2).fit(items)
    views = tuple(model.layer_states(ITEMS[1], dropout_seed=k) for k in range(2))
    trainer = Trainer(model, "oh2022-unsup", pooling="layer_attention", head_only=True, max_steps=1, batch_size=2)
    trainer.fit(views)
