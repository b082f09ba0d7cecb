"""The published numbers, and what is said where the pooling is another one."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from sentpool import recipes
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
        assert recipe.warn_of_pooling(poolings[recipe.pooling]) is None
        others = [pooling for called, pooling in poolings.items() if called != recipe.pooling]
        for pooling in (Pooling("mean"), Pooling("cls"), *others):
            said = recipe.warn_of_pooling(pooling)
            assert name in said and f"pooling={recipe.pooling!r}" in said
